"""The demo's page says what its records say, and they are of the demo as it is; run by ``make lint``."""

import pytest

from benchmarks import demo_page, demo_study
from benchmarks.records import read_json


@pytest.fixture(scope="module")
def record():
    return read_json(demo_study.RECORD)


def test_the_page_says_what_the_records_say(record):
    assert demo_study.tables(record) in demo_study.PAGE.read_text()


def test_every_run_is_of_todays_weights_and_settings(record):
    """A run of an earlier preset or of other weights would stand beside runs it cannot be compared with."""
    studies = [
        (demo_study.Study(demo_study.RECORD.parent, size, seed), row)
        for size, of_size in demo_study.sizes().items()
        for seed in of_size.seeds
        for row in demo_study.ROWS
    ]
    names = {study.name(row): study.digest(row) for study, row in studies}
    for name, run in record.items():
        assert run["settings"] == names[name.partition(" (")[0]], name


def test_the_data_cannot_be_solved_without_learning(record):
    for name, run in record.items():
        if "baselines" in run:
            chance = run["baselines"].pop("chance")
            assert max(run["baselines"].values()) < 25 and chance < 2.1, name
        if f": {demo_page.METHOD}, " in name:
            assert run["figures"][demo_page.PROTOCOL]["mAP"] > 10, name
