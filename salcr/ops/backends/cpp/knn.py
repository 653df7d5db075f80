"""Nearest neighbours on the CPU: matrix products of PyTorch tile by tile, and a running top-k in C++ over each tile.

A search of rows among themselves computes only the tiles on and above the diagonal; the part mirrored to a tile is read
from its columns. One tile, and the k best of every row, are all that is in memory beside the features.

Where the processor multiplies bytes (AVX-512 VNNI), a large search by cosine makes its products in C++, of rows rounded
to bytes, and scores in float32 only pairs that a bound of the rounding does not leave out: the same neighbours. How
many are left is tried on a few rows first; where it is too many, products are made in float32.

A database in float16 is not converted: C++ reads it once, from where it lies, be it a file that is mapped into memory.
Codes of its rows in 8 bits, made once, are read in their place: they rule most rows out, and few are scored.
"""

import numpy as np
import torch
import torch.nn.functional as F

from salcr.ops._checks import check_finite
from salcr.ops.backends.cpp._tiles import tiles
from salcr.ops.backends.eager.knn import both_sides

SCREEN = "fastest"  # or "bytes" or "floats": how pairs are looked at before they are scored in float32
LEAST = 1024, 256, 96  # database rows, their width, and queries a thread below which bytes are not tried
LARGEST_K = 128  # above which bytes are not tried
LIMIT = 1 / 16  # of a row's products: where a bound by bytes leaves more to float32, all are made in float32


