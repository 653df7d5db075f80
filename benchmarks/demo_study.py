"""``python -m benchmarks.demo_study``: what each part of the method brings to the demo, beside controls, over seeds.

A row of a seed goes on from that seed's stage one, exactly as ``salcr demo`` would have gone on, so that it costs its
own epochs alone. Each run is written to ``benchmarks/results/demo.json`` as it ends, an interrupted one goes on from
its last epoch, and what is recorded with today's weights and settings is not run again. docs/demo.md is then filled
with what the record holds, and says what it does not hold yet.

    python -m benchmarks.demo_study --only SALCR "stage one, as many steps" --seeds 0 1
    ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 python -m benchmarks.demo_study --only SALCR --seeds 0 --rounding
"""

import argparse
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import demo_page
from benchmarks.machine import ROOT, commit, machine, versions
from benchmarks.records import read_json, write_json

if TYPE_CHECKING:
    from salcr.engine import Config

RECORD = ROOT / "benchmarks" / "results" / "demo.json"
PAGE = ROOT / "docs" / "demo.md"
WEIGHTS = ROOT / "salcr" / "models" / "weights" / "tiny.pt"


@dataclass(frozen=True)
class Size:
    """How many people a study renders, its settings over the ``demo`` preset, its seeds and its rows."""

    people: dict[str, int]
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A way to train: its settings, and whether it begins with the same stage one as the others.

    ``stages`` is what becomes of stage two's epochs: ``"both"`` stages as configured, ``"one"`` leaves stage two out,
    ``"longer one"`` gives its epochs to stage one, and ``"none"`` trains nothing.
    """

    stages: str = "both"
    settings: tuple[str, ...] = ()
    shares_stage_one: bool = True


STAGE_ONE = "stage one"
ROWS = {
    "untrained": Row("none"),
    STAGE_ONE: Row("one"),
    "stage one, as many steps": Row("longer one"),
    "DAGI": Row(settings=("fgsal.enabled=false", "gpcr.enabled=false")),
    "DAGI + FGSAL": Row(settings=("gpcr.enabled=false",)),
    "SALCR": Row(),
    "SALCR in bfloat16": Row(settings=("schedule.precision=bfloat16",), shares_stage_one=False),
    "SALCR from random weights": Row(settings=("model.weights=null",), shares_stage_one=False),
}
METHOD = demo_page.METHOD
CONTROLS = ("untrained", STAGE_ONE, "stage one, as many steps")
TRAINING = "features", "labels", "association", "steps"  # phases whose seconds are reported


def sizes() -> dict[str, Size]:
    """The study of the demo itself, and a larger one of two hours of two cores a run at most."""
    from salcr.engine.demo import PEOPLE

    schedule = ("schedule.stage_one_epochs=6", "schedule.stage_two_epochs=94", "schedule.milestones=[80]")
    settings = (*schedule, "schedule.iterations=60")
    people = dict(ids=160, test_ids=64, images_per_camera=6)
    return {
        "demo": Size(PEOPLE, (), (0, 1, 2, 3, 4), tuple(ROWS)),
        "large": Size(people, settings, (0, 1, 2), (*CONTROLS, METHOD)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_study", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(ROWS), metavar="ROW", help="to run; by default the size's")
    parser.add_argument("--seeds", type=int, nargs="*", help="to run; none: only the page; by default the size's")
    parser.add_argument("--size", choices=list(sizes()), default="demo")
    parser.add_argument("--rounding", action="store_true", help="record apart, by vector instructions and threads")
    parser.add_argument("--again", action="store_true", help="run what is already recorded too")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder for the runs")
    options = parser.parse_args(arguments)
    size = sizes()[options.size]
    variant = arithmetic() if options.rounding else None
    for seed in size.seeds if options.seeds is None else options.seeds:
        for row in size.rows if options.only is None else options.only:
            study = Study(options.out, options.size, seed, variant)
            done = read_json(RECORD).get(study.name(row))
            if options.again or done is None or done["settings"] != study.digest(row):
                entry = study.run(row)
                write_json(RECORD, read_json(RECORD) | {study.name(row): entry})
    page = PAGE.read_text()
    head, tail = page.split(demo_page.BEGIN)[0], page.split(demo_page.END)[1]
    PAGE.write_text(f"{head}{demo_page.BEGIN}\n\n{tables(read_json(RECORD))}\n{demo_page.END}{tail}")


def tables(record: dict[str, dict]) -> str:
    """What the page says of ``record``."""
    return "\n".join(demo_page.tables(record, name, size.seeds, size.rows, CONTROLS) for name, size in sizes().items())


def arithmetic() -> str:
    """What rounding depends on here: vector instructions and threads."""
    import torch

    threads = torch.get_num_threads()
    return f"{torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"


class Study:
    """The runs of one seed: their folders, their names in the record, and what is recorded of each."""

    def __init__(self, out: Path, size: str, seed: int, variant: str | None = None) -> None:
        self.size, self.seed, self.variant = size, seed, variant
        self.data = out / size / f"seed_{seed}" / "data"
        self.folder = out / size / f"seed_{seed}" / _slug(variant or "runs")

    def name(self, row: str) -> str:
        """Of ``row`` in the record."""
        return f"{self.size}: {row}, seed {self.seed}" + (f" ({self.variant})" if self.variant else "")

    def run_folder(self, row: str) -> Path:
        """Of ``row``."""
        return self.folder / _slug(row)

    def settings(self, row: str) -> list[str]:
        """Overrides of the ``demo`` preset."""
        from salcr.engine import load_config

        size, way = sizes()[self.size], ROWS[row]
        given = [f"seed={self.seed}", *size.settings, *way.settings]
        schedule = load_config(preset="demo", overrides=given).schedule
        if way.stages == "longer one":
            given.append(f"schedule.stage_one_epochs={schedule.epochs}")
        if way.stages != "both":
            given.append("schedule.stage_two_epochs=0")
        return given

    def digest(self, row: str) -> str:
        """Of everything that a run is made from but the code: people, settings, preset and bundled weights.

        Of the settings those that are not the defaults count, so that a new one makes no run out of date.
        """
        from salcr.engine import load_config

        config = load_config(preset="demo", overrides=self.settings(row)).model_dump(mode="json", exclude_defaults=True)
        what = json.dumps([sizes()[self.size].people, config], sort_keys=True).encode() + WEIGHTS.read_bytes()
        return hashlib.sha256(what).hexdigest()[:16]

    def run(self, row: str) -> dict:
        """Train ``row`` as far as it is not trained yet; its figures, and where and how it ran."""
        from salcr.data.synthetic import baseline_rank1
        from salcr.engine import load_config, train
        from salcr.engine.demo import evaluate_start, render
        from salcr.engine.run_folder import RunFolder

        config = load_config(preset="demo", overrides=[*self.settings(row), f"data.root={self.data}"])
        render(self.data, config, sizes()[self.size].people)
        entry: dict = {"settings": self.digest(row), "command": " ".join(["salcr demo", *self.settings(row)])}
        if ROWS[row].stages == "none":
            entry |= {"figures": evaluate_start(config), "baselines": baseline_rank1(self.data)}
        else:
            folder = self.run_folder(row)
            if row != STAGE_ONE and ROWS[row].shares_stage_one and not folder.exists():
                self.run(STAGE_ONE)
                branch(self.run_folder(STAGE_ONE), folder, config)
            entry["figures"] = train(config, folder, resume=True)["final"]
            epochs = RunFolder(folder).read_metrics()
            entry["seconds"] = round(sum(epoch["seconds"].get(p, 0.0) for epoch in epochs for p in TRAINING), 1)
            entry["cross_accuracy"] = [epoch["cross_accuracy"] for epoch in epochs if "cross_accuracy" in epoch]
        return entry | {"commit": commit(), "machine": machine(), "arithmetic": arithmetic(), "versions": versions()}


def branch(stage_one: Path, folder: Path, config: "Config") -> None:
    """Make ``folder`` a run of ``config`` that goes on where the run of stage one in ``stage_one`` ended."""
    from salcr.engine import checkpoint
    from salcr.engine.run_folder import RunFolder

    before, after = RunFolder(stage_one), RunFolder(folder)
    newest = checkpoint.files(before.checkpoints)[0]
    state = checkpoint.load(newest) | {"config": config.model_dump(mode="json")}
    checkpoint.save_atomically(state, after.checkpoints / newest.name)
    shutil.copy(before.metrics, after.metrics)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower())


if __name__ == "__main__":
    sys.exit(main())
