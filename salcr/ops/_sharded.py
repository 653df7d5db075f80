"""Neighbours and pseudo labels of rows that are spread over processes: what ``group=`` does in knn and cluster.

Features travel in pieces, see ``_sharded_search.py``. The lists of neighbours, k1 ranks and products for each row, are
small and go to every rank. Each rank then makes the encodings of its own rows, which travel in pieces too, and finds
the near pairs of its own rows with rows that come after them. Near pairs do not travel: a rank finds the connected
components that its pairs form and sends one link for each row, at most, to the smallest row of its component. Every
rank joins the links of all.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.distributed as dist

from salcr.ops._checks import check_integer, check_lengths, check_tensor, check_values, wide_dtype
from salcr.ops._dispatch import PREFERRED, BackendError, check_impl, missing, pick
from salcr.ops._group import Shards, join
from salcr.ops._sharded_search import no_lists, pieces, search
from salcr.ops.backends.cpp import jaccard as _rows
from salcr.ops.backends.cpp.jaccard import SparseBlock
from salcr.ops.jaccard import Neighbors, check_lists, check_neighbors, set_sizes

PIECE_ROWS = 2**15  # of encodings
PAIRS = 2**13  # whose features are gathered at a time


def nearest(
    queries: torch.Tensor,
    k: int,
    *,
    database: torch.Tensor | None,
    metric: str,
    impl: str,
    group: "dist.ProcessGroup",
    check: Callable[[], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The neighbours of this rank's ``queries`` among all ranks' rows; ``check`` raises where an argument is wrong."""

    def describe():
        check()
        pick("knn", check_impl(impl), queries)
        return len(rows), {**_facts("queries", queries), "k": k, "metric": metric, "database": database is not None}

    rows = queries if database is None else database
    shards = join(group, describe)
    check_integer("k", k, 1, shards.total)
    queries, database = (None if x is None else x.detach().resolve_neg() for x in (queries, database))

    def check_rows():
        check_lengths("queries", queries, shards.own.start if database is None else 0)
        if database is not None:
            check_lengths("database", database, shards.own.start)

    shards.agree(check_rows)
    return search(shards, queries, k, database, metric, check_impl(impl))


def labels_of_shard(
    features: torch.Tensor,
    *,
    eps: float,
    min_samples: int,
    k1: int,
    k2: int,
    neighbors: Neighbors | None,
    impl: str,
    group: "dist.ProcessGroup",
    check: Callable[[], None],
) -> torch.Tensor:
    """Labels of this rank's ``features``; see :func:`salcr.ops.cluster`."""

    def describe():
        check()
        check_tensor("features", features, ndim=2, no_rows=True)
        check_values("features", features)
        check_integer("k1", k1)
        check_integer("k2", k2)
        name = check_impl(impl).removesuffix(PREFERRED)
        if name in ("reference", "eager") or missing("cpp"):
            raise BackendError(missing("cpp") or f"with a group cluster has the backend cpp alone, got impl={name!r}")
        if neighbors is None:
            pick("knn", check_impl(impl), features)
        given = neighbors is not None
        facts = {"eps": eps, "min_samples": min_samples, "k1": k1, "k2": k2, "neighbors": given}
        return len(features), {**_facts("features", features), **facts}

    shards = join(group, describe)
    features, k1 = features.detach().resolve_neg(), min(k1, shards.total)

    def check_rows():
        check_lengths("features", features, shards.own.start)
        if neighbors is not None and len(features):
            check_neighbors(neighbors, features, k1)
            check_lists(*neighbors, features, first=shards.own.start, total=shards.total)

    shards.agree(check_rows)
    largest = float(np.float32(min(eps, 1)))
    if largest >= 1:  # all are near
        return torch.full((len(features),), 0 if shards.total >= min_samples else -1, device=features.device)
    if neighbors is None:
        neighbors = search(shards, features, k1, None, "cosine", check_impl(impl))
    elif not len(features):
        neighbors = no_lists(features, k1)
    products, ranks = (x.detach()[:, :k1] for x in neighbors)
    encodings = _encodings(shards, features, products, ranks, k2)
    left, right = _near_pairs(shards, encodings, largest, features.device)
    return torch.from_numpy(_labels(shards, left, right, min_samples, features.device)).to(features.device)


def _facts(name: str, x: torch.Tensor) -> dict[str, object]:
    return {f"the width of {name}": x.shape[1], f"the dtype of {name}": x.dtype, f"the device of {name}": x.device.type}


