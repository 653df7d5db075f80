"""Examples run and say what they give: those of the operators' docstrings, and the scripts of examples/."""

import csv
import doctest
import runpy
from pathlib import Path

import pytest
import torch

from salcr import ops

SCRIPTS = Path(__file__).resolve().parents[1] / "examples"
OPERATORS = [name for name in ops.__all__ if getattr(ops, name).__module__.count(".") == 2 and name[0].islower()]


def examples(name: str) -> list[doctest.DocTest]:
    globs = {"torch": torch, "ops": ops}
    return [test for test in doctest.DocTestFinder().find(getattr(ops, name), name, globs=globs) if test.examples]


def test_every_family_has_an_example():
    families = {getattr(ops, name).__module__ for name in OPERATORS if name != "use_backend"}
    with_example = {getattr(ops, name).__module__ for name in OPERATORS if examples(name)}
    assert families == with_example


@pytest.mark.parametrize("name", [name for name in OPERATORS if examples(name)])
def test_docstrings(name):
    for test in examples(name):
        assert doctest.DocTestRunner().run(test).failed == 0


def run(monkeypatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", [name, *arguments])
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")


def test_label_features(monkeypatch, tmp_path, capsys):
    run(monkeypatch, "label_features.py", "--out", str(tmp_path / "labels.csv"))
    assert capsys.readouterr().out.startswith("1200 features: 60 clusters, 0 left out as noise")
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["row", "label"] and len(rows) == 1201
    assert all(int(label) == int(row) // 20 for row, label in rows[1:])


def test_replace_memory(monkeypatch, capsys):
    run(monkeypatch, "replace_memory.py", "--steps", "2")  # compares the losses itself
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_compare_backends(monkeypatch, capsys):
    run(monkeypatch, "compare_backends.py", "--size", "200")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and all("equal to the reference" in line or "not here" in line for line in lines)


def test_all_scripts_are_run():
    assert {path.name for path in SCRIPTS.glob("*.py")} == {
        "compare_backends.py",
        "label_features.py",
        "replace_memory.py",
    }
