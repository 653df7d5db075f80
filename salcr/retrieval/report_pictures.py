"""Which pictures a report shows of a run: ranked lists, the worst queries, clusters and who is wrong in them."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from salcr import ops
from salcr.data.records import NO_IDENTITY, Dataset, Protocol, Records
from salcr.ops.ranking import is_ranked

PICTURES = 1000
"""That a page may hold; at 96 pixels and JPEG they take about 3 kB each."""


class Amount(NamedTuple):
    """Ranked lists of either kind and clusters of either modality that a run has on the page, and their lengths."""

    lists: int
    hits: int
    clusters: int
    images: int


class Picture(NamedTuple):
    """A file; ``right``: it shows the person that it should, None where nobody knows."""

    path: str
    right: bool | None


class Ranked(NamedTuple):
    """A query, its average precision, the rank of the first right image, and the images ranked first."""

    query: str
    precision: float
    first: int
    hits: list[Picture]


class Sheet(NamedTuple):
    """A cluster and some of its images, its people by turns; ``strangers`` are not of its most frequent person."""

    label: int
    size: int
    people: int
    strangers: int
    pictures: list[Picture]


class ContactSheets(NamedTuple):
    """Clusters of one modality, those with the most strangers first, then the largest."""

    side: str
    clusters: int
    impure: int | None
    noise: int
    sheets: list[Sheet]


def amount(runs: int) -> Amount:
    """What of each of so many runs fits on a page with at most ``PICTURES``."""
    share = PICTURES // runs
    return Amount(lists=min(6, share // 36), hits=8, clusters=min(6, share // 45), images=9)


def ranked_lists(
    features: torch.Tensor, dataset: Dataset, protocol: Protocol, wanted: Amount
) -> tuple[list[Ranked], list[Ranked]]:
    """Lists of queries of people at even distances, and those of the lowest average precision, in the first trial.

    Args:
        features: ``[N, D]`` of ``dataset.test``.
        dataset: whose protocol it is.
        protocol: whose first trial is ranked, by cosine and without any refinement.
        wanted: how many lists, and how long.

    Raises:
        ValueError: no query has a match, or a feature is NaN.
    """
    test, trial = dataset.test, protocol.trials[0]
    query, gallery = (
        F.normalize(features[torch.from_numpy(rows).to(features.device)]) for rows in (trial.query, trial.gallery)
    )
    distances = (2 - 2 * query @ gallery.mT).cpu()
    ids, cams = test.ids[trial.gallery], test.cams[trial.gallery]
    of_queries = test.ids[trial.query], ids, test.cams[trial.query], cams
    precision = ops.evaluate_ranking(distances, *of_queries, protocol=protocol.rule).query_ap

    def ranked_list(number: int) -> Ranked:
        row = trial.query[number]
        order = np.argsort(distances[number].numpy(), kind="stable")
        order = order[is_ranked(test.ids[row], test.cams[row], ids, cams, protocol.rule)[order]]
        right = ids[order] == test.ids[row]
        files = (_file(test, trial.gallery[i]) for i in order[: wanted.hits])
        hits = [Picture(file, bool(is_right)) for file, is_right in zip(files, right, strict=False)]
        return Ranked(_file(test, row), float(precision[number]), int(right.argmax()) + 1, hits)

    matched = np.flatnonzero(~np.isnan(precision))
    first = np.unique(test.ids[trial.query[matched]], return_index=True)[1]  # query of each person
    even = first[:: max(1, -(-len(first) // wanted.lists))]
    worst = matched[np.argsort(precision[matched], kind="stable")][: wanted.lists]
    return [ranked_list(matched[i]) for i in even], [ranked_list(i) for i in worst]


def contact_sheets(labels: np.ndarray, records: Records, side: str, wanted: Amount) -> ContactSheets:
    """The clusters of the training images ``records`` of one modality: ``labels`` ``[N]``, noise negative.

    Raises:
        ValueError: there are not as many labels as images.
    """
    if labels.shape != (len(records),):
        raise ValueError(f"{len(labels)} {side} labels do not fit the data set's {len(records)} images")
    clusters = [
        _Cluster.of(int(label), np.flatnonzero(labels == label), records) for label in np.unique(labels[labels >= 0])
    ]
    impure = sum(cluster.strangers > 0 for cluster in clusters) if any(len(c.people) for c in clusters) else None
    worst = sorted(clusters, key=lambda cluster: (-cluster.strangers, -len(cluster.rows), cluster.label))
    shown = [_sheet(cluster, records, wanted.images) for cluster in worst[: wanted.clusters]]
    return ContactSheets(side, len(clusters), impure, int((labels < 0).sum()), shown)


class _Cluster(NamedTuple):
    """``people`` are its known identities, the most frequent first."""

    label: int
    rows: np.ndarray
    people: np.ndarray
    strangers: int

    @classmethod
    def of(cls, label: int, rows: np.ndarray, records: Records) -> "_Cluster":
        ids = records.ids[rows]
        people, counts = np.unique(ids[ids != NO_IDENTITY], return_counts=True)
        strangers = int(counts.sum() - counts.max()) if len(counts) else 0
        return cls(label, rows, people[np.argsort(-counts, kind="stable")], strangers)


def _sheet(cluster: _Cluster, records: Records, images: int) -> Sheet:
    """A first image of each person, the most frequent person's first, then a second of each, and so on."""
    ids = records.ids[cluster.rows]
    place = {person: number for number, person in enumerate(cluster.people.tolist())}
    turns, seen = [], Counter[int]()
    for i, person in enumerate(ids.tolist()):
        turns.append((seen[person], place.get(person, len(place)), i))
        seen[person] += 1
    order = [i for *_, i in sorted(turns)[:images]]
    pictures = [
        Picture(_file(records, cluster.rows[i]), None if ids[i] == NO_IDENTITY else bool(ids[i] == cluster.people[0]))
        for i in order
    ]
    return Sheet(cluster.label, len(ids), len(cluster.people), cluster.strangers, pictures)


def _file(records: Records, row: int) -> str:
    return str(records.root / records.paths[row])
