"""Jaccard distances on the CPU: tiled neighbour search, then sparse rows in C++ all the way."""

import numpy as np
import torch

from salcr.ops.backends.cpp.knn import search
from salcr.reference.jaccard import csr_of_all, csr_tensor, unit_rows


def jaccard_distance(features: torch.Tensor, *, k1: int = 30, k2: int = 6) -> torch.Tensor:
    """See :func:`salcr.ops.jaccard_distance`."""
    from salcr import _C

    distances = torch.empty(len(features), len(features))
    _C.jaccard_distance(*_arrays(*neighbours(features, k1), k2), distances.numpy(), torch.get_num_threads())
    return distances


def jaccard_graph(features: torch.Tensor, *, k1: int = 30, k2: int = 6, max_distance: float) -> torch.Tensor:
    """See :func:`salcr.ops.jaccard_graph`."""
    if np.float32(max_distance) >= 1:
        return csr_of_all(jaccard_distance(features, k1=k1, k2=k2))
    return graph_of_neighbours(*neighbours(features, k1), k2, max_distance)


def neighbours(features: torch.Tensor, k1: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit features ``[N, D]``, the ranks ``[N, k1]`` of every row (int32), and their inner products with it."""
    features = unit_rows(features).contiguous()
    products, ranks = search(features, features, min(k1, len(features)), own=True)
    return features, ranks.int(), products


def graph_of_neighbours(
    features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor, k2: int, max_distance: float
) -> torch.Tensor:
    """Everything after the neighbour search; ``max_distance`` is below 1."""
    from salcr import _C

    arrays = _C.jaccard_graph(*_arrays(features, ranks, products, k2), max_distance, torch.get_num_threads())
    return csr_tensor(*map(torch.from_numpy, arrays))


def _arrays(features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor, k2: int) -> tuple:
    from salcr.reference._reciprocal import half

    k1 = ranks.shape[1]
    return ranks.numpy(), products.numpy(), features.numpy(), min(half(k1) + 1, k1), min(k2, k1)
