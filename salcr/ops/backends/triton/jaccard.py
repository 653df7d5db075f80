"""Jaccard distances on the GPU: neighbour search, then sparse rows in Triton all the way.

The host waits for the device only to learn sizes: how many entries the expanded sets have, how many their means have,
room for the near pairs, and how many there are (once more where they have to be counted first); and in the search.
"""

import numpy as np
import torch

from salcr.ops._dispatch import pick
from salcr.reference.jaccard import csr_of_all, csr_tensor, unit_rows


def jaccard_distance(features: torch.Tensor, *, k1: int = 30, k2: int = 6) -> torch.Tensor:
    """See :func:`salcr.ops.jaccard_distance`."""
    return distances_of_neighbours(*neighbours(features, k1), k2)


def jaccard_graph(features: torch.Tensor, *, k1: int = 30, k2: int = 6, max_distance: float) -> torch.Tensor:
    """See :func:`salcr.ops.jaccard_graph`."""
    if np.float32(max_distance) >= 1:
        return csr_of_all(jaccard_distance(features, k1=k1, k2=k2))
    return graph_of_neighbours(*neighbours(features, k1), k2, max_distance)


def neighbours(features: torch.Tensor, k1: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit features ``[N, D]``, the ranks ``[N, k1]`` of every row (int32), and their inner products with it."""
    features = unit_rows(features).contiguous()
    products, ranks = pick("knn", "auto", features)(features, min(k1, len(features)), metric="cosine")
    return features, ranks.int(), products


def distances_of_neighbours(
    features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor, k2: int
) -> torch.Tensor:
    """Everything after the neighbour search, dense."""
    from salcr.kernels import jaccard

    return jaccard.jaccard_distance(encode(features, ranks, products, k2))


def graph_of_neighbours(
    features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor, k2: int, max_distance: float
) -> torch.Tensor:
    """Everything after the neighbour search; ``max_distance`` is below 1."""
    from salcr.kernels import jaccard

    return csr_tensor(*jaccard.jaccard_graph(encode(features, ranks, products, k2), float(np.float32(max_distance))))


def encode(features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor, k2: int) -> tuple[torch.Tensor, ...]:
    """The :class:`salcr.kernels.jaccard_encodings.Encodings` of the neighbours."""
    from salcr.kernels import jaccard_encodings
    from salcr.reference._reciprocal import half

    k1 = ranks.shape[1]
    return jaccard_encodings.encode(features, ranks, products.contiguous(), half=min(half(k1) + 1, k1), k2=min(k2, k1))
