"""``salcr bench`` forwards to the runner of the checkout; what that measures: tests/test_benchmarks.py."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import runner
from salcr.cli import app


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)


def test_options_and_exit_status_are_the_runners(monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "bench", lambda **options: asked.append(options) or 1)
    assert bench().exit_code == 1
    assert (
        bench(
            "--quick", "--only", "knn*", "--only", "jaccard", "--device", "cuda", "--out", "a", "--compare", "b"
        ).exit_code
        == 1
    )
    plain = dict(only=(), device="cpu", quick=False, out=None, against=None)
    some = dict(only=["knn*", "jaccard"], device="cuda", quick=True, out=Path("a"), against=Path("b"))
    assert asked == [plain, some]


def test_without_a_checkout_there_is_nothing_to_measure(monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmarks.runner", None)
    with pytest.raises(ValueError, match="source checkout"):
        bench()
