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

REGDB, SYSU, LLCM = 0, 1, 2
PROTOCOLS = {"regdb": REGDB, "sysu": SYSU, "llcm": LLCM}
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
    first, precision, penalty = np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
    members = gallery.argsort(kind="stable")
    bounds = np.searchsorted(gallery[members], np.arange(len(identities) + 1))
    arguments = distances, query, members, bounds, gallery, query_cams, gallery_cams, PROTOCOLS[protocol]
    threads = max(1, min(torch.get_num_threads(), distances.size // MIN_WORK))
    shares = np.linspace(0, count, threads + 1).astype(np.int64)
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(_measure, *arguments, start, stop, first, precision, penalty)
            for start, stop in pairwise(shares)
        ]
        for job in jobs:
            job.result()
    valid = first > 0
    return summarise(first[valid], precision[valid], penalty[valid], max_rank)


@njit(nogil=True)
def _measure(
    distances,
    query,
    members,
    bounds,
    gallery,
    query_cams,
    gallery_cams,
    protocol,
    start,
    stop,
    first,
    precision,
    penalty,
):
    """Fill ``first``, ``precision`` and ``penalty`` of the queries from ``start`` to ``stop``."""
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
            if protocol == LLCM and gallery_cams[g] == query_cams[q]:
                row[g] = np.nan
            if not np.isnan(row[g]):
                matches[positives] = g
                positives += 1
        if positives == 0:
            continue
        for p in range(positives):
            ranks[p] = 1 + _count_before(row, matches[p])
        if protocol == REGDB:
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
        precision[q] = total / positives
        penalty[q] = positives / ranks[positives - 1]


@njit(nogil=True)
def _count_before(row, place):
    """How many entries a stable sort puts before ``row[place]``: two loops without a branch, which vectorise."""
    value, count = row[place], 0
    for g in range(place):
        count += row[g] <= value
    for g in range(place + 1, len(row)):
        count += row[g] < value
    return count
