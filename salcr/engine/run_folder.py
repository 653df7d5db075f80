"""The folder of a run: ``config.yaml``, ``metrics.jsonl``, ``summary.json`` and ``checkpoints/``."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from salcr.files import write_atomically


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

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rewind(self, epoch: int) -> None:
        """Drop what ``metrics.jsonl`` says of ``epoch`` and later, and what a killed process left half written."""
        for leftover in (*self.path.glob(".*.part"), *self.checkpoints.glob(".*.part")):
            leftover.unlink()
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
