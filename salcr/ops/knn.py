"""Nearest neighbours with a defined order of ties."""

from functools import partial

import torch
import torch.distributed as dist

from salcr import reference
from salcr.ops._checks import check_choice, check_integer, check_lengths, check_same, check_tensor
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import HALF_TO_SINGLE
from salcr.ops._register import register
from salcr.ops._sharded import nearest
from salcr.ops.backends.cpp import knn as _cpp
from salcr.ops.backends.cpp.knn import code_bytes as code_bytes  # this, code_rows, searches_on: for salcr.retrieval
from salcr.ops.backends.cpp.knn import code_rows as code_rows
from salcr.ops.backends.eager import knn as _eager
from salcr.ops.backends.faiss import knn as _faiss
from salcr.ops.backends.faiss.knn import searches_on as searches_on
from salcr.ops.backends.triton import knn as _triton

METRICS = ("cosine", "sqeuclidean")
METHODS = ("exact", "faiss-ivf")
HALF = (torch.float16, torch.bfloat16)


def knn(
    queries: torch.Tensor,
    k: int,
    *,
    database: torch.Tensor | None = None,
    metric: str = "cosine",
    method: str = "exact",
    impl: str = "auto",
    group: "dist.ProcessGroup | None" = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``k`` nearest rows of ``database`` for every row of ``queries``.

    Equivalent eager expression::

        scores = normalize(queries) @ normalize(database).T            # "cosine", largest first
        scores = torch.cdist(queries, database).square()               # "sqeuclidean", smallest first
        values, indices = scores.sort(stable=True, descending=metric == "cosine")
        values, indices = values[:, :k], indices[:, :k]

    Equal scores come in the order of their index. Without a ``database`` the queries are searched among themselves and
    every row finds itself first, even among exact duplicates.

    With a ``group`` every rank calls with its rows, in the order of ranks; equivalent, with ``all_rows`` for what
    torch.distributed would gather::

        values, indices = knn(all_rows(queries), k, database=all_rows(database))
        values, indices = values[of_this_rank], indices[of_this_rank]

    Where the products of two pairs are closer than their rounding, which depends on the shape of a block, these may
    come in the other order. docs/scale.md says what it costs.

    Args:
        queries: ``[Q, D]``, float.
        k: how many neighbours, from 1 to the number of database rows.
        database: ``[M, D]`` of the same dtype or, without a ``group``, in half precision; by default the queries.
            Cosines with a database in float16 on the CPU are computed from where it lies, without a copy; what is read
            of a large file that is mapped and shared (``numpy.memmap`` with mode ``"r"``) does not stay in memory.
        metric: ``"cosine"`` normalises both sides and returns inner products in descending order; ``"sqeuclidean"``
            normalises nothing and returns squared distances in ascending order.
        method: ``"exact"``, or ``"faiss-ivf"`` for millions of rows: approximate, by an inverted file of faiss. Each
            row is compared with a sixteenth of the database, so some of its neighbours may not be found; values and
            order of those that are hold. With a build of faiss for GPUs, CUDA tensors and the inverted file stay on
            their device (for ``k`` up to 2048); with another they are copied to the host and back.
        impl: backend of the exact method, see :mod:`salcr.ops`; the approximate one has ``"faiss"`` alone.
        group: processes that hold a block of the queries each, and of the database if there is one; of any sizes, none
            included. All of them make this call, for the exact method. Beside a rank's own rows and lists, pieces of
            the others' are in memory, of 32 MiB (256 on a GPU).

    Returns:
        values ``[Q, k]`` and indices ``[Q, k]`` (int64; with a ``group`` among all ranks' rows). Values are computed
        and returned in float32, and in float64 where the queries are float64. They carry no gradient.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or metric, ``k`` out of range, a row with NaN or Inf or too
            long to square (its norm above 9e18 in float32). With a ``group``, on every rank what is wrong on one of
            them, rows counted over all; ranks whose D, dtype or options differ; a process outside the group.
        RuntimeError: the method needs faiss, which is not installed (``pip install 'salcr[faiss]'``).

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [5.0]])
        >>> distances, indices = ops.knn(points, 2, metric="sqeuclidean")
        >>> indices.tolist(), distances.tolist()
        ([[0, 1], [1, 0], [2, 1]], [[0.0, 1.0], [0.0, 1.0], [0.0, 16.0]])

    Source: docs/method.md, "Ranks".
    """
    if group is not None:
        check = partial(_check, queries, k, database, metric, method, impl, sharded=True)
        return nearest(queries, k, database=database, metric=metric, impl=impl, group=group, check=check)
    _check(queries, k, database, metric, method, impl)
    impl = check_impl(impl) if method == "exact" else "faiss"
    queries = queries.detach()
    database = None if database is None else database.detach()
    return torch.ops.salcr.knn(queries, k, database, metric, method, impl)


def reads_in_place(queries: torch.Tensor, database: torch.Tensor) -> bool:
    """Whether an exact search by cosine reads ``database`` here without a copy of it."""
    return _reads_in_place(pick("knn", check_impl("auto"), queries), queries, database, "cosine")


def knn_by_codes(
    queries: torch.Tensor, k: int, database: torch.Tensor, codes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """``knn(queries, k, database=database)`` to the bit, from ``codes``, which are ``code_rows(database)``.

    For a database that :func:`reads_in_place`. All codes are read, and few rows of the database. Returns None where a
    row does not fit its code. Codes of another database are not always noticed; then the result is wrong.

    Raises:
        TypeError, ValueError: as :func:`knn`; the shape of ``codes``.
    """
    _check(queries, k, database, "cosine", "exact", "auto")
    check_lengths("queries", queries)
    return _cpp.nearest_coded(queries.detach(), k, database, codes)


def _check(queries, k, database, metric, method, impl, sharded=False):
    check_tensor("queries", queries, ndim=2, no_rows=sharded)
    if database is not None:
        check_tensor("database", database, ndim=2, no_rows=sharded)
        check_same("database", database, "queries", queries, dtype=sharded or database.dtype not in HALF)
        if database.shape[1] != queries.shape[1]:
            raise ValueError(f"database has rows of width {database.shape[1]}, queries of width {queries.shape[1]}")
    if sharded:
        check_integer("k", k)
    else:
        check_integer("k", k, 1, len(queries if database is None else database))
    check_choice("metric", metric, METRICS)
    check_choice("method", method, METHODS)
    if method != "exact" and impl not in ("auto", "faiss"):
        raise ValueError(f"method={method!r} has the backend faiss, got impl={impl!r}")
    if method != "exact" and sharded:
        raise ValueError(f"with a group method must be 'exact', got {method!r}; docs/scale.md has another way")


def _knn(queries, k, database, metric, method, impl):
    check_lengths("queries", queries)
    search = pick("knn" if method == "exact" else f"knn[{method}]", impl, queries)
    if database is not None and not _reads_in_place(search, queries, database, metric):
        check_lengths("database", database)
    return search(queries, k, database=database, metric=metric)


def _reads_in_place(search, queries, database, metric):
    return search is _cpp.knn and _cpp.reads_in_place(queries.dtype, database, metric)


def _fake_knn(queries, k, database, metric, method, impl):
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=dtype), queries.new_empty(shape, dtype=torch.int64)


add_backend("knn", "cpp", _cpp.knn)
add_backend("knn", "triton", _triton.knn, dtypes=HALF_TO_SINGLE)
add_backend("knn", "eager", _eager.knn)
add_backend("knn", "reference", reference.knn)
add_backend("knn[faiss-ivf]", "faiss", _faiss.knn)
register(
    "knn",
    "(Tensor queries, SymInt k, Tensor? database, str metric, str method, str impl) -> (Tensor, Tensor)",
    _knn,
    _fake_knn,
)
