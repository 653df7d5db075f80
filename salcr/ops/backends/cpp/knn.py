"""Nearest neighbours on the CPU: matrix products of PyTorch tile by tile, and a running top-k in C++ over each tile.

A search of rows among themselves computes only the tiles on and above the diagonal; the part mirrored to a tile is read
from its columns. One tile, and the k best of every row, are all that is in memory beside the features.

A database in float16 is not converted: C++ reads it once, from where it lies, be it a file that is mapped into memory.
"""

import numpy as np
import torch
import torch.nn.functional as F

from salcr.ops._checks import check_finite
from salcr.ops.backends.cpp._tiles import tiles

SCREEN = "fastest"  # or "bytes" or "floats", see csrc/knn_rows.hpp


def knn(
    queries: torch.Tensor, k: int, *, database: torch.Tensor | None = None, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.knn`."""
    exclude_self = database is None
    if reads_in_place(queries.dtype, database, metric):
        return _read_once(queries, k, database)
    dtype = torch.promote_types(queries.dtype, torch.float32)
    queries = queries.to(dtype)
    database = queries if exclude_self else database.to(dtype)
    if metric == "cosine":
        queries = F.normalize(queries, dim=1)
        return search(queries, queries if exclude_self else F.normalize(database, dim=1), k, exclude_self)
    squares = [x.square().sum(1) for x in (queries, database)]
    scores, indices = search(queries, database, k, exclude_self, squares)
    return 0 - scores, indices  # 0, not -0


def reads_in_place(dtype: torch.dtype, database: torch.Tensor | None, metric: str) -> bool:
    """Whether the database is read once and where it lies, and its rows are checked while they are."""
    return database is not None and database.dtype == torch.float16 and dtype != torch.float64 and metric == "cosine"


def _read_once(queries: torch.Tensor, k: int, database: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines with rows in half precision, by the search of ``csrc/knn_rows.hpp``."""
    from salcr import _C

    queries = F.normalize(queries.float(), dim=1).contiguous()
    scores, indices = queries.new_empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.int64)
    if database.stride(1) != 1 or database.stride(0) < database.shape[1] or database.is_neg():
        database = database.resolve_neg().contiguous()
    bits = database.view(torch.int16).numpy().view(np.uint16)
    threads = torch.get_num_threads()
    bad = _C.nearest_rows(queries.numpy(), bits, scores.numpy(), indices.numpy(), SCREEN, threads)
    if bad >= 0:
        check_finite("database", database[bad : bad + 1], bad)
    return scores, indices


def search(
    queries: torch.Tensor,
    database: torch.Tensor,
    k: int,
    exclude_self: bool,
    squares: tuple[torch.Tensor, torch.Tensor] | tuple[None, None] = (None, None),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores ``[Q, k]`` and indices ``[Q, k]`` of the ``k`` largest inner products of each row, ties by index.

    Args:
        queries, database: float32 or float64; the same tensor where
            ``exclude_self``, which leaves every row out of its own search and puts it first in its list.
        squares: squared norms of both; given these, scores are squared distances with their sign turned.
    """
    from salcr import _C

    count, size, threads = len(queries), len(database), torch.get_num_threads()
    scores = queries.new_empty(count, k)
    indices = torch.empty(count, k, dtype=torch.int64)
    if exclude_self:
        scores[:, 0] = torch.linalg.vector_norm(queries, dim=1).square() if squares[0] is None else 0
        indices[:, 0] = torch.arange(count)
    if k == exclude_self:
        return scores, indices
    best = (_C.TopKFloat64 if queries.dtype == torch.float64 else _C.TopKFloat32)(count, k - exclude_self)
    terms = [None if x is None else x.numpy() for x in squares]
    for tile, top, left in tiles(queries, database, symmetric=exclude_self):
        best.add(tile.numpy(), top, left, exclude_self, *terms, threads)
    best.write(scores.numpy(), indices.numpy(), size, exclude_self, threads)
    return scores, indices
