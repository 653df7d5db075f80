"""The demo's page says what its records say, and they say what the demo promises; run by ``make lint``."""

import pytest

from benchmarks import demo_study, ledger


@pytest.fixture(scope="module")
def record():
    return ledger.read(demo_study.RECORD)


def test_every_run_is_recorded(record):
    assert set(record) == {f"{variant}, seed {seed}" for variant in demo_study.VARIANTS for seed in demo_study.SEEDS}


def test_the_page_says_what_the_records_say(record):
    assert demo_study.tables(record) in demo_study.PAGE.read_text()


@pytest.mark.parametrize("seed", demo_study.SEEDS)
def test_stage_two_adds_ten_points(record, seed):
    run = record[f"the demo, seed {seed}"]
    for protocol, final in run["summary"]["final"].items():
        assert final["mAP"] > 3 * run["baselines"]["chance"]
        if protocol == demo_study.PROTOCOL:
            assert final["mAP"] >= run["summary"]["stage_one"][protocol]["mAP"] + 10
    assert max(value for name, value in run["baselines"].items() if name != "chance") < 25
