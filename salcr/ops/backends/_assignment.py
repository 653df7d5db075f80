"""Assignment in both directions over a solver of one."""

from collections.abc import Callable

import torch


def assign_both_ways(solve: Callable, cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.bidirectional_assignment`.

    Args:
        solve: ``(cost [B, R, C], *, capacity, maximize) -> (columns [B, R], …)`` for ``R <= C * capacity``: the column
            of every row, no column of more than ``capacity`` rows.
    """

    def assign_rows(cost: torch.Tensor) -> torch.Tensor:
        num_rows, num_cols = cost.shape
        return solve(cost[None], capacity=-(-num_rows // num_cols), maximize=False)[0][0]

    row_to_col = assign_rows(cost)
    if cost.shape[0] == cost.shape[1]:
        return row_to_col, row_to_col.argsort()
    return row_to_col, assign_rows(cost.mT)
