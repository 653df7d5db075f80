from pathlib import Path

import numpy as np
import pytest
import torch

from salcr.data.records import Dataset, Protocol, Records, Trial
from salcr.retrieval.report_pictures import PICTURES, Amount, amount, contact_sheets, ranked_lists

ROOT = Path("/data")


def records(ids, cams=None, infrared=False):
    ids = np.array(ids, dtype=np.int64)
    paths = tuple(f"{row}.png" for row in range(len(ids)))
    cams = np.ones_like(ids) if cams is None else np.array(cams)
    return Records(ROOT, paths, ids, cams, np.full(len(ids), infrared))


def lists(ids, cams, angles, queries, *, rule="sysu"):
    """Ranked lists of the first ``queries`` images in the others, whose features lie at ``angles``."""
    test, none = records(ids, cams), records([])
    trial = Trial(np.arange(queries), np.arange(queries, len(ids)))
    protocol = Protocol("all", rule, (trial,))
    angles = torch.tensor(angles)
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    wanted = Amount(lists=2, hits=3, clusters=0, images=0)
    return ranked_lists(features, Dataset("mine", ROOT, none, none, test, (protocol,)), protocol, wanted)


def shown(ranked):
    return ranked.query[6:-4], [(path[6:-4], right) for path, right in ranked.hits]


def test_lists_are_ranked_by_cosine_and_right_ones_marked():
    (only,), (worst,) = lists([7, 8, 7, 7, 9], [3, 1, 1, 4, 5], [0.0, 0.1, 0.2, -0.4, 0.9], 1)
    assert shown(only) == ("0", [("1", False), ("2", True), ("3", True)])
    assert only.first == 2 and only.precision == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert worst == only


@pytest.mark.parametrize(
    ("rule", "cams", "left"),
    [("sysu", [3, 2, 1], ["2"]), ("llcm", [1, 1, 2], ["2"]), ("regdb", [3, 2, 1], ["1", "2"])],
)
def test_images_that_the_protocol_ignores_are_not_listed(rule, cams, left):
    (only,), _ = lists([7, 7, 7], cams, [0.0, 0.1, 0.2], 1, rule=rule)
    assert [name for name, _ in shown(only)[1]] == left


def test_people_at_even_distances_and_the_worst_queries_first():
    angles = [
        *(0.2 * n for n in range(5)),
        *(0.2 * n for n in (1, 0, 2, 3, 4)),
    ]  # people 0 and 1 are taken for each other
    even, worst = lists([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], [1] * 10, angles, 5, rule="regdb")
    assert [ranked.query for ranked in even] == ["/data/0.png", "/data/3.png"]
    assert [ranked.query for ranked in worst] == ["/data/0.png", "/data/1.png"]
    assert [(ranked.precision, ranked.first) for ranked in worst] == [(0.5, 2), (0.5, 2)]


def test_a_query_without_a_match_is_no_bad_one():
    _, worst = lists([1, 2, 2, 3], [1] * 4, [0.0, 0.0, 0.1, 0.0], 2, rule="regdb")
    assert [ranked.query for ranked in worst] == ["/data/1.png"]
    with pytest.raises(ValueError, match="no query has a match"):
        lists([1, 2], [1, 1], [0.0, 0.0], 1, rule="regdb")


def test_impure_clusters_come_first_and_strangers_are_seen():
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, -1])
    ids = [5, 5, 5, 6, 6, 8, 8, 8, 9, 9, 9]
    side = contact_sheets(labels, records(ids), "visible", Amount(0, 0, clusters=2, images=4))
    assert (side.clusters, side.impure, side.noise) == (3, 1, 1)
    impure, largest = side.sheets
    assert impure[:4] == (0, 5, 2, 2)
    assert impure.pictures == [(f"/data/{n}.png", right) for n, right in ((0, True), (3, False), (1, True), (4, False))]
    assert largest[:4] == (1, 3, 1, 0) and [right for _, right in largest.pictures] == [True] * 3


def test_clusters_of_unknown_people_are_shown_unmarked():
    side = contact_sheets(np.zeros(3, int), records([-1, -1, -1]), "infrared", Amount(0, 0, 1, 5))
    assert side.impure is None and [right for _, right in side.sheets[0].pictures] == [None] * 3
    side = contact_sheets(np.zeros(3, int), records([-1, 4, 4]), "infrared", Amount(0, 0, 1, 5))
    assert side.impure == 0
    assert side.sheets[0].pictures == [("/data/1.png", True), ("/data/0.png", None), ("/data/2.png", True)]


def test_labels_of_another_data_set_are_an_error():
    with pytest.raises(ValueError, match="2 visible labels do not fit the data set's 3 images"):
        contact_sheets(np.zeros(2, int), records([1, 2, 3]), "visible", Amount(0, 0, 1, 1))


@pytest.mark.parametrize("runs", [1, 2, 4, 10, 27, 28, 1000])
def test_a_page_has_no_more_pictures_than_it_may(runs):
    wanted = amount(runs)
    of_a_run = 2 * wanted.lists * (1 + wanted.hits) + 2 * wanted.clusters * wanted.images
    assert runs * of_a_run <= PICTURES
    assert (wanted.lists > 0) == (runs <= 27)
