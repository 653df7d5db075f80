"""Test-time refinements of cross-modality distances."""

import torch

from salcr import reference
from salcr.ops._checks import (
    check_all_lengths,
    check_finite,
    check_integer,
    check_positive,
    check_same,
    check_share,
    check_tensor,
    check_values,
    wide_dtype,
)
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._register import register
from salcr.ops.backends.cpp import reranking as _cpp
from salcr.ops.backends.eager import reranking as _eager


def rerank_k_reciprocal(
    query: torch.Tensor,
    gallery: torch.Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    power: float = 2.0,
    impl: str = "auto",
) -> torch.Tensor:
    """k-reciprocal re-ranking of the gallery for every query.

    Equivalent eager expression, over all rows ``x = normalize(cat([query, gallery]))``::

        D = torch.cdist(x, x); D = (D / D.amax(1, keepdim=True)) ** power
        R(i, k) = set(knn(x, N).indices[i, :k + 1])               # itself and k others
        N(i, k), E(i), V, m as in jaccard_distance, with exp(-D[i, j]) in place of exp(-(2 - 2 * x[i] @ x[j]))
        distances = ((1 - lambda_value) * (1 - m / (2 - m)) + lambda_value * D)[:Q, Q:]

    With ``impl="auto"`` neighbours are found by :func:`knn`, and memory grows with Q + G and with Q·G; the reference
    holds several arrays of all pairs.

    Args:
        query: ``[Q, D]``, float; normalised here.
        gallery: ``[G, D]`` of the same dtype.
        k1: neighbours of the reciprocal sets beside the image itself.
        k2: neighbours (itself counted) over which encodings are averaged; 1 skips it, more than ``k1 + 1`` counts as
            that.
        lambda_value: share of the original distance, in [0, 1].
        power: to which Euclidean distances are raised, positive: 2, squared ones, as published; 1 as they are.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[Q, G]``, float32 (float64 for float64 input).

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or option, a row with NaN or Inf or too long to square.

    Example:
        >>> query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.8, 0.6], [0.9, 0.1]])
        >>> ops.rerank_k_reciprocal(query, gallery, k1=2, k2=1).argsort(dim=1).tolist()
        [[2, 1, 0]]

    Source: docs/method.md, "k-reciprocal re-ranking"; Re-ranking Person Re-identification with k-reciprocal
    Encoding (Zhong et al., 2017).
    """
    impl = _check(query, gallery, impl, dict(k1=k1, k2=k2))
    check_share("lambda_value", lambda_value)
    check_positive("power", power)
    return torch.ops.salcr.rerank_k_reciprocal(query.detach(), gallery.detach(), k1, k2, lambda_value, power, impl)


def rerank_distances(
    query_gallery: torch.Tensor,
    query_query: torch.Tensor,
    gallery_gallery: torch.Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    power: float = 2.0,
    impl: str = "auto",
) -> torch.Tensor:
    """k-reciprocal re-ranking of given distances: :func:`rerank_k_reciprocal` where there are no features.

    Equivalent eager expression::

        D = cat([cat([query_query, query_gallery], 1), cat([query_gallery.T, gallery_gallery], 1)])
        D = (D / D.amax(0)).T ** power
        R(i, k), N(i, k), E(i), V, m as in rerank_k_reciprocal, an image being its own first neighbour
        distances = ((1 - lambda_value) * (1 - m / (2 - m)) + lambda_value * D)[:Q, Q:]

    With Euclidean distances of unit rows it is what that operator makes of the rows with the same ``power``, but
    several arrays of all pairs are held.

    Args:
        query_gallery: ``[Q, G]``, float, not negative.
        query_query: ``[Q, Q]`` of the same dtype.
        gallery_gallery: ``[G, G]`` of the same dtype.
        k1, k2, lambda_value: as in :func:`rerank_k_reciprocal`.
        power: to which the distances are raised first, positive; 2 as published, for Euclidean distances.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[Q, G]``, float32 (float64 for float64 input).

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or option; NaN, Inf or a negative distance.

    Source: docs/method.md, "k-reciprocal re-ranking"; Re-ranking Person Re-identification with k-reciprocal
    Encoding (Zhong et al., 2017).
    """
    given = dict(query_gallery=query_gallery, query_query=query_query, gallery_gallery=gallery_gallery)
    for name, x in given.items():
        check_tensor(name, x, ndim=2)
        check_same(name, x, "query_gallery", query_gallery)
        check_values(name, x)
    queries, images = query_gallery.shape
    for name, size in (("query_query", queries), ("gallery_gallery", images)):
        if given[name].shape != (size, size):
            raise ValueError(f"{name} must be {(size, size)} to fit query_gallery, got {tuple(given[name].shape)}")
    _check_counts(dict(k1=k1, k2=k2))
    check_share("lambda_value", lambda_value)
    check_positive("power", power)
    distances = (x.detach() for x in given.values())
    return torch.ops.salcr.rerank_distances(*distances, k1, k2, lambda_value, power, check_impl(impl))


