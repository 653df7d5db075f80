"""Jaccard distances on the GPU: sparse rows in Triton all the way.

The host waits for the device only to learn sizes: how many entries the expanded sets have, how many their means have,
room for the near pairs, and how many there are (once more where they have to be counted first).
"""

import torch

from salcr.ops._sparse import csr_tensor


def jaccard_distance(
    features: torch.Tensor,
    products: torch.Tensor,
    ranks: torch.Tensor,
    *,
    half: int,
    k2: int,
    factors: torch.Tensor | None = None,
) -> torch.Tensor:
    """Distances ``[N, N]`` of unit features, given each row's ranks ``[N, k1]`` and inner products with them."""
    from salcr.kernels import jaccard, jaccard_encodings

    sizes = dict(half=half, k2=k2, factors=factors)
    encodings = jaccard_encodings.encode(features, ranks.int(), products.contiguous(), **sizes)
    return jaccard.jaccard_distance(encodings)


def jaccard_graph(
    features: torch.Tensor,
    products: torch.Tensor,
    ranks: torch.Tensor,
    *,
    half: int,
    k2: int,
    max_distance: float,
    factors: torch.Tensor | None = None,
) -> torch.Tensor:
    """Those up to ``max_distance``, which is below 1, as torch.sparse_csr."""
    from salcr.kernels import jaccard, jaccard_encodings

    sizes = dict(half=half, k2=k2, factors=factors)
    encodings = jaccard_encodings.encode(features, ranks.int(), products.contiguous(), **sizes)
    return csr_tensor(*jaccard.jaccard_graph(encodings, max_distance))