def knn(
    queries: torch.Tensor, k: int, *, database: torch.Tensor | None = None, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.knn`."""
    exclude_self = database is None
    if reads_in_place(queries.dtype, database, metric):
        return _read_once(queries, k, database)
    queries, database = both_sides(queries, database, metric)
    if metric == "cosine":
        found = screened(queries, database, k, exclude_self)
        return search(queries, database, k, exclude_self) if found is None else found
    squares = [x.square().sum(1) for x in (queries, database)]
    scores, indices = search(queries, database, k, exclude_self, squares)
    return 0 - scores, indices  # 0, not -0


def reads_in_place(dtype: torch.dtype, database: torch.Tensor | None, metric: str) -> bool:
    """Whether the database is read once and where it lies, and its rows are checked while they are."""
    return database is not None and database.dtype == torch.float16 and dtype != torch.float64 and metric == "cosine"


def code_bytes(width: int) -> int:
    """Length of the code of a row."""
    from salcr import _C

    return _C.code_bytes(width)


def code_rows(rows: torch.Tensor) -> torch.Tensor:
    """Codes ``[M, code_bytes(D)]``, uint8, of rows ``[M, D]`` in float16: each in 8 bits, and what these take from it.

    Raises:
        ValueError: a row has NaN or Inf.
    """
    from salcr import _C

    codes = rows.new_empty(len(rows), code_bytes(rows.shape[1]), dtype=torch.uint8)
    bad = _C.round_rows(_bits(rows), codes.numpy(), torch.get_num_threads())
    if bad >= 0:
        check_finite("rows", rows[bad : bad + 1], bad)
    return codes


def nearest_coded(
    queries: torch.Tensor, k: int, database: torch.Tensor, codes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What :func:`knn` returns for a database in float16, by its codes; None where a row does not fit its code."""
    from salcr import _C

    queries, scores, indices = _asked(queries, k)
    arrays = queries.numpy(), _bits(database), codes.numpy(), scores.numpy(), indices.numpy()
    return (scores, indices) if _C.nearest_coded(*arrays, SCREEN, torch.get_num_threads()) else None


def nearest_of_both(
    x: torch.Tensor, y: torch.Tensor, k: int, floors: tuple[torch.Tensor, torch.Tensor]
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """What :func:`search` returns for ``x`` in ``y`` and for ``y`` in ``x``; each product is made once.

    Args:
        x, y: float32 or float64, ``[X, D]`` and ``[Y, D]`` of unit length or zero.
        k: lists of the one have fewer columns where the other has fewer rows.
        floors: of their dtype, ``[X]`` and ``[Y]``: a row may miss what scores less than its own. Lists end with
            scores of ``-inf`` then.
    """
    from salcr import _C

    if min(len(x), len(y)) < k:
        return search(x, y, min(k, len(y)), exclude_self=False), search(y, x, min(k, len(x)), exclude_self=False)
    rows, split, threads = torch.cat([x, y]), len(x), torch.get_num_threads()
    found = screened(rows, rows, k, exclude_self=False, split=split, floors=torch.cat(floors))
    if found is None:
        found = _lists(rows, k, exclude_self=False)
        best = (_C.TopKFloat64 if rows.dtype == torch.float64 else _C.TopKFloat32)(len(rows), k)
        for tile, top, left in tiles(x, y, symmetric=False):
            best.add(tile.numpy(), top, split + left, True, None, None, threads)
        best.write(found[0].numpy(), found[1].numpy(), False, threads)
    scores, indices = found
    return (scores[:split], indices[:split] - split), (scores[split:], indices[split:])


def screened(
    queries: torch.Tensor,
    database: torch.Tensor,
    k: int,
    exclude_self: bool,
    split: int = 0,
    floors: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What :func:`search` returns for rows of unit length or zero, by ``csrc/knn_pairs.hpp``; None: not faster here.

    With a ``split`` above 0 ``queries`` and ``database`` are the same rows: those before it have neighbours among those
    from it on, and these among those before it. With ``floors [Q]`` a score below the query's own is not wanted, and
    lists may end with ``-inf``.
    """
    from salcr import _C

    size, width, threads = len(database), queries.shape[1], torch.get_num_threads()
    limit = torch.inf if SCREEN == "bytes" else LIMIT * size
    if queries.dtype != torch.float32 or k == exclude_self or SCREEN == "floats":
        return None
    if SCREEN == "fastest":
        rows, least_width, a_thread = LEAST
        if size < rows or width < least_width or len(queries) < a_thread * threads or k > LARGEST_K:
            return None
        if not _C.screens_in_bytes(width):
            return None
    scores, indices = _lists(queries, k, exclude_self)
    among = None if exclude_self or split else database.contiguous().numpy()
    arrays = queries.contiguous().numpy(), among, scores.numpy(), indices.numpy()
    least = None if floors is None else floors.numpy()
    return (scores, indices) if _C.nearest_pairs(*arrays, split, least, limit, threads) else None


def search(
    queries: torch.Tensor,
    database: torch.Tensor,
    k: int,
    exclude_self: bool,
    squares: tuple[torch.Tensor, torch.Tensor] | tuple[None, None] = (None, None),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores ``[Q, k]`` and indices ``[Q, k]`` of the ``k`` largest inner products of each row, ties by index.

    Args:
        queries, database: float32 or float64; the same tensor where ``exclude_self``, which leaves every row out of its
            own search and puts it first in its list.
        squares: squared norms of both; given these, scores are squared distances with their sign turned.
    """
    from salcr import _C

    count, threads = len(queries), torch.get_num_threads()
    scores, indices = _lists(queries, k, exclude_self)
    if squares[0] is not None:
        scores[:, :exclude_self] = 0
    if k == exclude_self:
        return scores, indices
    best = (_C.TopKFloat64 if queries.dtype == torch.float64 else _C.TopKFloat32)(count, k - exclude_self)
    terms = [None if x is None else x.numpy() for x in squares]
    for tile, top, left in tiles(queries, database, symmetric=exclude_self):
        best.add(tile.numpy(), top, left, exclude_self, *terms, threads)
    best.write(scores.numpy(), indices.numpy(), exclude_self, threads)
    return scores, indices


def _read_once(queries: torch.Tensor, k: int, database: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines with rows in half precision, by the search of ``csrc/knn_rows.hpp``."""
    from salcr import _C

    queries, scores, indices = _asked(queries, k)
    arrays = queries.numpy(), _bits(database), scores.numpy(), indices.numpy()
    bad = _C.nearest_rows(*arrays, SCREEN, torch.get_num_threads())
    if bad >= 0:
        check_finite("database", database[bad : bad + 1], bad)
    return scores, indices


def _asked(queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries of unit length in float32, and room for scores ``[Q, k]`` and indices ``[Q, k]``."""
    queries = F.normalize(queries.float(), dim=1).contiguous()
    return queries, queries.new_empty(len(queries), k), queries.new_empty(len(queries), k, dtype=torch.int64)


def _bits(rows: torch.Tensor) -> np.ndarray:
    """Rows in float16 where they lie, or copied if their entries are apart."""
    if rows.stride(1) != 1 or rows.stride(0) < rows.shape[1] or rows.is_neg():
        rows = rows.resolve_neg().contiguous()
    return rows.view(torch.int16).numpy().view(np.uint16)


def _lists(queries: torch.Tensor, k: int, exclude_self: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for scores ``[Q, k]`` and indices ``[Q, k]``, where every query is the first in its own list."""
    scores, indices = queries.new_empty(len(queries), k), queries.new_empty(len(queries), k, dtype=torch.int64)
    if exclude_self:
        scores[:, 0] = torch.linalg.vector_norm(queries, dim=1).square()
        indices[:, 0] = torch.arange(len(queries), device=queries.device)
    return scores, indices