def rerank_gnn(
    query: torch.Tensor,
    gallery: torch.Tensor,
    *,
    k1: int = 26,
    k2: int = 7,
    power: float = 2.0,
    impl: str = "auto",
) -> torch.Tensor:
    """Re-ranking by messages in the graph of neighbours.

    Equivalent eager expression, over all N rows ``x = cat([query, gallery])``::

        values, ranks = knn(x, k1)
        A = zeros(N, N).scatter(1, ranks, 1)
        W = zeros(N, N).scatter(1, ranks[:, :k2], values[:, :k2].clamp(0, 1) ** power)
        H = normalize(W @ (A + A.T) / 2, dim=1)
        H = normalize(W @ H, dim=1)
        distances = 1 - H[:Q] @ H[Q:].T

    The published extension for GPUs symmetrises the rows again before the second aggregation; here they are, as in the
    paper, symmetric once.

    Args:
        query: ``[Q, D]``, float; normalised here.
        gallery: ``[G, D]`` of the same dtype.
        k1: neighbours of the graph, the image itself counted; more than ``Q + G`` counts as that. 26 for Market-1501.
        k2: neighbours, the image itself counted, whose rows are added up; more than ``k1`` counts as that. With 1 an
            image keeps its row of the graph. 7 for Market-1501.
        power: to which cosines are raised for weights, positive; 2 in the paper. A negative cosine weighs nothing.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[Q, G]``, float32 (float64 for float64 input), in [0, 1].

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or option, a row with NaN or Inf or too long to square.

    Example:
        >>> query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.8, 0.6], [0.1, 0.9]])
        >>> ops.rerank_gnn(query, gallery, k1=2, k2=1).argmin(dim=1).tolist()
        [1]

    Source: Understanding Image Retrieval Re-Ranking: A Graph Neural Network Perspective (Zhang et al., 2020).
    """
    impl = _check(query, gallery, impl, dict(k1=k1, k2=k2))
    check_positive("power", power)
    return torch.ops.salcr.rerank_gnn(query.detach(), gallery.detach(), k1, k2, power, impl)


def rerank_cross_modality(
    query: torch.Tensor, gallery: torch.Tensor, *, k: int = 15, eta: float = 0.1, impl: str = "auto"
) -> torch.Tensor:
    """Re-ranking by neighbours in both modalities, for queries of one modality and a gallery of the other.

    The rows A (query) and B (gallery) are normalised, ``d(i, j) = 2 - 2 x_i·x_j``, and ``k2 = max(1, round(k / 5))``.

    1. Within each modality alone: ``D = (1 - eta) * jaccard_distance(x, k1=k, k2=k2) + eta * d``. ``L(i)`` are the
       first k of row i of D, the image itself first, equal ones by index.
    2. Across: ``C(i)`` are the k images of the other modality with the smallest d.
    3. Encodings of the four pairs of modalities, each a softmax of -d over a set, zero elsewhere (and all zero where
       the set is empty). AA and BB: ``{j in L(i) : i in L(j)}``. AB and BA: ``{j in C(i) : L(i) meets C(j)}``, that is,
       j finds i or a neighbour of i. (Plain reciprocity would leave most queries without a partner where one modality
       has many more images than the other.)
    4. The two encodings of an image side by side, divided by their sum, then averaged over the first k2 of ``L(i)``: V.
    5. ``m = sum(minimum(V_i, V_j))``; the distance is ``(1 - eta) * (1 - m / (2 - m)) + eta * d``.

    Several arrays ``[Q, Q]`` and ``[G, G]`` are held.

    Args:
        query: ``[Q, D]``, float; normalised here.
        gallery: ``[G, D]`` of the same dtype.
        k: neighbours (15 for SYSU-MM01, 8 for RegDB); within each modality no more than it has images.
        eta: share of the original distance, in [0, 1].
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[Q, G]``, float32 (float64 for float64 input).

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or option, a row with NaN or Inf or too long to square.

    Source: docs/method.md, "CMRR"; the sets of step 3 and ``k2`` are this project's choice.
    """
    impl = _check(query, gallery, impl, dict(k=k))
    check_share("eta", eta)
    return torch.ops.salcr.rerank_cross_modality(query.detach(), gallery.detach(), k, eta, impl)


