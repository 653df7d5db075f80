"""Neighbours of rows that are spread over processes: lists that every rank keeps of its rows while others' pass.

Features travel in pieces, each broadcast by its rank while all look at the piece before. The C++ backend finds
neighbours of two sets of rows in one another at once, so that of any two pieces one rank alone makes the products: the
one that holds the one while the other passes, or the other way round, by turns. What it finds for the piece that passes
goes back to the rank of that piece. Other backends make the products of two ranks on both.
"""

from collections import deque
from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F

from salcr.ops._dispatch import pick
from salcr.ops._group import Shards
from salcr.ops.backends.cpp import knn as cpp

PIECE_BYTES = 2**25  # of features that travel at a time
PIECES_ON_GPU = 8  # times as large: a search reads k candidates of every piece again
UNDER_WAY = 4  # pieces whose lists may be on their way back

Lists = tuple[torch.Tensor, torch.Tensor]


def search(
    shards: Shards, queries: torch.Tensor, k: int, database: torch.Tensor | None, metric: str, impl: str
) -> Lists:
    """Scores and indices ``[Q, k]`` of this rank's ``queries`` among the rows of all ranks."""
    backend = pick("knn", impl, queries)
    if backend is cpp.knn and database is None and metric == "cosine":
        return _each_product_once(shards, queries, k)
    return _row_by_row(shards, queries, k, database, metric, backend)


def _each_product_once(shards: Shards, rows: torch.Tensor, k: int) -> Lists:
    """Neighbours by cosine of the rows of all ranks among themselves."""
    lists, own, under_way = no_lists(rows, k), pieces(rows, least=2), deque[Callable[[], None]]()
    own_scores, starts = lists[0].new_empty(len(rows)), [0, *accumulate(len(piece) for (piece,) in own)]
    first, last = 0, (-1, 0)
    for rank, (visitor,) in shards.visits(own):
        place = last = rank, last[1] + 1 if rank == last[0] else 0
        found, visiting = no_lists(visitor, k), unit(visitor)
        for n, (piece,) in enumerate(own if len(visitor) else ()):
            some = slice(starts[n], starts[n + 1])
            if place == (shards.rank, n):
                scores, indices = cpp.knn(piece, min(k, len(piece)))
                own_scores[some] = scores[:, 0]
                scores[:, 0] = torch.inf  # before all others, whatever they score
                _merge(found, scores, indices + first)
            elif len(piece) and (place[1] + n) % 2 == (place < (shards.rank, n)):
                mine, theirs = cpp.nearest_of_both(unit(piece), visiting, k)
                _merge(_part(lists, some), mine[0], mine[1] + first)
                _merge(found, theirs[0], theirs[1] + shards.own.start + some.start)
        at = first - shards.own.start if rank == shards.rank else 0
        under_way.append(_returned(shards, rank, found, _part(lists, slice(at, at + len(visitor)))))
        if len(under_way) > UNDER_WAY:
            under_way.popleft()()
        first += len(visitor)
    for arrive in under_way:
        arrive()
    lists[0][:, 0] = own_scores
    return lists


def _returned(shards: Shards, rank: int, found: Lists, lists: Lists) -> Callable[[], None]:
    """Send what was ``found`` for a piece to its ``rank``; the call that puts all findings into ``lists`` there."""
    works, arrived = zip(*(shards.collect(x.contiguous(), rank) for x in found), strict=True)

    def arrive() -> None:
        for work in works:
            work.wait()
        for scores, indices in zip(*arrived, strict=True):
            _merge(lists, scores, indices)

    return arrive


def _row_by_row(
    shards: Shards, queries: torch.Tensor, k: int, database: torch.Tensor | None, metric: str, backend: Callable
) -> Lists:
    lists, first, step = no_lists(queries, k), 0, _piece_rows(queries)
    own_scores, sign = lists[0].new_empty(len(queries)), 1 if metric == "cosine" else -1
    for rank, (piece,) in shards.visits(pieces(queries if database is None else database)):
        for start in range(0, len(queries) if len(piece) else 0, step):
            some = slice(start, min(start + step, len(queries)))
            itself = database is None and rank == shards.rank and start == first - shards.own.start
            among = None if itself else piece
            values, found = backend(queries[some], min(k, len(piece)), database=among, metric=metric)
            values = sign * values
            if itself:
                own_scores[some] = values[:, 0]
                values[:, 0] = torch.inf  # before all others, whatever they score
            _merge(_part(lists, some), values, found + first)
        first += len(piece)
    if database is None:
        lists[0][:, 0] = own_scores
    return sign * lists[0], lists[1]


def no_lists(rows: torch.Tensor, k: int) -> Lists:
    """Lists of ``k`` for every row, whose entries give way to any."""
    scores = rows.new_full((len(rows), k), -torch.inf, dtype=torch.promote_types(rows.dtype, torch.float32))
    return scores, torch.full_like(scores, torch.iinfo(torch.int64).max, dtype=torch.int64)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)


def pieces(rows: torch.Tensor, least: int = 1) -> list[tuple[torch.Tensor]]:
    """``rows``, a piece at a time; at least so many, as far as there are rows."""
    size = min(_piece_rows(rows), max(1, -(-len(rows) // least)))
    return [(piece,) for piece in rows.contiguous().split(size)]


def _piece_rows(rows: torch.Tensor) -> int:
    size = PIECE_BYTES * (1 if rows.device.type == "cpu" else PIECES_ON_GPU)
    return max(1, size // (rows.shape[1] * rows.element_size()))


def _part(lists: Lists, rows: slice) -> Lists:
    return lists[0][rows], lists[1][rows]


def _merge(lists: Lists, scores: torch.Tensor, indices: torch.Tensor) -> None:
    """Put into ``lists`` what scores higher; of equals the smaller index."""
    k = lists[0].shape[1]
    indices, order = torch.cat([lists[1], indices], 1).sort(dim=1)
    scores, order = torch.cat([lists[0], scores], 1).gather(1, order).sort(dim=1, descending=True, stable=True)
    lists[0].copy_(scores[:, :k])
    lists[1].copy_(indices.gather(1, order[:, :k]))
