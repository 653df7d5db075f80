"""The command that shows what runs have come to: ``salcr report``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from salcr.cli.text import printable
from salcr.defaults import REPORT

if TYPE_CHECKING:
    from salcr.retrieval.report_pictures import Amount
    from salcr.retrieval.report_run import Run


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, also of runs that go on or died.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help=f"The page; by default {REPORT} in the run's folder, or here where there are several."),
    ] = None,
    images: Annotated[bool, typer.Option(help="Ranked lists and clusters, for which the network runs again.")] = True,
) -> None:
    """Write a page about one or several runs: figures, curves, settings, ranked lists, the worst queries, clusters."""
    page = out or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    write_page(runs, page, images=images)
    typer.echo(f"report: {printable(str(page))}")


def write_page(folders: Sequence[Path], page: Path, *, images: bool = True) -> None:
    """Read the runs, add settings and pictures as far as they can be had, and write the page.

    Raises:
        OSError, ValueError: a folder is none of a run, or named twice; the page cannot be written.
    """
    from salcr.files import make_parent
    from salcr.retrieval.report import write_report
    from salcr.retrieval.report_pictures import amount
    from salcr.retrieval.report_run import read_runs

    runs = read_runs(folders)
    make_parent(page)
    wanted = amount(len(runs))
    for run in runs:
        has_settings = _add_settings(run)
        if not images:
            run.notes.append("no pictures: left out by --no-images")
        elif not wanted.lists:
            run.notes.append(f"no pictures: {len(runs)} runs are too many for them")
        elif has_settings:
            try:
                _add_pictures(run, wanted)
            except (OSError, ValueError, RuntimeError, MemoryError) as error:  # a GPU that a training fills
                run.notes.append(f"no pictures: {' '.join(str(error).split()) or type(error).__name__}")
    write_report(page, runs)


def _add_settings(run: "Run") -> bool:
    from salcr.engine import load_config
    from salcr.engine.config import flattened

    try:
        config = load_config(file=run.folder / "config.yaml")
    except (OSError, ValueError) as error:
        run.notes.append(f"no settings and no pictures: {error}")
        return False
    run.settings = flattened(config.model_dump(mode="json"))
    return True


def _add_pictures(run: "Run", wanted: "Amount") -> None:
    from salcr.engine.inspection import inspect_newest
    from salcr.retrieval.report_pictures import contact_sheets, ranked_lists

    seen = inspect_newest(run.folder)
    run.notes += [f"passed over: {error}" for error in seen.passed_over]
    dataset, name = seen.dataset, seen.path.name
    if seen.labels is None:
        run.notes.append(f"no clusters: {name} holds no pseudo labels")
    else:
        sides = dataset.train_visible, dataset.train_infrared
        both = zip(seen.labels, sides, ("visible", "infrared"), strict=True)
        run.clusters = [contact_sheets(*of_side, wanted) for of_side in both]
    if seen.features is None:
        run.notes.append("no ranked lists: the data set has no query and gallery")
        return
    protocol = dataset.protocols[0]
    run.ranked, run.worst = ranked_lists(seen.features, dataset, protocol, wanted)
    run.pictured = f"By the network of {name}, protocol {protocol.name}, first trial, without refinement."
