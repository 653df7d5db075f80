"""The command line: ``salcr train | config | evaluate | extract | report | index | search | cluster | export |
check-data | synth | pretrain | demo | info | bench``.

Commands import what they need when they run, so ``salcr --help`` stays quick.
"""

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from salcr import __version__
from salcr.cli import retrieval, settings
from salcr.cli.export import export
from salcr.cli.options import Checkpoint, Layout
from salcr.cli.report import report, write_page
from salcr.cli.text import printable
from salcr.data.registry import DATASETS
from salcr.data.sysu import SYSU
from salcr.defaults import REPORT

if TYPE_CHECKING:
    from salcr.engine import Config

HELP = "Recognise people across visible and infrared cameras, without labels: train, evaluate, search (SALCR)."
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

Overrides = Annotated[Optional[list[str]], typer.Argument(help="Settings as key.sub=value; salcr config lists them.")]  # noqa: UP045
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]

_PRESETS = ", ".join(["demo", *(spec.preset for spec in DATASETS.values() if spec.preset)])
_LAYOUTS = ", ".join(name for name, spec in DATASETS.items() if spec.layout)
_DESCRIPTIONS = "; ".join(f"{name}: {spec.description}" for name, spec in DATASETS.items())

PresetOfCheckpoint = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--preset", help=f"For a checkpoint that holds no settings: one of {_PRESETS}."),
]


def main() -> None:
    """Entry point: known failures end as one line on stderr and exit code 1, anything else as a traceback."""
    lines = logging.StreamHandler()
    lines.addFilter(lambda record: _is_ours(record) or record.levelno >= logging.WARNING)
    lines.setFormatter(_Lines())
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names are bytes; stderr has it so by itself
    try:
        if level := os.environ.get("SALCR_LOG"):
            if level.upper() not in LEVELS:
                raise ValueError(f"SALCR_LOG must be one of {', '.join(LEVELS).lower()}, got {level!r}")
            logging.getLogger("salcr").setLevel(level.upper())
        with _terminable():
            app()
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
        typer.echo(f"salcr: {_one_line(error)}", err=True)
        sys.exit(1)


