"""Jaccard distances on the CPU: sparse rows in C++ all the way."""

import torch

from salcr.ops._sparse import csr_tensor


def jaccard_distance(
    features: torch.Tensor, products: torch.Tensor, ranks: torch.Tensor, *, half: int, k2: int
) -> torch.Tensor:
    """Distances ``[N, N]`` of unit features, given each row's ranks ``[N, k1]`` and inner products with them."""
    from salcr import _C

    distances = torch.empty(len(features), len(features))
    arrays = (x.contiguous().numpy() for x in (ranks.int(), products, features))
    _C.jaccard_distance(*arrays, half, k2, distances.numpy(), torch.get_num_threads())
    return distances


def jaccard_graph(
    features: torch.Tensor, products: torch.Tensor, ranks: torch.Tensor, *, half: int, k2: int, max_distance: float
) -> torch.Tensor:
    """Those up to ``max_distance``, which is below 1, as torch.sparse_csr."""
    from salcr import _C

    arrays = (x.contiguous().numpy() for x in (ranks.int(), products, features))
    return csr_tensor(
        *map(torch.from_numpy, _C.jaccard_graph(*arrays, half, k2, max_distance, torch.get_num_threads()))
    )
