"""Tuning of launch tables without a GPU: a bench that knows the answer stands in for one."""

import contextlib
import importlib
import json
import re
import shutil

import pytest
import torch

from benchmarks import tune, work
from tests.kernels.lanes import recorded

pytest.importorskip("triton")
STAMP = {"device": "a GPU"}
BEST = dict(M=64, N=256, K=64, num_warps=4, num_stages=3, maxnreg=128)


class Known:
    """An entry takes longer the further it is from BEST; wrong with 2 stages; ``asked`` lists what was timed."""

    def __init__(self, asked):
        self.asked = asked

    def milliseconds(self, entry):
        self.asked.append(dict(entry))
        if entry["num_stages"] == 2:
            raise AssertionError("wrong results")
        far = sum(abs(value.bit_length() - BEST[name].bit_length()) for name, value in entry.items())
        return 1.0 + far + abs(entry["num_stages"] - 3)

    def predicted(self):
        return {"bytes": 2e9, "flops": 4e12}


@pytest.fixture
def table(monkeypatch, tmp_path):
    """A copy of the table's source that a test may rewrite, and the table in memory restored afterwards."""
    from salcr.kernels import launch

    monkeypatch.setattr(launch, "TABLE", dict(launch.TABLE))
    return shutil.copy(tune.LAUNCH, tmp_path / "launch.py")


def run(table, names=("products.half",), capability=90, expired=lambda: False, bench=Known):
    asked = []
    left = tune.tune(
        names,
        capability,
        lambda _: contextlib.nullcontext(bench(asked)),
        table,
        table.parent / "tune.json",
        STAMP,
        expired,
    )
    return left, asked


def read(source):
    found = {}
    exec(source.read_text(), found)
    return found["TABLE"]


def test_the_best_entry_is_found_checked_and_written(table, capsys):
    before = read(table)
    left, asked = run(table)
    after = read(table)
    assert left == [] and after["products.half"][90] == BEST
    assert {name: row for name, row in after.items() if name != "products.half"} == {
        name: row for name, row in before.items() if name != "products.half"
    }
    assert len(asked) == len({json.dumps(entry) for entry in asked}) < 80
    times = json.loads((table.parent / "tune.json").read_text())["times"]["products.half"]
    assert any(time == "AssertionError: wrong results" for time in times.values())
    printed = capsys.readouterr().out
    assert "2 GB predicted, 2 TB/s measured" in printed and "4e+03 GFLOP predicted" in printed


def test_a_candidate_is_found_where_single_changes_are_slower(table, monkeypatch):
    far = dict(M=256, N=32, K=16, num_warps=8, num_stages=3, maxnreg=128)

    class Apart(Known):
        def milliseconds(self, entry):
            return 0.5 if entry == far else super().milliseconds(entry)

    monkeypatch.setitem(tune.CANDIDATES, "products.half", [far])
    assert run(table, bench=Apart)[0] == [] and read(table)["products.half"][90] == far


def test_what_ends_the_use_of_the_gpu_ends_the_call_and_is_not_tried_again(table, capsys):
    """Nothing that was not measured counts as measured, in this row or in those behind it."""
    lost = BEST | dict(num_stages=4)
    names = "products.half", "products.tf32x3"

    class Losing(Known):
        def milliseconds(self, entry):
            found = super().milliseconds(entry)
            if entry == lost:
                raise tune.DeviceLost("an illegal memory access was encountered")
            return found

    left, asked = run(table, names, bench=Losing)
    assert left == list(names) and asked[-1] == lost
    assert "products.half: an illegal memory access was encountered" in capsys.readouterr().out
    left, again = run(table, names[:1])
    assert left == [] and not any(entry in asked for entry in again)
    assert read(table)["products.half"][90] == BEST


@pytest.mark.parametrize("answers", [True, False])
def test_an_error_after_which_the_gpu_answers_is_an_entry_s_own(monkeypatch, answers):
    def synchronize():
        if not answers:
            raise torch.AcceleratorError("CUDA error: misaligned address")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(ValueError if answers else tune.DeviceLost, match="no such tile"), tune._noticing_loss():
        raise ValueError("no such tile")


def test_candidates_have_the_numbers_of_their_row():
    from salcr.kernels.launch import TABLE

    for name, entries in tune.CANDIDATES.items():
        assert all(entry.keys() == row.keys() for entry in entries for row in TABLE[name].values())


def test_other_architectures_keep_what_they_have(table):
    from salcr.kernels.launch import SHARED_BYTES, nearest

    before = read(table)["products.half"]
    run(table)
    after = read(table)["products.half"]
    for arch in (*SHARED_BYTES, 89, 121):
        if arch != 90:
            assert after[nearest(after, arch)] == before[nearest(before, arch)], arch


def test_it_goes_on_where_time_ran_out(table):
    calls = iter(range(1000))
    left, first = run(table, names=("products.half", "products.tf32x3"), expired=lambda: next(calls) > 6)
    assert left == ["products.half", "products.tf32x3"] and 0 < len(first) <= 6
    assert read(table) == read(tune.LAUNCH)
    left, second = run(table)
    assert left == [] and not any(entry in first for entry in second)
    assert read(table)["products.half"][90] == BEST


