"""Jaccard distance of k-reciprocal encodings."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from salcr import reference
from salcr.defaults import NEIGHBORS
from salcr.ops._checks import (
    check_choice,
    check_finite,
    check_flag,
    check_integer,
    check_lengths,
    check_number,
    check_same,
    check_tensor,
    check_values,
    wide_dtype,
)
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import HALF_TO_SINGLE
from salcr.ops._register import register
from salcr.ops._sparse import csr_of_all, csr_tensor
from salcr.ops.backends.cpp import jaccard as _cpp
from salcr.ops.backends.triton import jaccard as _triton

Neighbors = tuple[torch.Tensor, torch.Tensor]
FOREIGN = 0.01  # a larger difference of two cosines is no rounding, not even of half precision
LOOKED_AT = 8  # rows in which given neighbours are compared with the features
SCALES = ("none", "farthest")
TINY_DISTANCE = 1e-6  # squared; what is not above it is rounding of float32


def jaccard_distance(
    features: torch.Tensor,
    *,
    k1: int = NEIGHBORS,
    k2: int = 6,
    scale: str = "none",
    include_self: bool = True,
    neighbors: Neighbors | None = None,
    impl: str = "auto",
) -> torch.Tensor:
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

    Published code has two forms of it. That of Cluster Contrast and SALCR is the default. Mutual Mean-Teaching's (Ge et
    al., 2020), which :func:`rerank_k_reciprocal` has too, is ``scale="farthest", include_self=False``: the softmax is
    that of ``-(2 - 2 * x[i] @ x[j]) / max over l of (2 - 2 * x[i] @ x[l])``, and ``R(i, k)`` is
    ``set(knn(x, k1 + 1)[i, :k + 1])``, k images beside the image itself.

    Args:
        features: ``[N, D]``, float; normalised here. float64 is computed in float64, all others in float32.
        k1: neighbours of the reciprocal sets; more than N counts as N, also where the half set is derived from it.
        k2: neighbours, the image itself counted, over which encodings are averaged; 1 skips the averaging, more than
            there are ranks counts as all.
        scale: ``"none"``, or ``"farthest"``: squared distances are divided by that of the row's farthest image, which
            takes a second search.
        include_self: whether the image itself is one of the ``k1``, or beside them.
        neighbors: ``(values, indices)`` as ``knn(features, k1)`` returns them (``k1 + 1`` without ``include_self``), at
            least ``min(k1, N)`` a row, where the search has been made elsewhere (``method="faiss-ivf"``, or sharded):
            inner products of unit rows ``[N, K]`` (float32, or float64 for float64 features) in descending order,
            within 0.01 of what they are here, and int64 ``[N, K]``, the image itself first and none twice. That they
            belong to ``features`` is looked at in eight rows; that they are the nearest, nowhere. By default the
            search is made here, exactly.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[N, N]``, float32, in [0, 1], symmetric: 40 GB for 100,000 images, of which :func:`jaccard_graph` keeps near
        pairs alone.

    Raises:
        TypeError, ValueError: a wrong shape or dtype, ``k1`` or ``k2`` below 1, a row with NaN or Inf or too long to
            square, neighbours that do not fit the features.

    Source: docs/method.md, "Jaccard distance"; Re-ranking Person Re-identification with k-reciprocal Encoding
    (Zhong et al., 2017).
    """
    impl = check_encoding(features, k1, k2, neighbors, impl, scale, include_self)
    given = features.detach(), k1, k2, scale, bool(include_self), *detached(neighbors)
    return torch.ops.salcr.jaccard_distance(*given, impl)


