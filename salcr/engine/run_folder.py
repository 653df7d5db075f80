"""The folder of a run: ``config.yaml``, ``metrics.jsonl``, ``summary.json``, ``checkpoints/`` and, where TensorBoard is
asked for, ``tensorboard/``; and its lock. ``profile/`` is written by :mod:`salcr.engine.profiling`, ``report.html`` by
``salcr report``."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from salcr.defaults import REPORT
from salcr.engine import best, checkpoint
from salcr.files import naming, write_atomically


class RunInUse(OSError):
    """Another process trains in this folder; the message says which."""


class RunFolder:
    """Reads and writes the files of a run; whole files are written to a temporary name and renamed.

    Args:
        path: created with its parents if it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.board = self.path / "tensorboard"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder is this run's alone; the system lets go of it however the process ends.

        Raises:
            RunInUse: another run has it.
        """
        lock, holder = self.path / ".lock", self.path / ".holder.json"
        try:
            acquired = FileLock(lock).acquire(blocking=False)
        except Timeout:
            raise RunInUse(f"another run trains in {self.path}: {_describe(holder)} (lock: {lock})") from None
        with acquired:
            since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            found = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            write_atomically(holder, json.dumps(found) + "\n")
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)

    def has_trained(self) -> bool:
        """Whether an epoch was trained here: there is a checkpoint, a summary, or the records of two epochs."""
        if checkpoint.files(self.checkpoints) or self.summary.exists():
            return True
        return self.metrics.exists() and self.metrics.read_bytes().count(b"\n") > 1

    def clear(self) -> None:
        """Remove the training's results and their report; the configuration and what others put here stays."""
        own = *checkpoint.files(self.checkpoints), *best.files(self.checkpoints), *self.board.glob("events.out.*")
        for path in (self.summary, *own, self.path / REPORT, self.metrics):
            path.unlink(missing_ok=True)

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``.

        Raises:
            OSError: it cannot be written (a full disk).
        """
        with naming(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind(self, epoch: int) -> None:
        """Drop what ``metrics.jsonl`` says of ``epoch`` and later, and what a killed process left half written.

        The best checkpoint goes where it is of such an epoch.
        """
        leftovers = *self.path.glob(".*.part"), *self.checkpoints.glob(".*.part")
        for path in (*leftovers, *best.files(self.checkpoints, since=epoch)):
            path.unlink()
        if not self.metrics.exists():
            return
        kept = (line + b"\n" for line, record in self._records(half_written=True) if record["epoch"] < epoch)
        write_atomically(self.metrics, b"".join(kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``; none before the first epoch has ended.

        Raises:
            ValueError: a line is no record of an epoch; file and line are named.
        """
        return [record for _, record in self._records()] if self.metrics.exists() else []

    def _records(self, *, half_written: bool = False) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """Lines and what they hold; ``half_written``: the last may be what a killed process left."""
        lines = self.metrics.read_bytes().splitlines()
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                yield line, record
            elif not (half_written and number == len(lines)):
                raise ValueError(f"{self.metrics}, line {number}: must be the record of an epoch as JSON")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        write_atomically(self.summary, json.dumps(summary, indent=2) + "\n")


def _describe(holder: Path) -> str:
    try:
        found = json.loads(holder.read_bytes())
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun or ended
        return "it does not say which process it is"
