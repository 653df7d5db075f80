"""Feature propagation by the kernels of :mod:`salcr.kernels.knn`: neighbours certified, then sums over k rows."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from salcr.ops.backends.eager.propagation import Largest, means_of_neighbours
from salcr.ops.backends.triton.knn import search_most


def propagate_features(visible: torch.Tensor, infrared: torch.Tensor, *, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.propagate_features`. Each of the four graphs is a search of its own, in float16."""
    sides = tuple(F.normalize(side, dim=1).contiguous() for side in (visible, infrared))
    within, across = [_largest(x, x, k) for x in sides], [_largest(x, y, k) for x, y in (sides, sides[::-1])]
    left_out = [near.left_out | far.left_out for near, far in zip(within, across, strict=True)]
    return means_of_neighbours(sides, [x.found for x in within], [x.found for x in across], k, left_out)


class _Search(NamedTuple):
    found: Largest
    left_out: torch.Tensor


def _largest(x: torch.Tensor, y: torch.Tensor, k: int) -> _Search:
    """One more than ``k``, by which a tie shows."""
    scores, indices, left_out = search_most(x, y, min(k + 1, len(y)), exclude_self=False)
    return _Search(Largest(scores, indices.masked_fill_(left_out[:, None], 0)), left_out)
