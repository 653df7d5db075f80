"""Retrieval metrics of the protocols (docs/method.md, "Ranking metrics"), query by query in NumPy."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RankingResult:
    """What a ranking is worth; all figures are means over the queries that have a match, between 0 and 1.

    Attributes:
        cmc: ``[max_rank]``, float64: entry r is the share of queries whose identity is among the first r + 1.
        mAP: mean average precision.
        mINP: mean inverse negative penalty, matches / rank of the last match.
        valid_queries: how many queries have a match.
    """

    cmc: np.ndarray
    mAP: float
    mINP: float
    valid_queries: int


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
    figures = []
    for q, row in enumerate(distances):
        order = np.argsort(row, kind="stable")
        if protocol == "sysu" and query_cams[q] == 3:
            order = order[np.asarray(gallery_cams)[order] != 2]
        if protocol in ("llcm", "market1501"):
            same_camera = np.asarray(gallery_cams)[order] == query_cams[q].item()
            order = order[~(same_camera & (gallery_ids[order] == query_ids[q]))]
        ids = gallery_ids[order]
        ranks = np.flatnonzero(ids == query_ids[q]) + 1
        if len(ranks) == 0:
            continue
        listed = ids if protocol in ("regdb", "market1501") else ids[np.sort(np.unique(ids, return_index=True)[1])]
        first = np.flatnonzero(listed == query_ids[q])[0] + 1
        precision = np.arange(1, len(ranks) + 1) / ranks
        figures.append((first, precision.mean(), len(ranks) / ranks[-1]))
    first, precisions, penalties = np.array(figures).reshape(-1, 3).T
    return summarise(first, precisions, penalties, max_rank)


def summarise(first: np.ndarray, precision: np.ndarray, penalty: np.ndarray, max_rank: int) -> RankingResult:
    """Means over queries, from the rank of each query's identity, its average precision and inverse penalty."""
    if len(first) == 0:
        raise ValueError("no query has a match in the gallery")
    cmc = np.searchsorted(np.sort(first), np.arange(1, max_rank + 1), side="right") / len(first)
    return RankingResult(cmc, float(precision.mean()), float(penalty.mean()), len(first))
