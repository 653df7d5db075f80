"""Commands in processes of their own: several at a time, until a deadline, and none that outlives this process."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """What to run under which name; ``limit`` is the seconds it may take."""

    name: str
    arguments: Sequence[str | Path]
    environment: Mapping[str, str] = {}
    limit: float = float("inf")


class Ended(NamedTuple):
    """A command that ended with ``status``, or that was killed at its limit or at the deadline (None)."""

    name: str
    status: int | None
    seconds: float
    output: str  # standard output and standard error


def run(commands: Iterable[Command], folder: Path, at_once: int, deadline: float) -> Iterator[Ended]:
    """Run ``commands`` in ``folder``, ``at_once`` at a time, and give each back when it ended.

    Nothing is begun after ``deadline`` (of :func:`time.monotonic`), and what still runs then is killed.
    """
    waiting, running = deque(commands), []
    try:
        while running or (waiting and time.monotonic() < deadline):
            while waiting and len(running) < at_once and time.monotonic() < deadline:
                running.append(_Running(waiting.popleft(), folder, deadline))
            ended = [command for command in running if command.has_ended()]
            running = [command for command in running if command not in ended]
            yield from (command.result() for command in ended)
            if not ended:
                time.sleep(0.05)
    finally:
        for command in running:
            command.kill()


def end_with_parent() -> None:
    """Have this process killed when the one that started it ends in whatever way (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class _Running:
    """A command that was started, in a process group of its own."""

    def __init__(self, command: Command, folder: Path, deadline: float) -> None:
        self.name, self.killed = command.name, False
        self.start = time.monotonic()
        self.end = min(deadline, self.start + command.limit)
        self.file = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  closed in result
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python ≥ 3.12 counts idle threads of BLAS
            self.process = subprocess.Popen(
                list(map(str, command.arguments)),
                cwd=folder,
                env=os.environ | command.environment,
                stdin=subprocess.DEVNULL,
                stdout=self.file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def has_ended(self) -> bool:
        if self.process.poll() is None and time.monotonic() >= self.end:
            self.killed = True
            self.kill()
        return self.process.poll() is not None

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def result(self) -> Ended:
        self.file.seek(0)
        with self.file:
            output = self.file.read()
        status = None if self.killed else self.process.returncode
        return Ended(self.name, status, round(time.monotonic() - self.start, 1), output)