def _encodings(
    shards: Shards, features: torch.Tensor, products: torch.Tensor, ranks: torch.Tensor, k2: int
) -> SparseBlock:
    """This rank's rows of the encodings, columns rarest first."""
    k1, own = ranks.shape[1], shards.own
    half, k2 = set_sizes(k1, k2)
    ranks, products = shards.gather(ranks.int().contiguous()).cpu(), shards.gather(products.contiguous()).cpu()
    pointers, others = _rows.unlisted_pairs(ranks, products, own, half)
    block = _rows.weighted_rows(
        ranks, products, own, half, pointers, _unlisted_products(shards, features, pointers, others)
    )
    places, used = ranks[own, :k2].contiguous(), features.device
    del ranks, products
    if k2 > 1:
        wanted, places = places.unique(return_inverse=True)
        block = _rows.averaged_rows(places.int(), _fetch(shards, block, wanted, used), shards.total)
    uses = shards.sum_(block.uses(shards.total).to(used)).cpu()
    return _rows.rarest_first(block, uses)


def _unlisted_products(
    shards: Shards, features: torch.Tensor, pointers: torch.Tensor, others: torch.Tensor
) -> torch.Tensor:
    """Cosines of own rows with the ``others`` of each."""
    rows = torch.arange(len(pointers) - 1, device=pointers.device).repeat_interleave(pointers.diff())
    others, order = others.long().sort()
    rows, first = rows[order], 0
    dtype = wide_dtype(features)
    products = torch.empty(len(order), dtype=dtype, device=order.device)
    for _, (piece,) in shards.visits(pieces(features)):
        bounds = torch.searchsorted(others, others.new_tensor([first, first + len(piece)])).tolist()
        for pairs in torch.arange(*bounds, device=others.device).split(PAIRS):
            left, right = features[rows[pairs].to(features.device)], piece[(others[pairs] - first).to(features.device)]
            products[order[pairs]] = _rows.row_cosines(left.to(dtype), right.to(dtype)).cpu()
        first += len(piece)
    return products


def _fetch(shards: Shards, block: SparseBlock, wanted: torch.Tensor, device: torch.device) -> SparseBlock:
    """The ``wanted`` rows, ascending, of all ranks' blocks."""
    found = []
    for first, visitor in _visitors(shards, block, device):
        bounds = torch.searchsorted(wanted, wanted.new_tensor([first, first + len(visitor)])).tolist()
        found.append(visitor.take(wanted[slice(*bounds)].long() - first))
    return SparseBlock.joined(found)


def _visitors(shards: Shards, block: SparseBlock, device: torch.device) -> Iterator[tuple[int, SparseBlock]]:
    """Pieces of all ranks' blocks, each with the number of its first row."""
    first = 0
    pieces = [tuple(x.to(device) for x in piece) for piece in block.split(PIECE_ROWS)]
    for _, (pointers, entries) in shards.visits(pieces):
        visitor = SparseBlock(pointers.cpu(), entries.cpu(), block.dtype)
        yield first, visitor
        first += len(visitor)


def _near_pairs(
    shards: Shards, block: SparseBlock, max_distance: float, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs i < j of own rows i and any rows j within ``max_distance``."""
    own, pairs = shards.own, [np.empty((2, 0), np.int32)]
    for first, visitor in _visitors(shards, block, device):
        if first >= own.start and len(block) and len(visitor):
            near = _rows.near_pairs(block, visitor, first - own.start, shards.total, max_distance)
            pairs.append(np.stack([near[0] + np.int32(own.start), near[1] + np.int32(first)]))
    left, right = np.concatenate(pairs, 1)
    return left, right


def _labels(shards: Shards, left: np.ndarray, right: np.ndarray, min_samples: int, device: torch.device) -> np.ndarray:
    """DBSCAN's labels of own rows, from the near pairs that each rank knows; all else is the same on all ranks."""

    def over_ranks(combine, x: np.ndarray) -> np.ndarray:
        return combine(torch.from_numpy(x).to(device)).cpu().numpy()

    def links(roots: np.ndarray) -> np.ndarray:
        """``[2, L]``: the rows that are not their own root, and their roots."""
        linked = np.flatnonzero(roots != np.arange(total)).astype(np.int32)
        return np.stack([linked, roots[linked]])

    total = shards.total
    near = np.bincount(left, minlength=total) + np.bincount(right, minlength=total)
    core = 1 + over_ranks(shards.sum_, near) >= min_samples
    both = core[left] & core[right]
    roots = _roots(total, left[both], right[both])
    for rank, (theirs,) in shards.visits([(torch.from_numpy(links(roots)).to(device),)]):
        if rank != shards.rank:
            roots = _roots(total, *np.concatenate([links(roots), theirs.cpu().numpy()], 1))
    numbers = np.cumsum(core & (roots == np.arange(total))) - 1
    found = np.where(core, numbers[roots], total)  # total: none
    for i, j in ((left, right), (right, left)):
        border = ~core[i] & core[j]
        np.minimum.at(found, i[border], found[j[border]])
    found = over_ranks(shards.min_, found)[shards.own]
    return np.where(found == total, -1, found)


def _roots(total: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """The smallest row of each row's component in the graph of the pairs (i, j)."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    graph = sparse.coo_array((np.ones(len(i), bool), (i, j)), shape=(total, total))
    component = connected_components(graph, directed=False)[1]
    return np.unique(component, return_index=True)[1][component].astype(np.int32)
