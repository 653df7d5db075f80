"""Assignment on the CPU, in C++: the solver works on the shorter side's rows, and columns that take several of them."""

import torch


def linear_assignment(
    cost: torch.Tensor, *, maximize: bool = False, return_duals: bool = False
) -> tuple[torch.Tensor, ...]:
    """See :func:`salcr.ops.linear_assignment`."""
    batch = cost if cost.ndim == 3 else cost[None]
    num_rows, num_cols = cost.shape[-2:]
    flipped = num_rows > num_cols or (num_rows == num_cols and cost.stride(-1) != 1)
    partners, *duals = _solve(batch.mT if flipped else batch, capacity=1, maximize=maximize)
    if flipped:
        rows, cols = partners.sort(dim=1)
        duals.reverse()
    else:
        rows, cols = torch.arange(num_rows).expand_as(partners).clone(), partners
    results = (rows, cols, *duals) if return_duals else (rows, cols)
    return results if cost.ndim == 3 else tuple(x[0] for x in results)


def bidirectional_assignment(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.bidirectional_assignment`."""
    row_to_col = _assign_rows(cost)
    if cost.shape[0] == cost.shape[1]:
        return row_to_col, row_to_col.argsort()
    return row_to_col, _assign_rows(cost.mT)


def _assign_rows(cost: torch.Tensor) -> torch.Tensor:
    num_rows, num_cols = cost.shape
    return _solve(cost[None], capacity=-(-num_rows // num_cols))[0][0]


def _solve(
    cost: torch.Tensor, *, capacity: int, maximize: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The column of each row of ``[B, R, C]`` and both sides' duals. Contiguous rows are read in place."""
    from salcr import _C

    if cost.stride(2) != 1:
        cost = cost.contiguous()
    problems, num_rows, num_cols = cost.shape
    partners = torch.empty(problems, num_rows, dtype=torch.int64)
    duals = tuple(torch.empty(problems, length, dtype=torch.float64) for length in (num_rows, num_cols))
    outputs = (x.numpy() for x in (partners, *duals))
    if not _C.solve_assignment(cost.numpy(), maximize, capacity, *outputs, torch.get_num_threads()):
        raise ValueError("cost matrix is infeasible")
    return partners, *(-x if maximize else x for x in duals)
