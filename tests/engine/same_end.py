"""A run that a signal interrupts, and whether it ended as one that never was."""

import os
import signal

import torch

from salcr.engine import checkpoint
from salcr.engine.run_folder import RunFolder


def interrupt(monkeypatch, owner, attribute, n, number=signal.SIGTERM):
    """Raise a signal as ``owner.attribute`` is called for the ``n``-th time."""
    real, calls = getattr(owner, attribute), iter(range(1, 100))

    def call(*arguments, **options):
        if next(calls) == n:
            signal.raise_signal(number)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, attribute, call)


def assert_same_end(folder, whole):
    """The two folders hold the same files, figures, losses and weights, to the last bit; epochs took time for the same.

    But for their checkpoints: a run that ends before the record does not know how long that took.
    """
    for name in ("summary.json", "config.yaml"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    got, expected = (RunFolder(path).read_metrics() for path in (folder, whole))
    for record in (*got, *expected):
        record["seconds"] = {*record["seconds"]} - {"checkpoint"}
    assert got == expected, "metrics.jsonl"
    for inner in (".", "checkpoints"):
        assert sorted(os.listdir(folder / inner)) == sorted(os.listdir(whole / inner)), f"files in {inner}"
    one, other = (checkpoint.load_newest(path / "checkpoints") for path in (folder, whole))
    for name, x in other["network"].items():
        assert torch.equal(one["network"][name], x), name
