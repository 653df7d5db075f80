"""``python -m benchmarks.groups``: one process against two of a group (gloo), with the same cores shared between them.

``cluster``: ``salcr.cluster`` of as many pedestrians as asked for, of which every process holds its block; labels have
to be the same. ``train``: two epochs of either stage with the demo's people. Each runs in processes of its own, in
turns; seconds are by the clock, memory is the high-water mark beyond the features of the process that needs most.
docs/distributed.md is filled from the record by ``python -m benchmarks.report``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.features import pedestrians
from benchmarks.machine import ROOT, commit, machine, versions
from benchmarks.memory import peak, reset_peak
from benchmarks.records import read_json, write_json

RECORD = ROOT / "benchmarks" / "results" / "groups.json"
PROCESSES = 1, 2
WIDTH = 256
SETTINGS = (  # of the training, over the preset of the demo
    *("schedule.stage_one_epochs=2", "schedule.stage_two_epochs=2", "schedule.milestones=[]"),
    "evaluation.refinements=[]",
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.groups", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cluster", "train"))
    parser.add_argument("--images", type=int, default=100_000, help="to cluster")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES, metavar="N")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RECORD, metavar="FILE")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # one of the processes: where to write
    options = parser.parse_args(arguments)
    if options.inside is not None:
        MEASURED[options.what](options)
        return 0
    found = {"commit": commit(), "machine": machine(), "versions": versions()}
    with tempfile.TemporaryDirectory(prefix="salcr-groups-") as folder:
        rounds = [
            {n: start(n, options, Path(folder) / f"{n}_{turn}") for n in options.processes}
            for turn in range(options.rounds)
        ]
        if options.what == "cluster":
            same_labels(Path(folder))
    for n in options.processes:
        found[f"{n}"] = {key: statistics.median(turn[n][key] for turn in rounds) for key in rounds[0][n]}
        print(f"{n} process{'es' if n > 1 else ''}: {found[f'{n}']}", flush=True)
    name = "train" if options.what == "train" else f"cluster {options.images}"
    write_json(options.out, read_json(options.out) | {name: found})
    return 0


def start(processes: int, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """What a group of so many processes finds, each with its share of the cores."""
    folder.mkdir()
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    own = ["-m", "benchmarks.groups", options.what, "--images", str(options.images), "--inside", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([*launcher, *own], check=True, cwd=ROOT, env=environment)
    return json.loads((folder / "found.json").read_text())


def cluster(options: argparse.Namespace) -> None:
    """In one process of a group: labels of its block of the images."""
    import salcr
    from salcr import distributed

    with distributed.joined():
        rank, processes = distributed.rank(), distributed.world()
        own = pedestrians(options.images, WIDTH).tensor_split(processes)[rank].clone()
        group = dist.group.WORLD if processes > 1 else None
        dist.barrier()
        reset_peak()
        before = peak()
        start = time.perf_counter(), time.process_time()
        labels = salcr.cluster(own, eps=0.6, group=group)
        seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        of_ranks: list[tuple[float, float, int]] = [None] * processes  # type: ignore[list-item]
        dist.all_gather_object(of_ranks, (seconds, cpu, peak() - before))
        torch.save(labels, options.inside / f"labels_{rank}.pt")
    if rank == 0:
        clock, used, memory = zip(*of_ranks, strict=True)
        found = {
            "seconds": round(max(clock), 2),
            "cpu_seconds": round(sum(used), 2),
            "peak_mb": round(max(memory) / 1e6),
        }
        (options.inside / "found.json").write_text(json.dumps(found))


def same_labels(folder: Path) -> None:
    labels = {
        turn.name: torch.cat([torch.load(file) for file in sorted(turn.glob("labels_*.pt"))])
        for turn in folder.iterdir()
    }
    first, *others = labels.values()
    if not all(torch.equal(first, other) for other in others):
        raise SystemExit(f"labels differ: {', '.join(labels)}")


def train(options: argparse.Namespace) -> None:
    """In one process of a group: seconds of each phase, of the stage's epoch in which it took fewest."""
    from salcr import distributed, engine
    from salcr.engine.demo import PEOPLE, render
    from salcr.engine.run_folder import RunFolder

    with distributed.joined():
        data = options.inside.parent / "data"
        config = engine.load_config(preset="demo", overrides=[*SETTINGS, f"data.root={data}"])
        distributed.on_first(lambda: render(data, config, PEOPLE))
        engine.train(config, options.inside / "run")
        rank = distributed.rank()
    if rank == 0:
        epochs = RunFolder(options.inside / "run").read_metrics()
        phases = {(epoch["stage"], name) for epoch in epochs for name in epoch["seconds"]}
        found = {
            f"stage {stage}, {name}": min(
                e["seconds"][name] for e in epochs if e["stage"] == stage and name in e["seconds"]
            )
            for stage, name in sorted(phases)
        }
        (options.inside / "found.json").write_text(json.dumps(found))


MEASURED = {"cluster": cluster, "train": train}

if __name__ == "__main__":
    sys.exit(main())
