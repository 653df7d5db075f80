import re

import pytest

from salcr.retrieval.report_curves import BOTTOM, LEFT, RIGHT, TOP, charts
from salcr.retrieval.report_run import Run, read_runs
from tests.retrieval.run_folders import write_run


def run_of(values, name="mine", **more):
    """A run whose learning rate in epoch i is ``values[i]``; a gap where that is ``...``."""
    records = [{"epoch": i, **({} if value is ... else {"lr": value})} | more for i, value in enumerate(values)]
    return Run(None, name, "finished", records, [], [])


def chart_of(*runs):
    (chart,), missing = charts(runs)
    assert chart.title == "learning rate" and "learning rate" not in missing
    return chart


def points(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_every_quantity_has_its_chart(tmp_path):
    drawn, missing = charts(read_runs([write_run(tmp_path / name, 8) for name in "ab"]))
    assert missing == []
    assert [chart.title for chart in drawn] == [
        *(f"loss: {term}" for term in ("visible", "augmented", "infrared", "global", "parts", "global instance")),
        *("learning rate", "clusters", "share of noise", "adjusted Rand index of clusters", "right cross labels"),
        *("mAP, all-single", "mAP, indoor-single"),
    ]
    lines = {chart.title: chart.lines for chart in drawn}
    assert [(line.run, line.dashed) for line in lines["clusters"]] == [(0, False), (0, True), (1, False), (1, True)]
    assert [line.label for line in lines["mAP, all-single"]][1] == "a cmfp: 33.2849 in epoch 7"
    assert all(len(points(line.path)) == 4 for line in lines["mAP, all-single"])  # every second epoch, joined
    assert all(line.path.count("M") == 1 for of_chart in lines.values() for line in of_chart)


def test_what_no_run_has_recorded_is_named():
    drawn, missing = charts([run_of([..., ...])])
    assert drawn == [] and missing[:2] == ["learning rate", "clusters"] and missing[-1] == "mAP"


def test_a_line_goes_from_corner_to_corner():
    chart = chart_of(run_of([0, 5, 10]))
    assert points(chart.lines[0].path) == [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, (BOTTOM + TOP) / 2), (RIGHT, TOP)]
    assert [tick.text for tick in chart.up] == ["0", "5", "10"]
    assert [tick.text for tick in chart.across] == ["0", "1", "2"]


def test_gaps_are_joined_and_no_numbers_interrupt():
    assert chart_of(run_of([1, ..., 2, 3])).lines[0].path.count("M") == 1
    path = chart_of(run_of([1, 2, float("nan"), 3, "x", 4, 5])).lines[0].path
    assert re.sub(r"[\d.]+ [\d.]+", "", path) == "MLMh0ML"


@pytest.mark.parametrize("hostile", [float("inf"), 10**400, 1e300, True, [1], {}, "1"])
def test_values_that_cannot_be_drawn_are_left_out(hostile):
    assert len(points(chart_of(run_of([1, hostile, 2])).lines[0].path)) == 2


@pytest.mark.parametrize("value", [0, 1e-4, -3.5, 1e100, 5e-324, 7])
def test_a_constant_lies_within_its_marks(value):
    chart = chart_of(run_of([value, value]))
    assert len(chart.up) >= 2
    assert all(TOP <= y <= BOTTOM for _, y in points(chart.lines[0].path))


def test_stages_begin_where_they_are_recorded(tmp_path):
    drawn, _ = charts(read_runs([write_run(tmp_path / "run", 5)]))
    (clusters,) = (chart for chart in drawn if chart.title == "clusters")
    assert clusters.stages == [(LEFT + RIGHT) / 2]


def test_runs_share_the_axes():
    chart = chart_of(run_of([0, 1], "short"), run_of([0, 0, 0, 0, 2], "long"))
    assert points(chart.lines[0].path) == [(LEFT, BOTTOM), (LEFT + (RIGHT - LEFT) / 4, (BOTTOM + TOP) / 2)]
