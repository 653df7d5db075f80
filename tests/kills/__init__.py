"""Trainings that are killed at random moments and resumed: each must end as a run that was never interrupted.

A small run of both stages, float32 on one thread, is killed once, by SIGKILL, SIGTERM or SIGINT, at a moment between
the first file it writes and its last. What it says on the way out, or a bare ``--resume`` after SIGKILL, ends it. The
moments are drawn one from each of as many equal parts of the run's time as there are kills.
"""

import os
import random
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from salcr import cli
from salcr.engine import checkpoint
from salcr.engine.interruption import STANDARD
from tests import forked
from tests.engine.same_end import assert_same_end
from tests.engine.tree import with_channels

SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
EXIT_STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
PATIENCE = 300
TRIES = 8


class Kill(NamedTuple):
    """One of the study."""

    number: signal.Signals
    part: float  # of the run's time
    newest: str  # the checkpoint that was left, or none
    difference: str  # from the run that was not killed; empty


def killed_runs(training: list[str], whole: Path, folder: Path, *, kills: int, seed: int) -> Iterator[Kill]:
    """Kill and resume ``kills`` runs below ``folder``.

    Args:
        training: the arguments of ``salcr`` but for ``--out``.
        whole: the folder of a run with these arguments that was not killed.
    """
    rng = random.Random(seed)
    parts = [(i + rng.random()) / kills for i in range(kills)]
    rng.shuffle(parts)
    seconds = _seconds(whole)
    for i, part in enumerate(parts):
        number = SIGNALS[i % len(SIGNALS)]
        for attempt in range(TRIES):
            run = folder / f"{i}-{attempt}"
            if _kill(training, run, number, part * seconds):
                break
            seconds = _seconds(run)  # it was faster than those before and had ended
        else:
            raise ChildProcessError(f"{number.name} did not end a run in {TRIES} tries")
        newest = next((path.name for path in checkpoint.files(run / "checkpoints")), "none")
        yield Kill(number, part, newest, _end(run, whole, number))


def run_cli(arguments: list[str], log: Path) -> int:
    """The exit status of ``salcr`` with these arguments, in a process of its own."""
    process = forked.start(_salcr, arguments, log=log)
    process.join(PATIENCE)
    return process.exitcode


def _kill(training: list[str], run: Path, number: signal.Signals, seconds: float) -> bool:
    """Start a run and send the signal; False if it had ended."""
    process = forked.start(_salcr, [*training, "--out", str(run)], log=run.with_suffix(".log"))
    while process.is_alive() and not (run / "config.yaml").exists():
        time.sleep(0.002)
    time.sleep(seconds)
    if process.is_alive():
        os.kill(process.pid, number)
    process.join(PATIENCE)
    if (run / "summary.json").exists():
        return False
    if process.exitcode != EXIT_STATUS[number]:
        raise ChildProcessError(f"exit status {process.exitcode}: {run.with_suffix('.log').read_text()}")
    return True


def _seconds(run: Path) -> float:
    return (run / "summary.json").stat().st_mtime - (run / "config.yaml").stat().st_mtime


def _end(run: Path, whole: Path, number: signal.Signals) -> str:
    command = ["salcr", "train", "--resume", "--out", str(run)]
    if number != signal.SIGKILL:
        (told,) = re.findall("`(.*)`", run.with_suffix(".log").read_text())
        if shlex.split(told) != command:
            return f"tells to {told}"
    if run_cli(command[1:], run.with_suffix(".resumed.log")) != 0:
        return run.with_suffix(".resumed.log").read_text()
    try:
        assert_same_end(run, whole)
    except AssertionError as error:
        return f"differs: {error}"
    return ""


def _salcr(arguments: list[str]) -> None:
    for number, handler in STANDARD.items():  # SIGINT is ignored in what a shell has put in the background
        signal.signal(number, handler)
    sys.argv = ["salcr", *arguments]
    with with_channels(8):
        cli.main()
