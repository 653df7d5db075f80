"""The folder of a run: ``config.yaml``, ``metrics.jsonl``, ``summary.json`` and ``checkpoints/``."""

import json
import os
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
        kept = []
        for line in self.metrics.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record["epoch"] < epoch:
                kept.append(line + "\n")
        write_atomically(self.metrics, "".join(kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``; none before the first epoch has ended."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines()]

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        write_atomically(self.summary, json.dumps(summary, indent=2) + "\n")
