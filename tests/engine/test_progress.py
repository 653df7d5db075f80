import pytest

from salcr.engine.config import Schedule
from salcr.engine.progress import epoch_line, time_left

SCHEDULE = Schedule(stage_one_epochs=3, stage_two_epochs=4)


def records(*seconds):
    """Of the first epochs, each with its seconds, half of them in steps."""
    return [
        {"epoch": n, "stage": 1 if n < 3 else 2, "seconds": {"features": s / 2, "steps": s / 2}}
        for n, s in enumerate(seconds)
    ]


@pytest.mark.parametrize(
    ("seconds", "left"),
    [
        ([60], "at least 06:00 left"),  # six epochs, none of stage two yet
        ([50, 70, 60], "at least 04:00 left"),
        ([60, 60, 60, 3600], "about 3:00:00 left"),
        ([60, 60, 60, 10, 20, 60], "about 00:30 left"),
        ([60] * 7, ""),
    ],
)
def test_the_time_left(seconds, left):
    assert time_left(records(*seconds), SCHEDULE) == left


def test_the_time_left_follows_the_last_epochs():
    long = Schedule(stage_one_epochs=20, stage_two_epochs=0)
    slow_then_fast = [dict(record, stage=1) for record in records(*[1000] * 5, *[10] * 5)]
    assert time_left(slow_then_fast, long) == "about 01:40 left"


def test_lines_that_others_have_shortened_count_as_no_epoch():
    lines = [{"epoch": 0}, {"epoch": 1, "stage": 1}, {"epoch": 2, "stage": 1, "seconds": {"steps": 30.0}}]
    assert time_left(lines, Schedule(stage_one_epochs=4, stage_two_epochs=0)) == "about 00:30 left"


def test_the_time_left_of_stage_two_alone():
    alone = [{"epoch": 0, "stage": 2, "seconds": {"steps": 90.0}}]
    assert time_left(alone, Schedule(stage_one_epochs=0, stage_two_epochs=3)) == "about 03:00 left"


RECORD = {
    "epoch": 3,
    "stage": 2,
    "lr": 1e-4,
    "loss": {"global": 1.23456, "parts": 2.0},
    "visible": {"clusters": 8, "noise": 0.25, "ari": 0.5, "nmi": 0.6},
    "infrared": {"clusters": 7, "noise": 0.1},
    "seconds": {"steps": 10.0, "checkpoint": 2.5},
}
FOUND = {"all": {"rank-1": 60.125, "mAP": 50.0}, "indoor": {"rank-1": 0.0, "mAP": 0.0}}


def test_an_epoch_in_a_line():
    losses = "epoch 3 (stage 2): global 1.235 parts 2.000; "
    labels = "visible clusters 8, noise 25%, ARI 0.50, infrared clusters 7, noise 10%"
    assert epoch_line(RECORD) == f"{losses}{labels}; 12.5 s"
    evaluated = RECORD | {"evaluation": FOUND}
    assert epoch_line(evaluated) == f"{losses}{labels}; all rank-1 60.12, mAP 50.00; 12.5 s"
    chosen = evaluated | {"chosen_on_test_data": {"metric": "mAP"}}
    assert epoch_line(chosen).endswith("mAP 50.00; the best mAP so far, chosen on test data; 12.5 s")
