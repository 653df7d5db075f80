"""The operators of :mod:`salcr.ops.assignment` over a solver."""

from collections.abc import Callable

import torch


def assignment_operators(solve: Callable) -> tuple[Callable, Callable]:
    """``linear_assignment`` and ``bidirectional_assignment`` by the given solver.

    Args:
        solve: ``(cost [B, R, C], *, capacity, maximize) -> (columns [B, R], row_duals [B, R], col_duals [B, C])`` for
            ``R <= C * capacity``: the column of every row, no column of more than ``capacity`` rows. Matching both
            ways needs no duals.
    """

    def linear_assignment(
        cost: torch.Tensor, *, maximize: bool = False, return_duals: bool = False
    ) -> tuple[torch.Tensor, ...]:
        batch = cost if cost.ndim == 3 else cost[None]
        num_rows, num_cols = cost.shape[-2:]
        flipped = num_rows > num_cols or (num_rows == num_cols and cost.stride(-1) != 1)
        partners, *duals = solve(batch.mT if flipped else batch, capacity=1, maximize=maximize)
        if flipped:
            rows, cols = partners.sort(dim=1)
            duals.reverse()
        else:
            rows, cols = torch.arange(num_rows, device=cost.device).expand_as(partners).contiguous(), partners
        results = (rows, cols, *duals) if return_duals else (rows, cols)
        return results if cost.ndim == 3 else tuple(x[0] for x in results)

    def bidirectional_assignment(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        row_to_col = assign_rows(cost)
        if cost.shape[0] == cost.shape[1]:
            return row_to_col, row_to_col.argsort()
        return row_to_col, assign_rows(cost.mT)

    def assign_rows(cost: torch.Tensor) -> torch.Tensor:
        num_rows, num_cols = cost.shape
        return solve(cost[None], capacity=-(-num_rows // num_cols), maximize=False)[0][0]

    return linear_assignment, bidirectional_assignment
