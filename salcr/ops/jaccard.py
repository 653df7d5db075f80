"""Jaccard distance of k-reciprocal encodings (SPEC 2, steps 1 to 6)."""

import torch

from salcr import reference
from salcr.ops._checks import check_finite, check_tensor
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops.backends.cpp.jaccard import jaccard_distance as _cpp_distance
from salcr.ops.backends.cpp.jaccard import jaccard_graph as _cpp_graph
from salcr.ops.backends.triton import jaccard as _jaccard_triton


def jaccard_distance(features: torch.Tensor, *, k1: int = 30, k2: int = 6, impl: str = "auto") -> torch.Tensor:
    """Jaccard distances of the k-reciprocal encodings of all pairs of rows. For comparison and small N.

    Equivalent eager expression, for rows ``x = normalize(features)`` and their neighbours ``ranks = knn(x, k1)``::

        R(i, k) = set(ranks[i, :min(k + 1, k1)])
        N(i, k) = {j for j in R(i, k) if i in R(j, k)}
        E(i) = N(i, k1) | union(N(c, h) for c in N(i, k1) if 3 * len(N(c, h) & N(i, k1)) > 2 * len(N(c, h)))
        V[i, E(i)] = softmax(-(2 - 2 * x[i] @ x[E(i)].T)); V[i, all others] = 0
        V[i] = mean(V[ranks[i, :k2]])
        m[i, j] = minimum(V[i], V[j]).sum()
        d[i, j] = max(0, 1 - m[i, j] / (2 - m[i, j]))

    where ``h`` is ``k1 / 2`` rounded half to even. An image is always its own first neighbour. ``d[i, i]`` is 0.

    Args:
        features: ``[N, D]``, float; normalised here. float64 is computed in float64, all others in float32.
        k1: neighbours of the reciprocal sets; more than N counts as N, also where the half set is derived from it.
        k2: neighbours over which encodings are averaged; 1 skips the averaging, more than ``k1`` counts as ``k1``.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[N, N]``, float32, in [0, 1], symmetric.

    Raises:
        TypeError, ValueError: a wrong shape or dtype, ``k1`` or ``k2`` below 1, NaN or Inf in a row.

    Source: SPEC 2; Re-ranking Person Re-identification with k-reciprocal Encoding (Zhong et al., 2017).
    """
    check_encoding(features, k1, k2, impl)
    return pick("jaccard_distance", impl, features)(features.detach(), k1=k1, k2=k2)


def jaccard_graph(
    features: torch.Tensor, *, k1: int = 30, k2: int = 6, max_distance: float, impl: str = "auto"
) -> torch.Tensor:
    """The Jaccard distances that are at most ``max_distance``, without an N×N array.

    Equivalent eager expression::

        d = jaccard_distance(features, k1=k1, k2=k2)
        torch.sparse_csr_tensor(...)  # all d[i, j] <= float32(max_distance), zeros stored too

    Args:
        features: ``[N, D]``, float; normalised here.
        k1, k2: as in :func:`jaccard_distance`.
        max_distance: largest distance that is kept, not negative; compared in float32. From 1 on all pairs are kept.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[N, N]`` torch.sparse_csr of float32 with int64 indices. Columns ascend within a row; the diagonal (0) and
        other zero distances are stored.

    Raises:
        TypeError, ValueError: as :func:`jaccard_distance`; a negative or NaN ``max_distance``.

    Source: SPEC 2, steps 1 to 7.
    """
    check_encoding(features, k1, k2, impl)
    if not max_distance >= 0:
        raise ValueError(f"max_distance must not be negative, got {max_distance}")
    return pick("jaccard_graph", impl, features)(features.detach(), k1=k1, k2=k2, max_distance=max_distance)


def check_encoding(features: torch.Tensor, k1: int, k2: int, impl: str) -> None:
    """What everything that encodes features asks of its arguments."""
    check_tensor("features", features, ndim=2)
    for name, value in (("k1", k1), ("k2", k2)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    check_impl(impl)
    check_finite("features", features)


PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)  # of the kernels, which compute in float32

add_backend("jaccard_distance", "cpu", _cpp_distance)
add_backend("jaccard_distance", "triton", _jaccard_triton.jaccard_distance, dtypes=PRECISIONS)
add_backend("jaccard_distance", "reference", reference.jaccard_distance)
add_backend("jaccard_graph", "cpu", _cpp_graph)
add_backend("jaccard_graph", "triton", _jaccard_triton.jaccard_graph, dtypes=PRECISIONS)
add_backend("jaccard_graph", "reference", reference.jaccard_graph)