def test_an_entry_has_to_be_faster_by_a_margin(table):
    class Noise(Known):
        def milliseconds(self, entry):
            return 1.0 + 0.01 * (super().milliseconds(entry) - 1)

    left, _ = run(table, bench=Noise)
    assert left == [] and table.read_text() == tune.LAUNCH.read_text()


def test_a_row_that_cannot_be_measured_is_left_as_it_is(table, capsys):
    class Broken(Known):
        def milliseconds(self, entry):
            raise RuntimeError("no such kernel")

    assert run(table, bench=Broken)[0] == [] and table.read_text() == tune.LAUNCH.read_text()
    assert "products.half: left as it is, RuntimeError: no such kernel" in capsys.readouterr().out


def test_the_table_in_the_source_is_what_would_be_written(table):
    text = table.read_text()
    tune.rewrite(table, read(table))
    assert table.read_text() == text


def test_every_row_has_a_case_of_the_registry_with_kernels():
    from benchmarks.registry import CASES
    from salcr.kernels.launch import TABLE

    assert set(tune.JOBS) == set(TABLE)
    variants = {case.name: case.variants for case in CASES}
    assert all("triton" in variants[job.case] for job in tune.JOBS.values())


def rows(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


CONTRASTED, SEARCHED = (rows(3, 864, 2048), rows(3, 600, 2048), None), (rows(3, 1296, 2048), rows(3, 22_258, 2048))
MAPS = {dtype: (rows(432, 2048, 18, 9, dtype=dtype), rows(3, 2048)) for dtype in (torch.float32, torch.bfloat16)}
FORWARD, BACKWARD = ("gather_kernel", "attention_kernel"), ("attention_backward_kernel", "spread_kernel")
SAID = [  # family, case, its inputs, kernels, and what the docstring says of which: of each, or of all together
    ("pooling", "semantic_pool", MAPS[torch.float32], FORWARD, ["bytes"], ["flops"]),
    ("pooling", "semantic_pool-bfloat16", MAPS[torch.bfloat16], FORWARD, ["bytes"], ["flops"]),
    ("pooling_backward", "semantic_pool", MAPS[torch.float32], BACKWARD, ["bytes"], ["flops"]),
    ("pooling_backward", "semantic_pool-bfloat16", MAPS[torch.bfloat16], BACKWARD, ["bytes"], ["flops"]),
    ("cluster_memory", "cluster_contrast", CONTRASTED, None, [], ["bytes", "flops"]),
    ("instance_memory", "instance_search", SEARCHED, None, [], ["bytes"]),
    ("instance_memory", "instance_search-bfloat16", SEARCHED, None, [], ["bytes"]),
    ("instance_memory", "instance_search", SEARCHED, ["weights_kernel", "mean_row_kernel"], ["flops"], []),
    ("knn", "knn", (rows(22_258, 2048),), None, [], ["fetched"]),
    ("knn", "knn", (rows(22_258, 2048),), ["collect_kernel"], ["flops"], []),
    ("sinkhorn", "sinkhorn", (rows(11_909, 600),), ["rows_kernel"], ["fetched"], []),
    ("sinkhorn", "sinkhorn", (rows(11_909, 600),), ["columns_kernel"], ["fetched"], []),
]


def test_what_the_docstring_of_jaccard_says():
    from salcr.kernels import jaccard

    (pairs,) = work.jaccard(0, 0, 0, pairs=40 * 10**6, candidates=0, left=0, compared=52 * 10**6).values()
    said = " ".join(jaccard.__doc__.split())
    assert "40 million pairs" in said and "52 million entries" in said and f"these {pairs.fetched / 1e9:.1f} GB" in said


@pytest.mark.parametrize(("family", "case", "inputs", "kernels", "each", "all_together"), SAID)
def test_docstrings_say_what_their_kernels_do(family, case, inputs, kernels, each, all_together):
    with recorded(90):
        found = work.of_case(case, *inputs)
    found = {name: found[name] for name in kernels or found}
    steps = work.SINKHORN_STEPS if case == "sinkhorn" else 1
    amounts = [(what, getattr(of, what) / steps) for of in found.values() for what in each]
    amounts += [(what, getattr(work.together(found), what)) for what in all_together]
    said = importlib.import_module(f"salcr.kernels.{family}").__doc__
    for what, amount in amounts:
        unit = "FLOP" if what == "flops" else "B"
        forms = [
            f"{amount / 10 ** (3 * power):.{digits}f} {prefix}{unit}"
            for power, prefix in ((2, "M"), (3, "G"), (4, "T"))
            for digits in (0, 1, 2)
            if amount >= 10 ** (3 * power)
        ]
        assert any(re.search(rf"(?<![\d.]){form}\b", said) for form in forms), (what, amount)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(capsys):
    assert tune.main(["--only", "knn"]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tune.main(["--only", "nothing"])
