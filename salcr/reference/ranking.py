"""Retrieval metrics of the protocols (docs/method.md, "Ranking metrics"), query by query in NumPy."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class RankingResult:
    """What a ranking is worth, all between 0 and 1; ``cmc, mAP, mINP = result`` unpacks the first three.

    Attributes:
        cmc: ``[max_rank]``, float64: entry r is the share of queries whose identity is among the first r + 1.
        mAP: mean average precision.
        mINP: mean inverse negative penalty, matches / rank of the last match.
        valid_queries: how many queries have a match; these and no others are in the means.
        precision: ``[max_rank]``, float64: entry r is the mean share of matches among the first r + 1 images.
        query_ap: ``[Q]``, float64: average precision of each query, NaN where it has no match.
        query_inp: ``[Q]``, float64: its inverse negative penalty, or NaN.
    """

    cmc: np.ndarray
    mAP: float
    mINP: float
    valid_queries: int
    precision: np.ndarray
    query_ap: np.ndarray = field(repr=False)
    query_inp: np.ndarray = field(repr=False)

    def __iter__(self) -> Iterator[Any]:  # a union would fit none of the three that are unpacked
        return iter((self.cmc, self.mAP, self.mINP))


def evaluate_ranking(
    distances,
    query_ids,
    gallery_ids,
    query_cams=None,
    gallery_cams=None,
    *,
    protocol: str = "sysu",
    max_rank: int = 20,
) -> RankingResult:
    """Sort, filter, look where the matches are; see :func:`salcr.ops.evaluate_ranking`."""
    distances, query_ids, gallery_ids = (np.asarray(x) for x in (distances, query_ids, gallery_ids))
    found, matches = np.zeros(max_rank), np.zeros(max_rank, np.int64)
    query_ap, query_inp = np.full((2, len(distances)), np.nan)
    for q, row in enumerate(distances):
        order = np.argsort(row, kind="stable")
        camera = None if query_cams is None else int(query_cams[q])
        order = order[is_ranked(query_ids[q], camera, gallery_ids, gallery_cams, protocol)[order]]
        ids = gallery_ids[order]
        ranks = np.flatnonzero(ids == query_ids[q]) + 1
        if len(ranks) == 0:
            continue
        if protocol == "cuhk03":
            found += expected_cmc(ids, query_ids[q], max_rank)
        else:
            listed = ids if protocol in ("regdb", "market1501") else ids[np.sort(np.unique(ids, return_index=True)[1])]
            found[np.flatnonzero(listed == query_ids[q])[0] :] += 1
        matches += np.bincount(ranks[ranks <= max_rank] - 1, minlength=max_rank)
        query_ap[q] = (np.arange(1, len(ranks) + 1) / ranks).mean()
        query_inp[q] = len(ranks) / ranks[-1]
    return summarise(found, matches, query_ap, query_inp)


def is_ranked(
    query_id: int, query_cam: int | None, gallery_ids: np.ndarray, gallery_cams: np.ndarray | None, protocol: str
) -> np.ndarray:
    """``[G]``, bool: which images of the gallery are ranked for a query, and not ignored."""
    if protocol == "sysu" and query_cam == 3:
        return np.asarray(gallery_cams) != 2
    if protocol in ("llcm", "market1501", "cuhk03"):
        return (np.asarray(gallery_cams) != query_cam) | (gallery_ids != query_id)
    return np.ones(len(gallery_ids), dtype=bool)


def expected_cmc(ids: np.ndarray, wanted: int, max_rank: int) -> np.ndarray:
    """Of galleries with one image of each identity, drawn from the ranking ``ids``: how probably rank r has ``wanted``.

    The drawn image of another identity comes before the match with the share of its images that do, independently of
    the others: how many do is a sum of such draws, whose distribution is convolved one identity after the other.
    """
    places = np.flatnonzero(ids == wanted)
    ahead = np.zeros((len(places), max_rank))  # of each match: how probably so many identities come before it
    ahead[:, 0] = 1
    for identity in np.unique(ids[ids != wanted]):
        share = (np.flatnonzero(ids == identity) < places[:, None]).mean(1, keepdims=True)
        ahead = ahead * (1 - share) + np.pad(ahead, ((0, 0), (1, 0)))[:, :-1] * share
    return np.minimum(ahead.cumsum(1).mean(0), 1)


def summarise(found: np.ndarray, matches: np.ndarray, query_ap: np.ndarray, query_inp: np.ndarray) -> RankingResult:
    """Means over the queries that have a match.

    Args:
        found: ``[max_rank]``, how many queries, or how probably, have their identity at that rank or before.
        matches: ``[max_rank]``, how many queries have a match at that rank.
        query_ap, query_inp: ``[Q]``, NaN where there is no match.
    """
    valid = ~np.isnan(query_ap)
    count = int(valid.sum())
    if count == 0:
        raise ValueError("no query has a match in the gallery")
    precision = matches.cumsum() / np.arange(1, len(matches) + 1) / count
    mean_ap, mean_inp = (float(x[valid].mean()) for x in (query_ap, query_inp))
    return RankingResult(found / count, mean_ap, mean_inp, count, precision, query_ap, query_inp)
