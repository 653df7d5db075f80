"""Retrieval metrics without sorting a gallery, compiled by numba. Imported only when it runs.

Only the ranks of a query's matches matter, and a rank is one more than the number of images that come before: a few
vectorised passes over the row. Queries are divided among Python threads, which numba lets run side by side: no
threading layer, so nothing that could get in the way of torch's OpenMP. Each query's figures depend on it alone.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch

from salcr.jit import njit
from salcr.reference.ranking import RankingResult, summarise

REGDB, SYSU, LLCM, MARKET, CUHK = range(5)
PROTOCOLS = {"regdb": REGDB, "sysu": SYSU, "llcm": LLCM, "market1501": MARKET, "cuhk03": CUHK}
MIN_WORK = 200_000  # distances that make a thread worth starting


def evaluate_ranking(
    distances: np.ndarray,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cams: np.ndarray | None,
    gallery_cams: np.ndarray | None,
    *,
    protocol: str,
    max_rank: int,
) -> RankingResult:
    """As :func:`salcr.reference.evaluate_ranking`, for float32 or float64 distances and int64 ids and cameras."""
    identities, gallery = np.unique(gallery_ids, return_inverse=True)
    place = np.searchsorted(identities, query_ids).clip(max=len(identities) - 1)
    query = np.where(identities[place] == query_ids, place, -1)
    count = len(query)
    if protocol == "regdb":
        query_cams, gallery_cams = np.zeros(count, np.int64), np.zeros(len(gallery), np.int64)
    first, (query_ap, query_inp) = np.zeros(count, np.int64), np.full((2, count), np.nan)
    curves = np.zeros((count if protocol == "cuhk03" else 0, min(max_rank, len(identities))))
    members = gallery.argsort(kind="stable")
    bounds = np.searchsorted(gallery[members], np.arange(len(identities) + 1))
    arguments = distances, query, members, bounds, gallery, query_cams, gallery_cams, PROTOCOLS[protocol]
    threads = max(1, min(torch.get_num_threads(), distances.size // MIN_WORK))
    shares = np.linspace(0, count, threads + 1).astype(np.int64)
    matches = np.zeros((threads, max_rank), np.int64)

    def measure(thread, share):
        _measure(*arguments, *share, first, curves, query_ap, query_inp, matches[thread])

    if threads == 1:
        measure(0, shares)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(measure, range(threads), pairwise(shares)))
    if protocol == "cuhk03":
        found = np.pad(curves.sum(0), (0, max_rank - curves.shape[1]), "edge")
    else:
        found = np.searchsorted(np.sort(first[first > 0]), np.arange(1, max_rank + 1), side="right")
    return summarise(found, matches.sum(0), query_ap, query_inp)


@njit(nogil=True)
def _measure(
    distances, query, members, bounds, gallery, query_cams, gallery_cams, protocol, start, stop, first, curves,
    query_ap, query_inp, matches_at,
):  # fmt: skip
    """Fill ``first`` or ``curves``, ``query_ap`` and ``query_inp`` of the queries from ``start`` to ``stop``.

    ``first`` is the first match's place in the CMC, among images or identities. ``matches_at`` counts matches by rank.
    """
    row = np.empty(distances.shape[1], distances.dtype)
    matches = np.empty(len(row), np.int64)
    ranks = np.empty(len(row), np.int64)
    seen = np.full(len(bounds), -1)
    for q in range(start, stop):
        if query[q] < 0:
            continue
        row[:] = distances[q]
        if protocol == SYSU and query_cams[q] == 3:
            for g in range(len(row)):
                if gallery_cams[g] == 2:
                    row[g] = np.nan  # is neither smaller nor equal: never counted
        positives = 0
        for g in members[bounds[query[q]] : bounds[query[q] + 1]]:
            if protocol in (LLCM, MARKET, CUHK) and gallery_cams[g] == query_cams[q]:
                row[g] = np.nan
            if not np.isnan(row[g]):
                matches[positives] = g
                positives += 1
        if positives == 0:
            continue
        for p in range(positives):
            ranks[p] = 1 + _count_before(row, matches[p])
        if protocol == CUHK:
            _expected_cmc(row, matches[:positives], query[q], gallery, bounds, curves[q])
        elif protocol in (REGDB, MARKET):
            first[q] = ranks[:positives].min()
        else:
            nearest = matches[ranks[:positives].argmin()]
            first[q] = 1
            for g in range(len(row)):
                near = row[g] < row[nearest] or (row[g] == row[nearest] and g < nearest)
                if near and seen[gallery[g]] != q:
                    seen[gallery[g]] = q
                    first[q] += 1
        ranks[:positives].sort()
        total = 0.0
        for p in range(positives):
            total += (p + 1) / ranks[p]
            if ranks[p] <= len(matches_at):
                matches_at[ranks[p] - 1] += 1
        query_ap[q] = total / positives
        query_inp[q] = positives / ranks[positives - 1]


@njit(nogil=True)
def _expected_cmc(row, matches, own, gallery, bounds, curve):
    """See :func:`salcr.reference.ranking.expected_cmc`."""
    before, ahead = np.empty(len(bounds) - 1, np.int64), np.empty(len(curve))
    for match in matches:
        before[:] = 0
        for g in range(len(row)):
            before[gallery[g]] += row[g] < row[match] or (row[g] == row[match] and g < match)
        ahead[:] = 0
        ahead[0] = 1
        for identity in range(len(before)):
            if identity != own and before[identity]:
                share = before[identity] / (bounds[identity + 1] - bounds[identity])
                for r in range(len(ahead) - 1, 0, -1):
                    ahead[r] = ahead[r] * (1 - share) + ahead[r - 1] * share
                ahead[0] *= 1 - share
        total = 0.0
        for r in range(len(curve)):
            total += ahead[r]
            curve[r] += total
    for r in range(len(curve)):
        curve[r] = min(curve[r] / len(matches), 1.0)


@njit(nogil=True)
def _count_before(row, place):
    """How many entries a stable sort puts before ``row[place]``. Two loops without a branch vectorise."""
    value, count = row[place], 0
    for g in range(place):
        count += row[g] <= value
    for g in range(place + 1, len(row)):
        count += row[g] < value
    return count
