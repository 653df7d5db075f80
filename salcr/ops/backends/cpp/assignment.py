"""Assignment on the CPU, in C++: columns may take several rows."""

import torch

from salcr.ops.backends._assignment import assignment_operators


def solve(cost: torch.Tensor, *, capacity: int, maximize: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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


linear_assignment, bidirectional_assignment = assignment_operators(solve)
