"""Feature propagation by the kernels of :mod:`salcr.kernels.knn`: neighbours certified, then sums over k rows."""

import torch
import torch.nn.functional as F

from salcr.ops.backends.eager.propagation import Largest, mean_of_neighbours
from salcr.ops.backends.triton.knn import search


def propagate_features(visible: torch.Tensor, infrared: torch.Tensor, *, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.propagate_features`. Each of the four graphs is a search of its own, in float16."""
    visible, infrared = (F.normalize(side, dim=1).contiguous() for side in (visible, infrared))
    return _propagated(visible, infrared, k), _propagated(infrared, visible, k)


def _propagated(own: torch.Tensor, other: torch.Tensor, k: int) -> torch.Tensor:
    return mean_of_neighbours(own, other, _largest(own, own, k), _largest(own, other, k), k)


def _largest(x: torch.Tensor, y: torch.Tensor, k: int) -> Largest:
    """One more than ``k``, by which a tie shows."""
    return Largest(*search(x, y, min(k + 1, len(y)), exclude_self=False))