class _Lines(logging.Formatter):
    """What salcr says as lines that steer no terminal, whatever file names they hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(record.message) if _is_ours(record) else record.message


def _is_ours(record: logging.LogRecord) -> bool:
    """Other packages say at length how they load and optimise."""
    return record.name.partition(".")[0] == "salcr"


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"salcr {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print it.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Run folder.")],
    overrides: Overrides = None,
    preset: Annotated[Optional[str], typer.Option(help=f"One of {_PRESETS}.")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], typer.Option(help="A YAML file that wins over the preset.")] = None,  # noqa: UP045
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Train it again from nothing.")] = False,
    stage: Annotated[str, typer.Option(help="both, one or two (two needs model.checkpoint=FILE).")] = "both",
    trials: Annotated[Optional[str], typer.Option(help="Train on several splits (1-10), in OUT/trial_K.")] = None,  # noqa: UP045
    jobs: Annotated[int, typer.Option(help="With --trials: how many run at once, on a GPU each.")] = 1,
    profile: Annotated[bool, typer.Option("--profile", help="Trace an epoch of each stage, in OUT/profile.")] = False,
) -> None:
    """Train both stages (or one of them) and evaluate; salcr config lists every setting.

    With --resume or --restart and neither --preset nor --config, settings are those of the folder's config.yaml, with
    --trials of its trials.yaml.
    """
    from salcr import distributed
    from salcr.engine import load_config, single_stage
    from salcr.engine import train as run

    def read_settings() -> "Config":
        kept = out / ("config.yaml" if trials is None else "trials.yaml")
        from_folder = (resume or restart) and preset is None and config is None
        if from_folder and not kept.exists() and not overrides:
            raise ValueError(f"{out} holds no run to go on with: no {kept.name}")
        file = kept if from_folder and kept.exists() else config
        settings = load_config(preset=preset, file=file, overrides=overrides or [])
        if stage != "both":
            settings = single_stage(settings, stage)
        if stage == "two" and settings.model.checkpoint is None:
            raise ValueError("--stage two starts from a stage-one network: give model.checkpoint=FILE")
        return settings

    with distributed.joined():
        settings = distributed.on_first(read_settings)
        if trials is not None:
            if profile:
                raise ValueError("--profile goes with one run, not with --trials")
            _train_trials(settings, out, trials, jobs=jobs, resume=resume, restart=restart)
        elif jobs != 1:
            raise ValueError("--jobs goes with --trials")
        else:
            _train_and_print(lambda: run(settings, out, resume=resume, restart=restart, profile=profile), out)


def _train_trials(settings: "Config", out: Path, trials: str, **options: Any) -> None:
    from salcr.cli.trials import parse_trials, train_trials, trials_table
    from salcr.distributed import world

    if world() > 1:
        raise ValueError("--trials starts a process for each trial: call it without torchrun")
    numbers = parse_trials(trials, settings.data.name)
    summary = _until_signal(lambda: train_trials(settings, out, numbers, **options))
    typer.echo(f"{trials_table(summary)}\nrun folder: {out}")
    if summary["failed"]:
        raise typer.Exit(1)


app.command()(settings.config)


@app.command()
def evaluate(
    checkpoint: Checkpoint,
    overrides: Overrides = None,
    out: Annotated[Optional[Path], typer.Option(help="JSON file for the figures; else they are printed.")] = None,  # noqa: UP045
    layout: Layout = "auto",
    preset: PresetOfCheckpoint = None,
) -> None:
    """Evaluate a checkpoint by all protocols of its data set (outside of its run folder give data.root=DIR)."""
    import json

    from salcr import distributed
    from salcr.engine.evaluation import evaluate_checkpoint
    from salcr.files import make_parent, write_atomically

    with distributed.joined():
        if out is not None:
            distributed.on_first(lambda: make_parent(out))
        text = json.dumps(evaluate_checkpoint(checkpoint, overrides or [], layout=layout, preset=preset), indent=2)
        if distributed.rank():
            return
    if out is None:
        typer.echo(text)
    else:
        write_atomically(out, text + "\n")


@app.command()
def extract(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    overrides: Overrides = None,
    layout: Layout = "auto",
    preset: PresetOfCheckpoint = None,
) -> None:
    """Write features, ids, cameras, modality and paths of the test images to a .npz file."""
    from salcr import distributed
    from salcr.engine.evaluation import extract_checkpoint

    with distributed.joined():
        extract_checkpoint(checkpoint, out, overrides or [], layout=layout, preset=preset)
        if distributed.rank():
            return
    typer.echo(f"features: {out}")


app.command()(report)
app.command()(retrieval.index)
app.command()(retrieval.search)
app.command()(retrieval.cluster)
app.command()(export)


@app.command("check-data")
def check_data(
    dataset: Annotated[str, typer.Option(help=f"{_DESCRIPTIONS}.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    published_counts: Annotated[bool, typer.Option(help="Compare with the published numbers of images.")] = True,
) -> None:
    """Name every problem of a data set's folder: counts, missing identities, unreadable images."""
    from salcr.data.check import check_dataset
    from salcr.engine.images import counting

    with counting("decoding images") as progress:
        notes: list[str] = []
        problems = check_dataset(dataset, root, published_counts=published_counts, progress=progress, note=notes.append)
    for line in (*(f"note: {note}" for note in notes), *problems):
        typer.echo(printable(line))
    if problems:
        raise typer.Exit(1)
    typer.echo("no problems")


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    layout: Annotated[str, typer.Option(help=f"One of {_LAYOUTS}.")] = SYSU.name,
    ids: Annotated[int, typer.Option(help="Identities, test ones included.")] = 72,
    images_per_camera: Annotated[int, typer.Option(help="Images of an identity and camera.")] = 6,
    seed: Seed = 0,
) -> None:
    """Render pedestrians into one of the data sets' layouts."""
    from salcr.data.synthetic import write_dataset
    from salcr.engine.images import counting

    with counting("rendering images") as progress:
        write_dataset(layout, out, ids=ids, images_per_camera=images_per_camera, seed=seed, progress=progress)
    typer.echo(f"{layout} layout: {out}")


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="File to write.")],
    seed: Seed = 0,
) -> None:
    """Train the small network on rendered objects: the weights that the demo starts from."""
    from salcr.engine.pretrain import pretrain as run

    typer.echo(f"accuracy {run(out, seed=seed):.3f}, weights: {out}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    overrides: Overrides = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted demo.")] = False,
) -> None:
    """Render people, train both stages on them, print what stage two adds, write the run's report."""
    from salcr.distributed import joined, rank
    from salcr.engine.demo import demo as run

    with joined():
        _train_and_print(lambda: run(out, seed=seed, overrides=tuple(overrides or ()), resume=resume), out)
        is_first = rank() == 0
    if is_first:
        write_page([out], out / REPORT)
        typer.echo(f"report: {out / REPORT}")


@app.command()
def info() -> None:
    """Versions, devices, and for every operator which backends exist here and why one does not."""
    from salcr.cli.info import report

    typer.echo(report())


@app.command()
def bench(
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="PATTERN", help="Names of cases, with * and ?; may be given several times."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, few rounds: a test, no measurement.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="JSON file for the record.")] = None,  # noqa: UP045
    compare: Annotated[Optional[Path], typer.Option(help="An earlier record; slower beyond noise: exit 1.")] = None,  # noqa: UP045
) -> None:
    """Time operators and whole phases against the published forms and each other (from a source checkout's root)."""
    from salcr.files import make_parent

    if out is not None:
        make_parent(out)
    sys.path.insert(0, "")  # as python -m does: benchmarks is a folder of the checkout and not installed
    try:
        from benchmarks.runner import bench as run
    except ModuleNotFoundError as error:
        raise ValueError("bench needs a source checkout of salcr: call it in its root folder") from error
    raise typer.Exit(run(only=only or (), device=device, quick=quick, out=out, against=compare))


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block like an exception, so that what is half written is removed."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _train_and_print(training: Callable[[], dict[str, Any]], folder: Path) -> None:
    """Call ``training`` and print what it found, or where it goes on after a signal."""
    from salcr.distributed import rank
    from salcr.engine.demo import cross_label_line, summary_table

    summary = _until_signal(training)
    if rank():
        return
    for text in (summary_table(summary), cross_label_line(folder), f"run folder: {folder}"):
        if text:
            typer.echo(text)


def _until_signal(training: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from salcr.distributed import rank
    from salcr.engine.interruption import Interrupted

    try:
        return training()
    except Interrupted as error:
        if rank() == 0:
            typer.echo(f"salcr: {error}", err=True)
        raise typer.Exit(error.exit_status) from error
