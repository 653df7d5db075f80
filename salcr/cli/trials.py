"""Several trainings of one data set, one a split: ``salcr train --trials 1-10``.

Each is a process of its own, ``salcr train --out OUT/trial_K``, with a run folder like any other; OUT/trials.yaml holds
the settings that they share, OUT/summary.json what all of them found.
"""

import json
import logging
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from salcr.data.registry import DATASETS, dataset_named
from salcr.engine.config import Config, dump_config, load_config
from salcr.engine.interruption import Interrupted, Signals
from salcr.engine.resumption import check_resumable
from salcr.engine.run_folder import RunFolder
from salcr.files import write_atomically

logger = logging.getLogger("salcr")

SALCR = (sys.executable, "-m", "salcr")
SETTINGS = "trials.yaml"
LOG = "train.log"
SECONDS = 0.2  # between two looks at the processes


def parse_trials(text: str, dataset: str) -> list[int]:
    """The splits that ``text`` names, ascending: ``"1-10"``, ``"3"``, ``"1,4-6"``.

    Raises:
        ValueError: it reads otherwise, a split twice or one that the data set does not have; a data set without splits.
    """
    splits = dataset_named(dataset).splits
    if splits == 1:
        several = ", ".join(name for name, spec in DATASETS.items() if spec.splits > 1)
        raise ValueError(f"{dataset} has one training: --trials is for data sets with several splits ({several})")
    trials: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", part, re.ASCII)
        if not found:
            raise ValueError(f"--trials reads like 1-{splits} or 1,3,5-7, got {text!r}")
        first = int(found[1])
        last = int(found[2] or first)
        if not 1 <= first <= last <= splits:
            raise ValueError(f"--trials must be ascending within 1-{splits} for {dataset}, got {part.strip()!r}")
        trials += range(first, last + 1)
    if len(set(trials)) < len(trials):
        raise ValueError(f"--trials names a trial twice: {text!r}")
    return sorted(trials)


def train_trials(
    config: Config,
    folder: Path,
    trials: Sequence[int],
    *,
    jobs: int = 1,
    resume: bool = False,
    restart: bool = False,
) -> dict[str, Any]:
    """Train on each of the splits ``trials`` in ``folder/trial_K``, and put what they found together.

    A trial that fails does not stop the others. What each says goes to its ``train.log``.

    Args:
        config: of all trials; ``data.trial`` is replaced.
        jobs: how many run at once: on the CPU that many processes, else each on a GPU of its own.
        resume: trials that have ended are not run again, the others go on from where they are.
        restart: all are trained from nothing; the checkpoints and results of all are removed before the first begins.

    Returns:
        What is also written to ``summary.json``: ``trials``, the summary of each by its number; ``mean`` and
        ``deviation`` (of the sample; 0 for one trial) of every figure that all of them have; ``failed``, why by number.

    Raises:
        FileExistsError: one of them has trained, and ``resume`` and ``restart`` are False.
        RunInUse: to be restarted, and another process trains in its folder.
        ValueError: both ``resume`` and ``restart``; more jobs than GPUs; a trial that has ended had other settings.
        Interrupted: by Ctrl-C or SIGTERM, after every running trial has written where it is.
    """
    if resume and restart:
        raise ValueError("resume or restart, not both")
    places = _places(config.device, jobs)
    runs = {trial: RunFolder(folder / f"trial_{trial}") for trial in trials}
    waiting = list(trials)
    if resume:
        waiting = [trial for trial, run in runs.items() if not _has_ended(run, _of_trial(config, trial))]
    elif not restart and (trained := [str(run.path) for run in runs.values() if run.has_trained()]):
        raise FileExistsError(f"{trained[0]} already holds a run: resume the trials or choose another folder")
    if restart:
        for run in runs.values():  # else a restart that is cut off would go on with the old ones
            with run.locked():
                run.clear()
    shared = folder / SETTINGS
    write_atomically(shared, dump_config(config))
    more = ["--config", str(shared), *["--resume"] * resume, *["--restart"] * restart]

    def start(trial: int, environment: Mapping[str, str]) -> subprocess.Popen:
        path = runs[trial].path
        logger.info("trial %d: its log is %s", trial, path / LOG)
        command = [*SALCR, "train", "--out", str(path), *more, f"data.trial={trial}"]
        with (path / LOG).open("ab") as log:
            streams = dict(stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            return subprocess.Popen(command, **streams, env={**os.environ, **environment})

    try:
        statuses = _run(waiting, places, start)
    except Interrupted as error:
        ended = sum(run.summary.exists() for run in runs.values())
        command = ["salcr", "train", "--trials", ",".join(map(str, trials)), "--jobs", str(jobs), "--resume", "--out"]
        text = f"{ended} of {len(runs)} trials have ended; `{shlex.join([*command, str(folder)])}` goes on"
        raise Interrupted(error.number, text) from None
    summary = _summarise(runs, statuses)
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def trials_table(summary: Mapping[str, Any]) -> str:
    """Rank-1, mAP and mINP of every trial by protocol, in per cent, and below them mean and deviation."""
    rows = {k: found["final"] for k, found in summary["trials"].items()}
    rows |= {name: summary[name].get("final", {}) for name in ("mean", "deviation")}
    lines = [f"{'protocol':<24}{'trial':<12}{'rank-1':>8}{'mAP':>8}{'mINP':>8}"]
    for protocol in summary["mean"].get("final", {}):
        for name, figures in rows.items():
            raw = figures[protocol]
            lines.append(f"{protocol:<24}{name:<12}{raw['rank-1']:>8.2f}{raw['mAP']:>8.2f}{raw['mINP']:>8.2f}")
    return "\n".join([*lines, *(f"trial {k} failed: {reason}" for k, reason in summary["failed"].items())])


def _of_trial(config: Config, trial: int) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"trial": trial})})