def jaccard_graph(
    features: torch.Tensor,
    *,
    k1: int = NEIGHBORS,
    k2: int = 6,
    max_distance: float,
    scale: str = "none",
    include_self: bool = True,
    neighbors: Neighbors | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """The Jaccard distances that are at most ``max_distance``, without an N×N array.

    Equivalent eager expression::

        d = jaccard_distance(features, k1=k1, k2=k2)
        torch.sparse_csr_tensor(...)  # all d[i, j] <= float32(max_distance), zeros stored too

    Args:
        features: ``[N, D]``, float; normalised here.
        k1, k2, scale, include_self, neighbors: as in :func:`jaccard_distance`.
        max_distance: largest distance that is kept, not negative; compared in float32. From 1 on all pairs are kept.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[N, N]`` torch.sparse_csr of float32 with int64 indices. Columns ascend within a row; the diagonal (0) and
        other zero distances are stored. PyTorch compiles no sparse matrix: with ``fullgraph=True`` and in
        torch.export that is an error that says so, else the matrix is made outside of the graph.

    Raises:
        TypeError, ValueError: as :func:`jaccard_distance`; a negative or NaN ``max_distance``.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> graph = ops.jaccard_graph(features, k1=2, k2=1, max_distance=0.5)
        >>> graph.to_dense().gt(0).int().tolist(), graph.values().numel()
        ([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], 8)

    Source: docs/method.md, "Jaccard distance".
    """
    impl = check_encoding(features, k1, k2, neighbors, impl, scale, include_self)
    check_number("max_distance", max_distance)
    if not max_distance >= 0:
        raise ValueError(f"max_distance must not be negative, got {max_distance}")
    given = features.detach(), k1, k2, scale, bool(include_self), *detached(neighbors)
    return csr_tensor(*torch.ops.salcr.jaccard_graph(*given, float(max_distance), impl))


def check_encoding(
    features: torch.Tensor,
    k1: int,
    k2: int,
    neighbors: Neighbors | None,
    impl: str,
    scale: str = "none",
    include_self: bool = True,
) -> str:
    """What everything that encodes features asks of its arguments; the backend's name to use."""
    check_tensor("features", features, ndim=2)
    check_values("features", features)
    check_integer("k1", k1)
    check_integer("k2", k2)
    check_choice("scale", scale, SCALES)
    check_flag("include_self", include_self)
    if neighbors is not None:
        check_neighbors(neighbors, features, min(k1 if include_self else k1 + 1, len(features)))
    return check_impl(impl)


def detached(neighbors: Neighbors | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Values and indices for a registered operator."""
    return (None, None) if neighbors is None else (neighbors[0].detach(), neighbors[1])


def check_neighbors(neighbors: Neighbors, features: torch.Tensor, wanted: int) -> None:
    """Their shapes, dtypes and device fit ``features``, and a row has ``wanted`` or more; no value is looked at."""
    if not isinstance(neighbors, (tuple, list)) or len(neighbors) != 2:
        raise TypeError("neighbors must be a pair (values, indices)")
    values, indices = neighbors
    check_tensor("neighbors[0]", values, ndim=2)
    check_tensor("neighbors[1]", indices, ndim=2, floating=False)
    check_same("neighbors[0]", values, "features", features, dtype=False)
    wanted_dtype = wide_dtype(features)
    if values.dtype != wanted_dtype:
        raise TypeError(f"neighbors[0] must be {wanted_dtype} for {features.dtype} features, got {values.dtype}")
    check_same("neighbors[1]", indices, "features", features, dtype=False)
    if values.shape != indices.shape or len(values) != len(features) or values.shape[1] < wanted:
        raise ValueError(
            f"neighbors must be two of [{len(features)}, {wanted} or more], got {tuple(values.shape)} and "
            f"{tuple(indices.shape)}"
        )


def check_lists(
    values: torch.Tensor, indices: torch.Tensor, features: torch.Tensor, first: int = 0, total: int | None = None
) -> None:
    """They look like lists of ``features``, which are the rows from ``first`` on among ``total``."""
    total = len(features) if total is None else total
    check_finite("neighbors[0]", values)
    itself = torch.arange(first, first + len(features), device=features.device)
    if indices.min() < 0 or indices.max() >= total or not torch.equal(indices[:, 0], itself):
        raise ValueError(f"neighbors[1] must be rows below {total} that start with the image itself")
    if (indices.sort(1).values.diff(dim=1) == 0).any():
        raise ValueError("neighbors[1] names an image twice in a row")
    if (values[:, 1:].diff(dim=1) > FOREIGN).any():
        raise ValueError("neighbors[0] must be inner products of unit rows in descending order")
    _check_products(values, indices - first, features, first)


def _check_products(values: torch.Tensor, indices: torch.Tensor, features: torch.Tensor, first: int) -> None:
    """In some rows the values are the products of these features: of other features, or distances, they would not be.

    ``indices`` count from this process's first row; those of other processes' rows are not looked at.
    """
    several, where = min(LOOKED_AT, len(features)), dict(dtype=torch.float64, device=features.device)
    rows = torch.linspace(0, len(features) - 1, several, **where).long()
    others = indices[rows]
    here = (others >= 0) & (others < len(features))
    x, y = (F.normalize(features[at].to(values.dtype), dim=-1) for at in (rows, others.where(here, 0)))
    wrong = (((x.unsqueeze(1) * y).sum(-1) - values[rows]).abs().gt(FOREIGN) & here).any(1)
    if wrong.any():
        row = first + int(rows[wrong.nonzero()[0, 0]])
        raise ValueError(f"neighbors[0] does not belong to features: row {row} has other inner products")


def _graph(features, *arguments):
    *form, max_distance, impl = arguments
    largest = float(np.float32(min(max_distance, 1)))
    if largest >= 1:
        graph = csr_of_all(_on_neighbors("jaccard_distance", features, *form, impl))
    else:
        graph = _on_neighbors("jaccard_graph", features, *form, impl, max_distance=largest)
    return graph.crow_indices(), graph.col_indices(), graph.values()


def _fake_distance(features, *others):
    return features.new_empty(features.shape[0], features.shape[0], dtype=torch.float32)


def _fake_graph(features, *others):
    entries = torch.library.get_ctx().new_dynamic_size()
    rows, places = features.new_empty(features.shape[0] + 1, dtype=torch.int64), dict(dtype=torch.int64)
    return rows, features.new_empty(entries, **places), features.new_empty(entries, dtype=torch.float32)


def _on_neighbors(operator, features, k1, k2, scale, include_self, values, indices, impl, **options):
    """Run the backend, which takes features ``[N, D]``, unit rows' products and ranks ``[N, k1]``, and set sizes."""
    check_lengths("features", features)
    neighbors = None if values is None else (values, indices)
    if neighbors is not None:
        check_lists(*neighbors, features)
    function, search = pick(operator, impl, features), pick("knn", impl, features)
    others = 0 if include_self else 1
    full = min(k1 + others, len(features))
    if neighbors is None:
        neighbors = search(features, full, metric="cosine")
    if scale == "farthest":
        options["factors"] = _inverse_farthest(search, features)
    features = features.to(wide_dtype(features)).resolve_neg()
    products, ranks = (x[:, :full].detach().resolve_neg() for x in neighbors)
    half, k2 = set_sizes(full, k2, others)
    return function(features, products, ranks, half=half, k2=k2, others=others, **options)


def set_sizes(ranks: int, k2: int, others: int = 0) -> tuple[int, int]:
    """How many of a row's ``ranks`` (``k1 + others``) the half sets use, and how many encodings are averaged."""
    half = round((ranks - others) / 2)  # to even; a set of k uses k + 1 ranks, but no more than there are
    return min(half + 1, ranks), min(k2, ranks)


def _inverse_farthest(search: Callable, features: torch.Tensor) -> torch.Tensor:
    """1 / the squared distance of each row's farthest image; 0 where that is rounding. ``[N]``, float32 or float64."""
    farthest = 2 + 2 * search(features, 1, database=-features, metric="cosine")[0].squeeze(1)
    return torch.where(farthest > TINY_DISTANCE, 1 / farthest, 0)


def _on_sets(function: Callable) -> Callable:
    """A backend that takes no ``others``: ``half`` and ``k2`` tell it all that it needs of the form."""

    def on_neighbors(features, products, ranks, *, others, **options):
        return function(features, products, ranks, **options)

    return on_neighbors


def _formula(function: Callable) -> Callable:
    """The reference on given neighbours, which normalises, scales and derives the half set itself.

    So it gets the features as they are: to normalise twice changes a row that is far shorter than 1e-12.
    """

    def on_neighbors(features, products, ranks, *, half, k2, others, factors=None, **options):
        options |= dict(scale="none" if factors is None else "farthest", include_self=not others)
        return function(features, k1=max(1, ranks.shape[1] - others), k2=k2, neighbors=(products, ranks), **options)

    return on_neighbors


for _operator in ("jaccard_distance", "jaccard_graph"):
    add_backend(_operator, "cpp", _on_sets(getattr(_cpp, _operator)))
    add_backend(_operator, "triton", _on_sets(getattr(_triton, _operator)), dtypes=HALF_TO_SINGLE)
    for _name in ("eager", "reference"):  # they differ in the neighbour search
        add_backend(_operator, _name, _formula(getattr(reference, _operator)))
_FORM = "Tensor features, SymInt k1, SymInt k2, str scale, bool include_self, Tensor? values, Tensor? indices"
register(
    "jaccard_distance", f"({_FORM}, str impl) -> Tensor", partial(_on_neighbors, "jaccard_distance"), _fake_distance
)
register(
    "jaccard_graph",
    f"({_FORM}, float max_distance, str impl) -> (Tensor rows, Tensor columns, Tensor values)",
    _graph,
    _fake_graph,
)
