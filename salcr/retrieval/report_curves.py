"""Curves of runs over epochs, as the geometry of small inline SVG pictures: a few kilobytes, coloured by the page."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from salcr.retrieval.report_run import Run, number

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 334, 8, 170
SIDES = ("visible", "infrared")
LABELS = {"clusters": "clusters", "noise": "share of noise", "ari": "adjusted Rand index of clusters"}
DIRECTIONS = ("visible_to_infrared", "infrared_to_visible")


class Line(NamedTuple):
    """A line of a run, by its place among the runs; ``path`` is the ``d`` of an SVG path."""

    run: int
    label: str
    dashed: bool
    path: str


class Tick(NamedTuple):
    place: float
    text: str


class Chart(NamedTuple):
    """A quantity over epochs in pixels of ``WIDTH`` × ``HEIGHT``: one line a run, or more with the first solid.

    ``stages``: where a run's stage two begins.
    """

    title: str
    names: tuple[str, ...]
    lines: list[Line]
    across: list[Tick]
    up: list[Tick]
    stages: list[float]


def charts(runs: Sequence[Run]) -> tuple[list[Chart], list[str]]:
    """The quantities that at least one of ``runs`` has recorded, and the titles of the others."""
    made = {title: _chart(runs, title, lines) for title, *lines in _quantities(runs)}
    missing = [title for title, chart in made.items() if chart is None]
    return [chart for chart in made.values() if chart is not None], missing


def value_at(record: Any, *names: str) -> object:
    """What stands below ``names`` in nested mappings, None where there is no such thing."""
    for name in names:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _quantities(runs: Sequence[Run]) -> Iterable[tuple[Any, ...]]:
    """Title, then of each line its name and below which names its values stand in a record."""
    records = [record for run in runs for record in run.records]
    for name in _names(records, "loss"):
        yield f"loss: {name.replace('_', ' ')}", ("", "loss", name)
    yield "learning rate", ("", "lr")
    for key, title in LABELS.items():
        yield title, *((side, side, key) for side in SIDES)
    yield "right cross labels", *((name.replace("_", " "), "cross_accuracy", name) for name in DIRECTIONS)
    protocols = _names(records, "evaluation")
    if not protocols:
        yield "mAP", ("", "evaluation")
    for protocol in protocols:
        at = ("evaluation", protocol)
        figures = _names(records, *at)
        refined = [name for name in figures if any(value_at(r, *at, name, "mAP") is not None for r in records)]
        yield f"mAP, {protocol}", ("raw", *at, "mAP"), *((name, *at, name, "mAP") for name in refined)


def _names(records: list[dict[str, Any]], *names: str) -> list[str]:
    """What is below ``names`` in the records, in the order in which they come."""
    below = (value_at(record, *names) for record in records)
    return list(dict.fromkeys(name for found in below if isinstance(found, dict) for name in found))


def _chart(runs: Sequence[Run], title: str, lines: Sequence[tuple[str, ...]]) -> Chart | None:
    points = {
        (run, place): _points(runs[run], names) for run in range(len(runs)) for place, (_, *names) in enumerate(lines)
    }
    known = [(epoch, value) for line in points.values() for epoch, value in line if value is not None]
    if not known:
        return None
    first, last = min(known)[0], max(max(known)[0], min(known)[0] + 1)
    steps, step = _steps(min(value for _, value in known), max(value for _, value in known))
    low, high = steps[0] * step, steps[-1] * step

    def x(epoch: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (epoch - first) / (last - first), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 1)

    drawn = []
    for (run, place), line in points.items():
        path = _path(None if value is None else (x(epoch), y(value)) for epoch, value in line)
        if path:
            epoch, value = next(point for point in reversed(line) if point[1] is not None)
            label = " ".join(filter(None, (runs[run].name, lines[place][0])))
            drawn.append(Line(run, f"{label}: {value:.6g} in epoch {epoch}", place > 0, path))
    every = max(1, round(_nice((last - first) / 5)))
    across = [Tick(x(epoch), str(epoch)) for epoch in range(-(-first // every) * every, last + 1, every)]
    up = [Tick(y(i * step), f"{i * step:.6g}") for i in steps]
    changes = {
        r["epoch"] for run in runs for q, r in pairwise(run.records) if (q.get("stage"), r.get("stage")) == (1, 2)
    }
    return Chart(
        title=title,
        names=tuple(line[0] for line in lines if line[0]),
        lines=drawn,
        across=across,
        up=up,
        stages=sorted(x(epoch) for epoch in changes if first < epoch <= last),
    )


def _points(run: Run, names: Sequence[str]) -> list[tuple[int, float | None]]:
    """Epochs that have recorded something, and what; None where it is no number (NaN)."""
    found = ((record["epoch"], value_at(record, *names)) for record in run.records)
    return [(epoch, number(value)) for epoch, value in found if value is not None]


def _path(points: Iterable[tuple[float, float] | None]) -> str:
    """Straight lines, interrupted by None; a point alone is a dot."""
    found, drawing = [], False
    for point in points:
        if point is not None:
            found.append(f"{'L' if drawing else 'M'}{point[0]:g} {point[1]:g}")
        drawing = point is not None
    alone = [i for i, (here, after) in enumerate(pairwise([*found, "M"])) if here[0] == after[0] == "M"]
    return "".join(part + "h0" if i in alone else part for i, part in enumerate(found))


def _steps(low: float, high: float) -> tuple[range, float]:
    """Marks around both numbers, as multiples of a round step."""
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-100):
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if abs(low) > 1e-100 else (0.0, 1.0)
    step = _nice((high - low) / 4)
    return range(math.floor(low / step), math.ceil(high / step) + 1), step


def _nice(step: float) -> float:
    """1, 2 or 5 times a power of ten, the smallest that is not below ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
