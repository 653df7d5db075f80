"""Assignment on the CPU, in C++: columns may take several rows."""

from functools import cache, partial
from types import ModuleType

import torch

from salcr.ops.backends._assignment import assign_both_ways

INFEASIBLE = "cost matrix is infeasible"


def linear_assignment(
    cost: torch.Tensor, *, maximize: bool = False, return_duals: bool = False
) -> tuple[torch.Tensor, ...]:
    """Costs of any strides; they are read in place where the longer axis is contiguous, else from a turned copy."""
    found = extension().linear_assignment(cost.numpy(), maximize, return_duals, torch.get_num_threads())
    if found is None:
        raise ValueError(INFEASIBLE)
    return tuple(map(torch.from_numpy, found))


@cache
def extension() -> ModuleType | None:
    """``salcr._C``, or None where it is not built; kept, since an import statement takes as long as a small problem.

    Its ``linear_assignment(array, maximize, return_duals, threads)`` gives arrays, or None: where the costs are not
    float32 or float64, where one is NaN, and where no assignment avoids all forbidden pairs.
    """
    try:
        from salcr import _C
    except ImportError:
        return None
    return _C


def solve(cost: torch.Tensor, *, capacity: int, maximize: bool) -> tuple[torch.Tensor]:
    """The column of each row of ``[B, M, N]``, no column of more than ``capacity`` rows."""
    columns = torch.empty(cost.shape[:2], dtype=torch.int64, device=cost.device)
    if not extension().solve_assignment(cost.numpy(), maximize, capacity, columns.numpy(), torch.get_num_threads()):
        raise ValueError(INFEASIBLE)
    return (columns,)


bidirectional_assignment = partial(assign_both_ways, solve)
