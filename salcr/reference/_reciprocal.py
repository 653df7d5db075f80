"""k-reciprocal encodings as sparse rows: what the Jaccard distance and both re-rankings share.

A set for every image is a sparse 0/1 matrix with one row an image. SciPy is imported here, so import this module late.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse

BLOCK_PAIRS = 2**22  # entries of a block's dense rows, and of its expanded column lists


def half(k: int) -> int:
    """``k / 2`` rounded half to even: 15 for 30, 12 for 25, 18 for 35."""
    return round(k / 2)


def membership(ranks: np.ndarray, columns: int | None = None) -> sparse.csr_array:
    """Ones at ``(i, ranks[i, r])``, for ranks ``[N, k]`` into ``columns`` items (``N`` unless given)."""
    rows, k = ranks.shape
    pointers = np.arange(rows + 1, dtype=np.int64) * k
    ones = np.ones(rows * k, np.int32)
    return sparse.csr_array((ones, ranks.astype(np.int64).ravel(), pointers), shape=(rows, columns or rows))


def reciprocal_sets(ranks: np.ndarray) -> sparse.csr_array:
    """``{j in ranks[i] : i in ranks[j]}`` for every i."""
    near = membership(ranks)
    return near.multiply(near.T).tocsr()


def expanded_sets(full: sparse.csr_array, halves: sparse.csr_array) -> sparse.csr_array:
    """Each set of ``full``, united with ``halves[c]`` of its members c that lie more than two thirds inside it."""
    overlap = (full @ halves.T).multiply(full).tocoo()  # |halves[c] & full[i]| at every c in full[i]
    i, c = overlap.coords
    joins = 3 * overlap.data > 2 * np.diff(halves.indptr)[c]
    chosen = sparse.csr_array((np.ones(joins.sum(), np.int32), (i[joins], c[joins])), shape=full.shape)
    return full + chosen @ halves


def encode(
    ranks: np.ndarray, full: int, halved: int, distances: Callable[[np.ndarray, np.ndarray], np.ndarray], k2: int
) -> sparse.csr_array:
    """k-reciprocal encodings: rows that sum to 1.

    Args:
        ranks: neighbours of every image in order, itself first.
        full: how many ranks the reciprocal set uses.
        halved: how many the sets use that may join it.
        distances: distances of the pairs (i, j), given as two index arrays; the weight of a pair is exp(-distance).
        k2: encodings are averaged over this many first ranks.
    """
    sets = expanded_sets(reciprocal_sets(ranks[:, :full]), reciprocal_sets(ranks[:, :halved]))
    return local_query_expansion(weighted(sets, distances), ranks[:, :k2])


def weighted(sets: sparse.csr_array, distances: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> sparse.csr_array:
    """Rows of exp(-distance) over each set, divided by their sum."""
    i, j = sets.tocoo().coords
    return divided_by_sums(sparse.csr_array((np.exp(-distances(i, j)), (i, j)), shape=sets.shape))


def divided_by_sums(weights: sparse.csr_array) -> sparse.csr_array:
    """Rows divided by their sums; rows without an entry stay empty."""
    sums = np.maximum(weights.sum(1), np.finfo(weights.dtype).tiny)
    weights.data /= np.repeat(sums, np.diff(weights.indptr))
    return weights


def local_query_expansion(encodings: sparse.csr_array, neighbours: np.ndarray) -> sparse.csr_array:
    """Each row becomes the mean of the encodings of its ``neighbours [N, k2]``."""
    if neighbours.shape[1] == 1:
        return encodings
    mean = (membership(neighbours).astype(encodings.dtype) @ encodings) / neighbours.shape[1]
    mean.sort_indices()
    return mean.astype(encodings.dtype, copy=False)


def jaccard_distances(left: sparse.csr_array, right: sparse.csr_array) -> np.ndarray:
    """All blocks of :func:`jaccard_rows` in one array."""
    return np.concatenate([block for _, block in jaccard_rows(left, right)])


def jaccard_rows(left: sparse.csr_array, right: sparse.csr_array) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of ``1 - m / (2 - m)``, ``m_ij = sum_l min(left_il, right_jl)``, with each block's first row.

    Every entry ``(i, l)`` meets all entries of column ``l`` of ``right``; the minima are summed by pair in float64, in
    the order of l, so that the result is symmetric to the last bit where ``left`` is ``right``.
    """
    columns = right.tocsc()
    columns.sort_indices()
    lengths = np.diff(columns.indptr)
    work = np.concatenate([[0], np.cumsum(lengths[left.indices], dtype=np.int64)])[left.indptr]
    start, rows, width = 0, left.shape[0], right.shape[0]
    while start < rows:
        stop = min(start + max(1, BLOCK_PAIRS // width), int(np.searchsorted(work, work[start] + BLOCK_PAIRS)))
        stop = min(max(stop, start + 1), rows)
        entries = slice(left.indptr[start], left.indptr[stop])
        counts = lengths[left.indices[entries]]
        partner = np.arange(counts.sum()) + np.repeat(
            columns.indptr[left.indices[entries]] - np.cumsum(counts) + counts, counts
        )
        row = np.repeat(np.arange(stop - start), np.diff(left.indptr[start : stop + 1]))
        minima = np.minimum(np.repeat(left.data[entries], counts), columns.data[partner])
        pairs = np.repeat(row * width, counts) + columns.indices[partner]
        shared = np.bincount(pairs, minima, (stop - start) * width).reshape(-1, width)
        yield start, np.maximum(1 - shared / (2 - shared), 0)
        start = stop
