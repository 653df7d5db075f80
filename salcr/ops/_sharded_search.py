"""Neighbours of rows that are spread over processes: lists that every rank keeps of its rows while others' pass.

Features travel in pieces, each broadcast by its rank while all work on the piece before. The C++ backend finds the
neighbours of two pieces in one another from the same products. So of two ranks only one has to multiply a pair of their
pieces: it keeps its own piece while the other's passes, and sends back what it finds for that. The two take turns. Each
rank searches its own rows first: a piece travels with the last score of every list, and few of the other ranks' rows
score more. With other backends both ranks make the products.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F

from salcr.ops._checks import wide_dtype
from salcr.ops._dispatch import pick
from salcr.ops._group import Shards
from salcr.ops.backends.cpp import knn as cpp

PIECE_BYTES = 2**25  # of features that travel at a time
NO_ROW = 2**61  # and what is larger is no row's index
PIECES_ON_GPU = 8  # times as large: a search reads k candidates of every piece again

Lists = tuple[torch.Tensor, torch.Tensor]


def search(
    shards: Shards, queries: torch.Tensor, k: int, database: torch.Tensor | None, metric: str, impl: str
) -> Lists:
    """Scores and indices ``[Q, k]`` of this rank's ``queries`` among the rows of all ranks."""
    backend = pick("knn", impl, queries)
    if backend is cpp.knn and database is None and metric == "cosine":
        return _each_product_once(shards, queries, k)
    return _row_by_row(shards, queries, k, database, metric, backend)


@dataclass(frozen=True)
class _Part:
    """A piece of the rows, and its lists of neighbours: what scores less than a list's last entry is not looked for."""

    rows: torch.Tensor
    first: int  # of all ranks' rows
    lists: Lists

    def visit(self, other: "_Part") -> None:
        """Put into the lists of both what their rows are to one another."""
        if len(self.rows) and len(other.rows):
            k, floors = self.lists[0].shape[1], (_last(self.lists), _last(other.lists))
            mine, theirs = cpp.nearest_of_both(unit(self.rows), unit(other.rows), k, floors)
            _merge(self.lists, *mine, other.first)
            _merge(other.lists, *theirs, self.first)


def _each_product_once(shards: Shards, rows: torch.Tensor, k: int) -> Lists:
    """Neighbours by cosine of the rows of all ranks among themselves."""
    lists, own = no_lists(rows, k), [piece for (piece,) in pieces(rows, least=2)]
    ends = accumulate(map(len, own))
    places = [slice(end - len(piece), end) for piece, end in zip(own, ends, strict=True)]
    parts = [_Part(piece, shards.own.start + at.start, _part(lists, at)) for piece, at in zip(own, places, strict=True)]
    own_scores = torch.cat([_among_own(part, parts[:n]) for n, part in enumerate(parts)])
    firsts, turns, under_way = list(shards.starts), [0] * shards.ranks, deque[Callable[[], None]]()
    for rank, (visiting, floors) in shards.visits([(part.rows, _last(part.lists)) for part in parts], by_turns=True):
        visitor = _Part(visiting, firsts[rank], no_lists(visiting, k))
        visitor.lists[0].copy_(floors[:, None])  # entries of no row, which give way to what scores as much
        for n, part in enumerate(parts if rank != shards.rank else ()):
            if (turns[rank] + n) % 2 == (rank < shards.rank):
                part.visit(visitor)
        known = parts[turns[rank]].lists if rank == shards.rank else visitor.lists
        under_way.append(_returned(shards, rank, visitor.lists, known))
        if len(under_way) > shards.ranks:
            under_way.popleft()()
        firsts[rank] += len(visiting)
        turns[rank] += 1
    for arrive in under_way:
        arrive()
    lists[0][:, 0] = own_scores
    return lists


def _among_own(part: _Part, others: Sequence[_Part]) -> torch.Tensor:
    """Put the neighbours that ``part`` and ``others``, of one rank, are to one another into their lists.

    Returns:
        The score of each row of ``part`` with itself.
    """
    own_scores = part.lists[0].new_empty(len(part.rows))
    if len(part.rows):
        scores, indices = cpp.knn(part.rows, min(part.lists[0].shape[1], len(part.rows)))
        own_scores.copy_(scores[:, 0])
        scores[:, 0] = torch.inf  # before all others, whatever they score
        _merge(part.lists, scores, indices, part.first)
    for other in others:
        part.visit(other)
    return own_scores


def _returned(shards: Shards, rank: int, found: Lists, lists: Lists) -> Callable[[], None]:
    """Send what was ``found`` for a piece to its ``rank``; the call that puts all findings into ``lists`` there."""
    works, arrived = zip(*(shards.collect(x, rank) for x in found), strict=True)

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
            block = slice(start, min(start + step, len(queries)))
            itself = database is None and rank == shards.rank and start == first - shards.own.start
            among = None if itself else piece
            values, found = backend(queries[block], min(k, len(piece)), database=among, metric=metric)
            values = sign * values
            if itself:
                own_scores[block] = values[:, 0]
                values[:, 0] = torch.inf  # before all others, whatever they score
            _merge(_part(lists, block), values, found, first)
        first += len(piece)
    if database is None:
        lists[0][:, 0] = own_scores
    return sign * lists[0], lists[1]


def no_lists(rows: torch.Tensor, k: int) -> Lists:
    """Lists of ``k`` for every row, whose entries give way to any."""
    scores = rows.new_full((len(rows), k), -torch.inf, dtype=wide_dtype(rows))
    return scores, torch.full_like(scores, NO_ROW, dtype=torch.int64)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows.to(wide_dtype(rows)), dim=1)


def pieces(rows: torch.Tensor, least: int = 1) -> list[tuple[torch.Tensor]]:
    """``rows``, a piece at a time; at least so many, as far as there are rows."""
    size = min(_piece_rows(rows), max(1, -(-len(rows) // least)))
    return [(piece,) for piece in rows.contiguous().split(size)]


def _piece_rows(rows: torch.Tensor) -> int:
    size = PIECE_BYTES * (1 if rows.device.type == "cpu" else PIECES_ON_GPU)
    return max(1, size // (rows.shape[1] * rows.element_size()))


def _last(lists: Lists) -> torch.Tensor:
    return lists[0][:, -1].clone(memory_format=torch.contiguous_format)  # lists go on changing while it travels


def _part(lists: Lists, rows: slice) -> Lists:
    return lists[0][rows], lists[1][rows]


def _merge(lists: Lists, scores: torch.Tensor, indices: torch.Tensor, first: int = 0) -> None:
    """Put into ``lists`` what scores higher; of equals the smaller index. ``indices`` count from ``first``."""
    k, rows = lists[0].shape[1], (indices[:, 0] < NO_ROW).nonzero()[:, 0]  # that found something
    indices, order = torch.cat([lists[1][rows], indices[rows] + first], 1).sort(dim=1)
    scores = torch.cat([lists[0][rows], scores[rows]], 1).gather(1, order)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    lists[0][rows] = scores[:, :k]
    lists[1][rows] = indices.gather(1, order[:, :k])