def affinity_inference(
    query: torch.Tensor, gallery: torch.Tensor, *, k1: int = 4, k2: int = 1, impl: str = "auto"
) -> torch.Tensor:
    """Distances by features and by affinities to the gallery.

    Equivalent eager expression, over normalised rows::

        A_q = query @ gallery.T, all but the k1 largest of each row set to 0
        A_g = gallery @ gallery.T, likewise; then A_g[i] = mean(A_g[first k2 neighbours of i in the gallery])
        distances = 2 - query @ gallery.T - normalize(A_q) @ normalize(A_g).T

    An image of the gallery is its own first neighbour; equal affinities count by index. Several arrays ``[G, G]`` are
    held.

    Args:
        query: ``[Q, D]``, float; normalised here.
        gallery: ``[G, D]`` of the same dtype.
        k1: affinities that are kept (4 for SYSU-MM01, 8 for RegDB), at most G.
        k2: gallery neighbours, itself counted, whose affinities are averaged (1 for SYSU-MM01, 2 for RegDB).
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[Q, G]``, float32 (float64 for float64 input), in [0, 4].

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or option, a row with NaN or Inf or too long to square.

    Source: docs/method.md, "AIM"; Visible-Infrared Person Re-Identification via Semantic Alignment and Affinity
    Inference (Fang et al., 2023).
    """
    impl = _check(query, gallery, impl, dict(k1=k1, k2=k2))
    return torch.ops.salcr.affinity_inference(query.detach(), gallery.detach(), k1, k2, impl)


def _check(query: torch.Tensor, gallery: torch.Tensor, impl: str, counts: dict[str, int]) -> str:
    check_tensor("query", query, ndim=2)
    check_tensor("gallery", gallery, ndim=2)
    check_same("gallery", gallery, "query", query)
    if gallery.shape[1] != query.shape[1]:
        raise ValueError(f"gallery has rows of width {gallery.shape[1]}, query of width {query.shape[1]}")
    _check_counts(counts)
    for name, rows in (("query", query), ("gallery", gallery)):
        check_values(name, rows)
    return check_impl(impl)


def _check_counts(counts: dict[str, int]) -> None:
    for name, value in counts.items():
        check_integer(name, value)


def _rerank_k_reciprocal(query, gallery, k1, k2, lambda_value, power, impl):
    _check_rows(query, gallery)
    rerank, search = pick("rerank_k_reciprocal", impl, query), pick("knn", impl, query)
    return rerank(search, query, gallery, k1, k2, lambda_value, power).contiguous()


def _rerank_distances(query_gallery, query_query, gallery_gallery, k1, k2, lambda_value, power, impl):
    given = dict(query_gallery=query_gallery, query_query=query_query, gallery_gallery=gallery_gallery)
    for name, x in given.items():
        check_finite(name, x)
        if x.min() < 0:
            raise ValueError(f"{name} has a negative distance: {float(x.min())}")
    rerank = pick("rerank_distances", impl, query_gallery)
    return rerank(*given.values(), k1=k1, k2=k2, lambda_value=lambda_value, power=power).contiguous()


def _rerank_gnn(query, gallery, k1, k2, power, impl):
    _check_rows(query, gallery)
    features = torch.cat([query, gallery])
    cosines, search = pick("rerank_gnn", impl, features), pick("knn", impl, features)
    values, ranks = search(features, min(k1, len(features)), metric="cosine")
    return (1 - cosines(ranks, values[:, :k2].clamp(0, 1) ** power, len(query))).clamp_min(0)


def _rerank_cross_modality(query, gallery, k, eta, impl):
    _check_rows(query, gallery)
    return pick("rerank_cross_modality", impl, query)(query, gallery, k=k, eta=eta).contiguous()


def _affinity_inference(query, gallery, k1, k2, impl):
    _check_rows(query, gallery)
    return pick("affinity_inference", impl, query)(query, gallery, k1=k1, k2=k2).contiguous()


def _check_rows(query: torch.Tensor, gallery: torch.Tensor) -> None:
    check_all_lengths({"query": query, "gallery": gallery})


def _fake_of_features(query, gallery, *options):
    return query.new_empty(len(query), len(gallery), dtype=wide_dtype(query))


def _fake_of_distances(query_gallery, *others):
    return query_gallery.new_empty(query_gallery.shape, dtype=wide_dtype(query_gallery))


add_backend("rerank_k_reciprocal", "reference", reference.reranking.reranked)
add_backend("rerank_distances", "reference", reference.rerank_distances)
add_backend("rerank_gnn", "cpp", _cpp.graph_cosines)
add_backend("rerank_gnn", "eager", _eager.graph_cosines)
add_backend("rerank_gnn", "reference", reference.reranking.graph_cosines)
add_backend("rerank_cross_modality", "reference", reference.rerank_cross_modality)
add_backend("affinity_inference", "reference", reference.affinity_inference)
for _function, _options in (
    (_rerank_k_reciprocal, "SymInt k1, SymInt k2, float lambda_value, float power"),
    (_rerank_gnn, "SymInt k1, SymInt k2, float power"),
    (_rerank_cross_modality, "SymInt k, float eta"),
    (_affinity_inference, "SymInt k1, SymInt k2"),
):
    _schema = f"(Tensor query, Tensor gallery, {_options}, str impl) -> Tensor"
    register(_function.__name__.removeprefix("_"), _schema, _function, _fake_of_features)
register(
    "rerank_distances",
    "(Tensor query_gallery, Tensor query_query, Tensor gallery_gallery, SymInt k1, SymInt k2, float lambda_value, "
    "float power, str impl) -> Tensor",
    _rerank_distances,
    _fake_of_distances,
)
