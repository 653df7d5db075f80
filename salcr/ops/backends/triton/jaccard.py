"""Jaccard distances on the GPU: sparse rows in Triton all the way.

The host waits for the device only to learn sizes: how many entries the expanded sets have, how many their means have,
room for the near pairs, and how many there are (once more where they have to be counted first).
"""

import torch
import torch.nn.functional as F

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
    """Distances ``[N, N]`` of features of any length, given each row's ranks ``[N, k1]`` and cosines with them."""
    from salcr.kernels import jaccard

    return jaccard.jaccard_distance(_encodings(features, products, ranks, half=half, k2=k2, factors=factors))


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
    """The distances up to ``max_distance``, which is below 1, as torch.sparse_csr."""
    from salcr.kernels import jaccard

    encodings = _encodings(features, products, ranks, half=half, k2=k2, factors=factors)
    return csr_tensor(*jaccard.jaccard_graph(encodings, max_distance))


def _encodings(features, products, ranks, **sizes):
    from salcr.kernels import jaccard_encodings

    unit_rows = F.normalize(features, dim=1).contiguous()
    return jaccard_encodings.encode(unit_rows, ranks.int().contiguous(), products.contiguous(), **sizes)
