import json

import pytest
import torch

from benchmarks import runner
from benchmarks.case import Case, close
from benchmarks.registry import CASES

TIMES = {"median_ms", "p20_ms", "p80_ms", "runs"}


def double(x):
    return 2 * x


def case(check=close, **variants):
    return Case("a case", "three numbers", lambda device, quick: (torch.arange(3.0),), variants, check)


def raising(x):
    raise RuntimeError("out of order")


def drifting():
    """Right at first, wrong from the fourth call on: right in every check that is made before timing."""
    calls = []

    def variant(x):
        calls.append(x)
        return 2 * x + (len(calls) > 3)

    return variant


def test_case_names_are_unique_and_every_case_has_something_to_match():
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(next(iter(case.variants)) in ("reference", "published") for case in CASES)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_a_quick_run_writes_a_record(name, tmp_path, capsys):
    out = tmp_path / "record.json"
    assert runner.main(["--quick", "--only", name, "--out", str(out)]) == 0
    assert name in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["device"] == "cpu" and record["quick"] is True
    assert record["machine"]["cpu"] and record["machine"]["cores"] >= 1
    assert record["versions"]["torch"] == torch.__version__
    assert list(record["cases"]) == [name]
    variants = record["cases"][name]["variants"]
    assert len(variants) >= 2
    for result in variants.values():
        assert set(result) == TIMES
        assert 0 < result["p20_ms"] <= result["median_ms"] <= result["p80_ms"]


@pytest.mark.parametrize(
    ("variant", "reason"),
    [(lambda x: 2 * x + 1e-3, "AssertionError"), (raising, "out of order"), (drifting(), "Assertion")],
)
def test_a_broken_variant_reports_no_time(variant, reason, monkeypatch, tmp_path):
    broken = case(reference=double, broken=variant, right=lambda x: x + x)
    monkeypatch.setattr(runner, "CASES", (broken,))
    assert runner.main(["--quick", "--out", str(tmp_path / "record.json")]) == 1
    variants = json.loads((tmp_path / "record.json").read_text())["cases"]["a case"]["variants"]
    assert set(variants["broken"]) == {"failure"} and reason in variants["broken"]["failure"]
    assert set(variants["reference"]) == set(variants["right"]) == TIMES


def test_nothing_is_reported_where_the_reference_fails():
    results = runner.measure(case(reference=raising, other=double), "cpu", quick=True)
    assert "out of order" in results["reference"]["failure"]
    assert "reference failed" in results["other"]["failure"]


def test_variants_that_work_in_place_do_not_disturb_each_other():
    results = runner.measure(case(reference=lambda x: x.add_(1), other=lambda x: x.add_(1)), "cpu", quick=True)
    assert set(results["other"]) == TIMES


def test_backends_of_other_devices_are_left_out():
    assert list(runner.measure(case(reference=double, triton=double, cuda=double, cpu=double), "cpu", True)) == [
        *("reference", "cpu"),
    ]


def test_unknown_names_and_missing_devices_are_refused(capsys):
    with pytest.raises(SystemExit):
        runner.main(["--only", "no such case"])
    assert CASES[0].name in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            runner.main(["--device", "cuda"])
        assert "no CUDA device" in capsys.readouterr().err
