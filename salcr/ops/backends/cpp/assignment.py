"""Assignment on the CPU, in C++: columns may take several rows."""

from functools import cache
from types import ModuleType

import numpy as np
import torch

from salcr.ops.backends._assignment import assignment_operators

INFEASIBLE = "cost matrix is infeasible"


def linear_assignment(
    cost: torch.Tensor, *, maximize: bool = False, return_duals: bool = False
) -> tuple[torch.Tensor, ...]:
    """Costs of any strides; they are read in place where the longer axis is contiguous, else from a turned copy."""
    found = assign_array(cost.numpy(), maximize, return_duals)
    if found is None:
        raise ValueError(INFEASIBLE)
    return tuple(map(torch.from_numpy, found))


def assign_array(cost: np.ndarray, maximize: bool, return_duals: bool = False) -> tuple[np.ndarray, ...] | None:
    """:func:`linear_assignment` of an array, None where there is none: costs that are NaN or that leave no way."""
    return _extension().linear_assignment(cost, maximize, return_duals, torch.get_num_threads())


def solve(cost: torch.Tensor, *, capacity: int, maximize: bool) -> tuple[torch.Tensor]:
    """The column of each row of ``[B, M, N]``, no column of more than ``capacity`` rows."""
    columns = torch.empty(cost.shape[:2], dtype=torch.int64)
    if not _extension().solve_assignment(cost.numpy(), maximize, capacity, columns.numpy(), torch.get_num_threads()):
        raise ValueError(INFEASIBLE)
    return (columns,)


@cache
def _extension() -> ModuleType:
    """An import statement takes as long as a small problem."""
    from salcr import _C

    return _C


bidirectional_assignment = assignment_operators(solve)[1]
