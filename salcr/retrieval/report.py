"""The report of runs: one page with their figures, curves, settings and pictures, which loads nothing."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from salcr.retrieval.page import write_page
from salcr.retrieval.report_curves import DIRECTIONS, HEIGHT, LABELS, SIDES, WIDTH, charts, value_at
from salcr.retrieval.report_pictures import amount
from salcr.retrieval.report_run import Run, number

PIXELS = (64, 96)
FIGURES = ("rank-1", "rank-10", "mAP", "mINP")
REFINED = ("rank-1", "mAP", "mINP")


class Table(NamedTuple):
    """Rows of texts and numbers; the first ``names`` columns say what a row is; None: not known."""

    names: int
    columns: list[str]
    rows: list[list[Any]]


def write_report(path: Path, runs: Sequence[Run]) -> None:
    """Write the page of ``runs``, which :func:`salcr.retrieval.report_run.read_runs` has read, with their pictures.

    Raises:
        OSError: the file cannot be written.
    """
    drawn, missing = charts(runs)
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
    values = dict(
        title=title,
        written=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        runs=runs,
        notes=_notes(runs),
        overview=_overview(runs),
        results=_results(runs),
        charts=drawn,
        missing=missing,
        size=(WIDTH, HEIGHT),
        differing=_settings(runs, differing=True),
        equal=_settings(runs, differing=False),
        wanted=amount(len(runs)),
    )
    write_page(path, "report.html", pixels=PIXELS, **values)


def _notes(runs: Sequence[Run]) -> dict[str, list[str]]:
    """What cannot be shown, and of which runs."""
    notes = dict.fromkeys(note for run in runs for note in run.notes)
    return {note: [run.name for run in runs if note in run.notes] for note in notes}


def _overview(runs: Sequence[Run]) -> Table:
    """A run a row, as its last epoch was."""
    columns = ["run", "state", "epochs", "hours"]
    columns += [f"{name}, {side}" for name in ("clusters", "noise %", "ARI") for side in SIDES]
    columns += [f"right cross labels %, {name.replace('_', ' ')}" for name in DIRECTIONS]
    return Table(2, columns, [[run.name, run.state, *_newest(run)] for run in runs])


def _newest(run: Run) -> list[float | None]:
    last = run.records[-1] if run.records else {}
    seconds = [number(x) for record in run.records for x in _mapping(record, "seconds").values()]
    clusters, noise, ari = ([number(value_at(last, side, key)) for side in SIDES] for key in LABELS)
    cross = [number(value_at(last, "cross_accuracy", name)) for name in DIRECTIONS]
    return [
        len(run.records),
        sum(x for x in seconds if x is not None) / 3600,
        *(None if x is None else int(x) for x in clusters),
        *(None if x is None else 100 * x for x in noise),
        *ari,
        *(None if x is None else 100 * x for x in cross),
    ]


def _results(runs: Sequence[Run]) -> Table:
    """A row for each protocol, run and time of evaluation: raw figures, then those with each refinement."""
    protocols = dict.fromkeys(name for run in runs for _, figures in run.results for name in figures)
    of_all = [_mapping(figures, name) for run in runs for _, figures in run.results for name in figures]
    methods = list(dict.fromkeys(key for of_one in of_all for key, x in of_one.items() if isinstance(x, dict)))
    columns = ["protocol", "run", "network", *FIGURES, *(f"{name} {key}" for name in methods for key in REFINED)]
    rows = []
    for protocol in protocols:
        for run in runs:
            for network, by_protocol in run.results:
                if protocol in by_protocol:
                    raw = _mapping(by_protocol, protocol)
                    refined = [number(value_at(raw, name, key)) for name in methods for key in REFINED]
                    rows.append([protocol, run.name, network, *(number(raw.get(key)) for key in FIGURES), *refined])
    return Table(3, columns, rows)


def _settings(runs: Sequence[Run], *, differing: bool) -> Table:
    """A setting a row: those that are not the same in all ``runs``, or the others."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = [[key, *(str(run.settings.get(key, "")) for run in runs)] for key in keys]
    rows = [row for row in rows if (len(set(row[1:])) > 1) == differing]
    if differing:
        return Table(1 + len(runs), ["setting", *(run.name for run in runs)], rows)
    return Table(2, ["setting", "value"], [row[:2] for row in rows])


def _mapping(figures: dict[str, Any], name: str) -> dict[str, Any]:
    found = figures.get(name)
    return found if isinstance(found, dict) else {}
