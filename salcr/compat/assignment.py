"""SciPy's name for minimum-cost assignment."""

from typing import Any

import numpy as np
import torch

from salcr import ops
from salcr.ops.assignment import assign_array


def linear_sum_assignment(cost_matrix: Any, maximize: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """``scipy.optimize.linear_sum_assignment``; see :func:`salcr.ops.linear_assignment`.

    Where several assignments are optimal it may return another one.

    Args:
        cost_matrix: ``[M, N]``, what NumPy makes a real matrix of. float32 is read as it is, all but that in float64.
            ``inf`` (``-inf`` when maximising) forbids a pair.
        maximize: look for the largest total instead.

    Returns:
        ``(row_ind, col_ind)``, int64 arrays of min(M, N) entries; ``row_ind`` ascends.

    Raises:
        TypeError, ValueError: not a matrix of real numbers; a cost that is NaN, or infinite with the sign that does
            not forbid; no assignment that avoids all forbidden pairs.
    """
    if type(cost_matrix) is np.ndarray and cost_matrix.ndim == 2:
        found = assign_array(cost_matrix, bool(maximize))
        if found is not None:
            return found
    cost = np.asarray(cost_matrix)
    if cost.dtype.kind not in "biuf":
        raise TypeError(f"cost_matrix must hold real numbers, got {cost.dtype}")
    if cost.ndim != 2:
        raise ValueError(f"cost_matrix must have 2 axes, got shape {cost.shape}")
    if 0 in cost.shape:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    cost = np.require(cost, np.float32 if cost.dtype == np.float32 else np.float64, ["C", "A", "W"])
    rows, cols = ops.linear_assignment(torch.from_numpy(cost), maximize=bool(maximize))
    return rows.numpy(), cols.numpy()
