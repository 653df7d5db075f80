"""The parts ``bench``, ``epoch`` and ``tune``: the registry at full sizes, an epoch of training, the launch tables."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import processes, registry, runner
from benchmarks.gpu_check.record import NO_DEVICE, NOT_BEGUN, SOURCES, Check, Found, digest, files, fingerprint
from benchmarks.processes import Command
from benchmarks.records import read_json
from benchmarks.worker import Worker

CASE_LIMIT = 150  # seconds
TUNE, EPOCH = "benchmarks.tune", "benchmarks.epoch"
EPOCHS = (), ("schedule.graph=off",), ("model.compile=false", "schedule.graph=off"), ("schedule.precision=float32",)


def bench(check: Check) -> Found:
    """Measure the cases that ``cuda.json`` does not have from the same sources."""
    cases = runner.cases_for("cuda")
    print(f"  {len(cases)} cases", flush=True)
    if check.device is None:
        return Found(left=dict.fromkeys((case.name for case in cases), NO_DEVICE), left_out=dict(registry.LEFT_OUT))
    check.out.mkdir(parents=True, exist_ok=True)
    file, sources = check.out / "cuda.json", digest(check.root, files(check.root, *SOURCES))
    record = read_json(file)
    with Worker(limit=CASE_LIMIT) as worker:
        if record.get("sources") != sources:
            record = {**runner.new_record("cuda", False, worker), "sources": sources}
        left = runner.fill(record, cases, worker, file, check.deadline)
    failed = {name: runner.failures({"cases": {name: case}}) for name, case in record["cases"].items()}
    return Found(
        done=[name for name, variants in failed.items() if not variants],
        failed={name: ", ".join(variants) for name, variants in failed.items() if variants},
        left=dict.fromkeys(left, NOT_BEGUN),
        left_out=dict(registry.LEFT_OUT),
    )


def epoch(check: Check) -> Found:
    """Measure an epoch of stage two as by default, then without what is to make it fast, into ``epoch.json``."""
    images = Path(tempfile.gettempdir()) / "salcr-epoch-images"
    program = sys.executable, "-m", EPOCH, "--out", check.out / "epoch.json", "--images", images
    commands = [Command(" ".join([EPOCH, *settings]), (*program, *settings)) for settings in EPOCHS]
    if "epoch" in registry.LEFT_OUT:
        return Found(left_out=dict.fromkeys((command.name for command in commands), registry.LEFT_OUT["epoch"]))
    return _found_by(check, "epoch", commands)


def tune(check: Check) -> Found:
    """Tune in what time there is. It changes sources, so that afterwards the parts before it are due again."""
    minutes = max(0.0, check.left - 30) / 60
    return _found_by(check, "tune", [Command(TUNE, (sys.executable, "-m", TUNE, "--minutes", f"{minutes:.1f}"))])


def _found_by(check: Check, part: str, commands: Sequence[Command]) -> Found:
    """Run those of ``commands``, one after the other, that have not passed with these sources."""
    before, names = fingerprint(check.root), [command.name for command in commands]
    found = Found(done=[name for name in names if (check.result(part, name, before) or {}).get("passed")])
    due = [command for command in commands if command.name not in found.done]
    if check.device is None:
        found.left = dict.fromkeys((command.name for command in due), NO_DEVICE)
        return found
    found.left = dict.fromkeys((command.name for command in due), NOT_BEGUN)
    for ended in processes.run(due, check.root, 1, check.deadline):
        print(ended.output)
        check.log(ended)
        if ended.status is None:
            found.left[ended.name] = f"killed after {ended.seconds} s"
            continue
        del found.left[ended.name]
        why = f"ended with status {ended.status}, see gpu_check.log" if ended.status else None
        check.keep(part, ended.name, fingerprint(check.root), passed=why is None, why=why, seconds=ended.seconds)
        if why is None:
            found.done.append(ended.name)
        else:
            found.failed[ended.name] = why
    return found
