"""Minimum-cost assignment of rows to columns, and of both sides to each other, by SciPy."""

import numpy as np
import torch


def linear_assignment(
    cost: torch.Tensor, *, maximize: bool = False, return_duals: bool = False
) -> tuple[torch.Tensor, ...]:
    """``scipy.optimize.linear_sum_assignment`` of a matrix or a batch; see :func:`salcr.ops.linear_assignment`."""
    from scipy.optimize import linear_sum_assignment

    if cost.ndim == 3:
        problems = [linear_assignment(problem, maximize=maximize, return_duals=return_duals) for problem in cost]
        return tuple(torch.stack(parts) for parts in zip(*problems, strict=True))
    table = cost.double().cpu().numpy()
    results = linear_sum_assignment(table, maximize)
    if return_duals:
        sign = -1 if maximize else 1
        results += tuple(sign * duals for duals in _duals(sign * table, *results))
    return tuple(torch.from_numpy(x).to(cost.device) for x in results)


def _duals(cost: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The duals of an optimal assignment: the column's is the length of the shortest alternating path to it.

    Giving row i column j instead of its own costs ``cost[i, j] - cost[i, own]``: the length of an edge from its own
    column to j. A path may start at any column. Bellman and Ford's iteration; optimality excludes negative cycles.
    """
    if cost.shape[0] > cost.shape[1]:
        order = cols.argsort()
        col_duals, row_duals = _duals(cost.T, cols[order], rows[order])
        return row_duals, col_duals
    own = cost[rows, cols]
    lengths = cost - own[:, None]
    col_duals = np.zeros(cost.shape[1])
    for _ in cols:
        shorter = np.minimum(col_duals, (col_duals[cols, None] + lengths).min(axis=0))
        if np.array_equal(shorter, col_duals):
            break
        col_duals = shorter
    if len(rows) < cost.shape[1]:
        col_duals[np.setdiff1d(np.arange(cost.shape[1]), cols)] = 0.0  # but for rounding they are
    return own - col_duals[cols], col_duals


def bidirectional_assignment(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A partner for every row and every column; see :func:`salcr.ops.bidirectional_assignment`."""
    row_to_col = _assign_rows(cost)
    if cost.shape[0] == cost.shape[1]:
        return row_to_col, row_to_col.argsort()
    return row_to_col, _assign_rows(cost.mT)


def progressive_matching(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round after round of matching what is left; see :func:`salcr.ops.progressive_matching`."""
    if cost.shape[0] < cost.shape[1]:
        return progressive_matching(cost.mT)[::-1]
    row_to_col, rounds = torch.empty(len(cost), dtype=torch.int64, device=cost.device), []
    left = torch.arange(len(cost), device=cost.device)
    while len(left):
        rows, cols = linear_assignment(cost[left])
        row_to_col[left[rows]] = cols
        rounds.append(rows[cols.argsort()])
        left = left[torch.isin(torch.arange(len(left), device=cost.device), rows, invert=True)]
    return row_to_col, rounds[0]


def _assign_rows(cost: torch.Tensor) -> torch.Tensor:
    """The column of each row, where all columns are there as often as it takes to have one for every row."""
    num_rows, num_cols = cost.shape
    _, cols = linear_assignment(cost.repeat(1, -(-num_rows // num_cols)))
    return cols % num_cols