def _has_ended(run: RunFolder, config: Config) -> bool:
    if not (run.summary.exists() and run.config.exists()):
        return False
    trained = load_config(file=run.config)
    check_resumable(config, trained, trained.schedule.epochs, str(run.config))
    return config.schedule.epochs == trained.schedule.epochs


def _places(device: str, jobs: int) -> list[dict[str, str]]:
    """What the environment of every job says beside ours."""
    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")
    if jobs == 1:
        return [{}]
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        return [{"OMP_NUM_THREADS": threads}] * jobs
    if device not in ("auto", "cuda"):
        raise ValueError(f"--jobs {jobs} gives each trial a GPU: device must be auto, cuda or cpu, got {device}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
    if jobs > len(gpus):
        raise ValueError(f"--jobs {jobs} gives each trial a GPU, and there are {len(gpus)}")
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[:jobs]]


def _run(
    trials: Sequence[int],
    places: Sequence[Mapping[str, str]],
    start: Callable[[int, Mapping[str, str]], subprocess.Popen],
) -> dict[int, int]:
    """The exit status of each trial; as many at once as there are ``places``."""
    waiting, statuses = list(trials), {}
    running: dict[int, tuple[int, subprocess.Popen]] = {}
    with Signals():
        try:
            while waiting or running:
                for place, environment in enumerate(places):
                    if place not in running and waiting:
                        running[place] = waiting[0], start(waiting.pop(0), environment)
                for place, (trial, process) in list(running.items()):
                    if (status := process.poll()) is not None:
                        del running[place]
                        statuses[trial] = status
                        logger.info("trial %d: %s", trial, f"failed ({status})" if status else "has ended")
                if running:
                    time.sleep(SECONDS)
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()
    return statuses


def _summarise(runs: Mapping[int, RunFolder], statuses: Mapping[int, int]) -> dict[str, Any]:
    failed = {str(trial): _reason(status, runs[trial]) for trial, status in statuses.items() if status}
    found = {str(k): json.loads(run.summary.read_bytes()) for k, run in runs.items() if str(k) not in failed}
    return {
        "trials": found,
        "mean": _over(list(found.values()), statistics.fmean),
        "deviation": _over(list(found.values()), lambda x: statistics.stdev(x) if len(x) > 1 else 0.0),
        "failed": failed,
    }


def _reason(status: int, run: RunFolder) -> str:
    """How a process ended, and the last line that it said."""
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    lines = (run.path / LOG).read_text("utf-8", errors="replace").split("\n")
    return f"{how}: {next((line for line in reversed(lines) if line.strip()), '')} ({run.path / LOG})"


def _over(trees: Sequence[Any], function: Callable[[list[float]], float]) -> Any:
    """A tree with ``function`` of the numbers that all ``trees`` have at a place; other places are left out."""
    found = {}
    for key in trees[0] if trees else ():
        below = [tree.get(key) for tree in trees]
        if all(isinstance(x, dict) for x in below):
            found[key] = _over(below, function)
        elif all(isinstance(x, (int, float)) for x in below):
            found[key] = round(function(below), 2)
    return found
