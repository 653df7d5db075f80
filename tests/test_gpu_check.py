import json
import sys
import time

import pytest

from benchmarks import gpu_check, runner
from benchmarks.gpu_check import Check, check
from tests import benchmark_cases

STAMP = {"device": "a GPU", "versions": {"torch": "2.11"}}


def passing(this):
    return {"passed": True}


def failing(this):
    return {"passed": False}


def untouched(this):
    raise AssertionError("passed before")


def saved(folder):
    return json.loads((folder / "gpu_check.json").read_text())


def test_parts_that_passed_are_not_run_again_until_something_changes(tmp_path, capsys):
    out = tmp_path / "out"
    assert check(Check(tmp_path, out, STAMP), {"tests": passing, "registry": failing}) == 1
    assert {name: part["passed"] for name, part in saved(out)["parts"].items()} == {"tests": True, "registry": False}
    assert check(Check(tmp_path, out, STAMP), {"tests": untouched, "registry": passing}) == 0
    assert "tests: passed before" in capsys.readouterr().out
    assert check(Check(tmp_path, out, STAMP), {"build": passing, "tests": untouched}) == 0
    assert check(Check(tmp_path, out, STAMP), {"build": failing}) == 1  # a machine may be a fresh one: built every time
    (tmp_path / "setup.py").write_text("# another source")
    assert check(Check(tmp_path, out, STAMP), {"tests": failing, "registry": passing}) == 1
    other = STAMP | {"device": "another GPU"}
    assert check(Check(tmp_path, out, other), {"tests": passing, "registry": passing}) == 0
    assert saved(out)["device"] == "another GPU"


def test_a_failed_build_is_a_failed_part(tmp_path):
    this = Check(tmp_path, tmp_path, STAMP, parts={})
    (tmp_path / "setup.py").write_text("import os, sys; sys.exit(int(os.environ['SALCR_REQUIRE_CPP']) + 2)")
    assert gpu_check.build(this) == {"passed": False, "status": 3}
    (tmp_path / "setup.py").write_text("print('built')")
    assert gpu_check.build(this)["passed"]
    assert (tmp_path / "gpu_check.log").read_text() == "built\n"


def test_what_takes_too_long_is_killed(tmp_path):
    this, start = Check(tmp_path, tmp_path, STAMP), time.monotonic()
    command = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    assert gpu_check._run(this, command, {}, seconds=1) == -9
    assert time.monotonic() - start < 30 and (tmp_path / "gpu_check.log").read_text() == "begun\n"


class FakeWorker:
    """Every case takes a millisecond; ``asked`` names them."""

    asked: list

    def __init__(self, limit):
        assert limit == gpu_check.CASE_LIMIT

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, *, task, **options):
        if task == "ceilings":
            return {"copy_bytes_s": 1e12, "float32_flop_s": 1e13}
        FakeWorker.asked.append(options["case"])
        times = {"median_ms": 1.0, "p20_ms": 1.0, "p80_ms": 1.0, "runs": 3}
        names = next(case for case in runner.CASES if case.name == options["case"]).variants
        return {"floor_bytes": 10**8, "variants": {name: dict(times) for name in names}}


@pytest.fixture
def registry(monkeypatch):
    FakeWorker.asked = []
    monkeypatch.setattr("benchmarks.worker.Worker", FakeWorker)
    monkeypatch.setattr(runner, "CASES", benchmark_cases.CASES)
    return FakeWorker.asked


def test_the_registry_goes_on_where_time_ran_out(tmp_path, registry, monkeypatch):
    names = [case.name for case in runner.CASES]
    moments = iter([0, 0, 9, 9])
    with monkeypatch.context() as patch:
        patch.setattr(runner.time, "monotonic", lambda: next(moments))
        found = gpu_check.registry(Check(tmp_path, tmp_path, STAMP, deadline=5, parts={}))
    assert found == {"passed": False, "failed": [], "not_reached": names[2:]} and registry == names[:2]
    assert gpu_check.registry(Check(tmp_path, tmp_path, STAMP, parts={}))["passed"] and registry == names
    record = json.loads((tmp_path / "cuda.json").read_text())
    assert list(record["cases"]) == names and record["device"] == "cuda"
    assert record["cases"]["sound"]["floor_ms"] == pytest.approx(0.1)
    (tmp_path / "setup.py").write_text("# another source")
    gpu_check.registry(Check(tmp_path, tmp_path, STAMP, parts={}))
    assert registry == 2 * names
