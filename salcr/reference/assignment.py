"""Minimum-cost assignment of rows to columns, and of both sides to each other (SPEC 4), by SciPy."""

import torch


def linear_assignment(cost: torch.Tensor, *, maximize: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """``scipy.optimize.linear_sum_assignment`` of a matrix or a batch; see :func:`salcr.ops.linear_assignment`."""
    from scipy.optimize import linear_sum_assignment

    if cost.ndim == 3:
        rows, cols = zip(*(linear_assignment(problem, maximize=maximize) for problem in cost), strict=True)
        return torch.stack(rows), torch.stack(cols)
    rows, cols = linear_sum_assignment(cost.double().cpu().numpy(), maximize)
    return torch.from_numpy(rows).to(cost.device), torch.from_numpy(cols).to(cost.device)


def bidirectional_assignment(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A partner for every row and every column; see :func:`salcr.ops.bidirectional_assignment`."""
    row_to_col = _assign_rows(cost)
    if cost.shape[0] == cost.shape[1]:
        return row_to_col, row_to_col.argsort()
    return row_to_col, _assign_rows(cost.mT)


def _assign_rows(cost: torch.Tensor) -> torch.Tensor:
    """The column of each row, where all columns are there as often as it takes to have one for every row."""
    num_rows, num_cols = cost.shape
    _, cols = linear_assignment(cost.repeat(1, -(-num_rows // num_cols)))
    return cols % num_cols
