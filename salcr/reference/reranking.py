"""Test-time refinements of cross-modality distances (docs/method.md, "Test-time refinements"), in PyTorch and SciPy."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from salcr.reference.jaccard import farthest, jaccard_distance, pair_distances, unit_rows
from salcr.reference.knn import knn


def rerank_k_reciprocal(
    query: torch.Tensor,
    gallery: torch.Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    power: float = 2.0,
) -> torch.Tensor:
    """k-reciprocal re-ranking; see :func:`salcr.ops.rerank_k_reciprocal`."""
    return reranked(knn, query, gallery, k1, k2, lambda_value, power)


def reranked(
    search: Callable, query: torch.Tensor, gallery: torch.Tensor, k1: int, k2: int, lambda_value: float, power: float
) -> torch.Tensor:
    """:func:`rerank_k_reciprocal` by neighbours that ``search`` finds, as :func:`salcr.reference.knn` does."""
    from salcr.reference._reciprocal import encode, half, jaccard_distances

    features, queries = unit_rows(torch.cat([query, gallery])), len(query)
    far = farthest(features, search)
    ranks = search(features, min(k1 + 1, len(features)), metric="cosine")[1].cpu().numpy()
    scale = far.cpu().numpy()

    def scaled_distances(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        squared = pair_distances(features, features, i, j) / scale[i]
        return squared if power == 2 else np.maximum(squared, 0) ** (power / 2)

    encodings = encode(ranks, k1 + 1, half(k1) + 1, scaled_distances, k2)
    jaccard = _tensor(jaccard_distances(encodings[:queries], encodings[queries:]), features)
    distances = (2 - 2 * features[:queries] @ features[queries:].T).clamp_min(0) / far[:queries, None]
    return (1 - lambda_value) * jaccard + lambda_value * distances ** (power / 2)


def rerank_distances(
    query_gallery: torch.Tensor,
    query_query: torch.Tensor,
    gallery_gallery: torch.Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    power: float = 2.0,
) -> torch.Tensor:
    """k-reciprocal re-ranking of given distances; see :func:`salcr.ops.rerank_distances`."""
    from salcr.reference._reciprocal import encode, half, jaccard_distances

    queries = len(query_gallery)
    above, below = torch.cat([query_query, query_gallery], 1), torch.cat([query_gallery.T, gallery_gallery], 1)
    distances = torch.cat([above, below]).to(torch.promote_types(query_gallery.dtype, torch.float32))
    largest = distances.amax(0)
    distances = (distances / torch.where(largest > 0, largest, 1)).T.contiguous()
    itself_first = distances.clone().fill_diagonal_(-torch.inf)
    ranks = itself_first.sort(dim=1, stable=True).indices[:, : k1 + 1].cpu().numpy()
    distances = distances**power  # now: small ones may become 0 and no longer tell who is nearer
    powers = distances.cpu().numpy()
    encodings = encode(ranks, k1 + 1, half(k1) + 1, lambda i, j: powers[i, j], k2)
    jaccard = _tensor(jaccard_distances(encodings[:queries], encodings[queries:]), distances)
    return (1 - lambda_value) * jaccard + lambda_value * distances[:queries, queries:]


def rerank_cross_modality(query: torch.Tensor, gallery: torch.Tensor, *, k: int = 15, eta: float = 0.1) -> torch.Tensor:
    """Jaccard distances over the neighbours in both modalities; see :func:`salcr.ops.rerank_cross_modality`."""
    from salcr.reference._reciprocal import jaccard_distances

    sides = unit_rows(query), unit_rows(gallery)
    k2 = max(1, round(k / 5))
    own = [_own_ranks(x, k, k2, eta) for x in sides]
    across = [knn(x, min(k, len(y)), database=y)[1].cpu().numpy() for x, y in (sides, sides[::-1])]
    encodings = [_encode_both(s, sides, own, across, k2) for s in (0, 1)]
    jaccard = _tensor(jaccard_distances(*encodings), sides[0])
    return (1 - eta) * jaccard + eta * (2 - 2 * sides[0] @ sides[1].T).clamp_min(0)


def affinity_inference(query: torch.Tensor, gallery: torch.Tensor, *, k1: int = 4, k2: int = 1) -> torch.Tensor:
    """Cosine of features plus cosine of affinities to the gallery; see :func:`salcr.ops.affinity_inference`."""
    query, gallery = unit_rows(query), unit_rows(gallery)
    size = len(gallery)
    k1, k2 = min(k1, size), min(k2, size)
    values, indices = knn(query, k1, database=gallery)
    queries = query.new_zeros(len(query), size).scatter(1, indices, values)
    values, indices = knn(gallery, max(k1, k2))
    images = gallery.new_zeros(size, size).scatter(1, indices[:, :k1], values[:, :k1])
    images = sum(images[indices[:, n]] for n in range(k2)) / k2
    return 2 - query @ gallery.T - F.normalize(queries, dim=1) @ F.normalize(images, dim=1).T


def rerank_gnn(
    query: torch.Tensor, gallery: torch.Tensor, *, k1: int = 26, k2: int = 7, power: float = 2.0
) -> torch.Tensor:
    """Cosines of adjacencies aggregated over the neighbour graph; see :func:`salcr.ops.rerank_gnn`."""
    features = unit_rows(torch.cat([query, gallery]))
    values, ranks = knn(features, min(k1, len(features)))
    weights = values[:, :k2].clamp(0, 1) ** power
    return (1 - graph_cosines(ranks, weights, len(query))).clamp_min(0)


def graph_cosines(ranks: torch.Tensor, weights: torch.Tensor, queries: int) -> torch.Tensor:
    """Cosines of the first ``queries`` rows with all others, after both aggregations over ``weights [N, k2]``."""
    rows = weights.new_zeros(len(ranks), len(ranks)).scatter(1, ranks, 1)
    rows = (rows + rows.T) / 2
    for _ in range(2):
        neighbours = zip(weights.T, ranks.T, strict=False)
        rows = F.normalize(sum(weight[:, None] * rows[near] for weight, near in neighbours), dim=1)
    return rows[:queries] @ rows[queries:].T


def _own_ranks(features: torch.Tensor, k: int, k2: int, eta: float) -> np.ndarray:
    """Each image's nearest of its own modality after k-reciprocal re-ranking, itself first."""
    distances = (1 - eta) * jaccard_distance(features, k1=k, k2=k2) + eta * (2 - 2 * features @ features.T)
    distances.fill_diagonal_(-torch.inf)
    return distances.sort(dim=1, stable=True).indices[:, :k].cpu().numpy()


def _encode_both(side: int, sides, own, across, k2: int):
    """Encodings of one modality's images over both modalities' images, query columns first."""
    from scipy import sparse

    from salcr.reference._reciprocal import (
        divided_by_sums,
        local_query_expansion,
        membership,
        reciprocal_sets,
        weighted,
    )

    this, other = sides[side], sides[1 - side]
    found, finders = membership(across[side], len(other)), membership(across[1 - side], len(this))
    mutual = found.multiply(membership(own[side]) @ finders.T)
    blocks = [
        weighted(reciprocal_sets(own[side]), lambda i, j: pair_distances(this, this, i, j)),
        weighted(mutual.tocsr(), lambda i, j: pair_distances(this, other, i, j)),
    ]
    encodings = divided_by_sums(sparse.hstack(blocks if side == 0 else blocks[::-1], format="csr"))
    return local_query_expansion(encodings, own[side][:, :k2])


def _tensor(distances: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(distances).to(like)
