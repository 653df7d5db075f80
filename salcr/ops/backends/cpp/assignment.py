"""Assignment on the CPU, in C++: columns may take several rows."""

import torch

from salcr.ops.backends._assignment import assignment_operators

INFEASIBLE = "cost matrix is infeasible"


def linear_assignment(
    cost: torch.Tensor, *, maximize: bool = False, return_duals: bool = False
) -> tuple[torch.Tensor, ...]:
    """Costs of any strides; they are read in place where the longer axis is contiguous, else from a turned copy."""
    from salcr import _C

    batch = cost if cost.ndim == 3 else cost[None]
    problems, num_rows, num_cols = batch.shape
    pairs = torch.empty((2, problems, min(num_rows, num_cols)), dtype=torch.int64)
    duals = [torch.empty((problems, length), dtype=torch.float64) for length in batch.shape[1:] if return_duals]
    row_duals, col_duals = (x.numpy() for x in duals) if return_duals else (None, None)
    if not _C.linear_assignment(batch.numpy(), maximize, pairs.numpy(), row_duals, col_duals, torch.get_num_threads()):
        raise ValueError(INFEASIBLE)
    results = (*pairs.unbind(), *(-x if maximize else x for x in duals))
    return results if cost.ndim == 3 else tuple(x[0] for x in results)


def solve(cost: torch.Tensor, *, capacity: int, maximize: bool) -> tuple[torch.Tensor]:
    """The column of each row of ``[B, M, N]``, no column of more than ``capacity`` rows."""
    from salcr import _C

    columns = torch.empty(cost.shape[:2], dtype=torch.int64)
    if not _C.solve_assignment(cost.numpy(), maximize, capacity, columns.numpy(), torch.get_num_threads()):
        raise ValueError(INFEASIBLE)
    return (columns,)


bidirectional_assignment = assignment_operators(solve)[1]
