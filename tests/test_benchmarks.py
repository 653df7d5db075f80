import json
import math
import pickle
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from benchmarks import compare, records, runner, worker
from benchmarks.case import Case, close, close_in
from benchmarks.devices import Cpu, Cuda, Run, floor_ms
from benchmarks.machine import ROOT
from benchmarks.measure import measure, variants_on
from benchmarks.registry import CASES
from benchmarks.worker import Worker
from tests import benchmark_cases
from tests.benchmark_cases import case, double, drifting, raising, wrong

TIMES = {"median_ms", "p20_ms", "p80_ms", "runs"}


class FakeGpu:
    """A device whose clock is scripted: variant → seconds of its runs, the last of them for ever."""

    name = "cuda"

    def __init__(self, seconds):
        self.seconds = {variant: list(runs) for variant, runs in seconds.items()}

    def run(self, variant, inputs):
        runs = self.seconds[variant]
        return Run(runs.pop(0) if len(runs) > 1 else runs[0], variant(*inputs), 1_500_000)

    def replay(self, variant, inputs):
        return {"graph_warm_l2_ms": 0.1, "graph_cold_l2_ms": 0.2}


def identity(x):
    return x + x


@pytest.fixture(scope="module")
def served():
    """A worker of the cases of tests/benchmark_cases.py."""
    with Worker("tests.benchmark_cases") as worker:
        yield worker


@pytest.fixture
def fakes(monkeypatch, capsys):
    """The runner measures the cases of tests/benchmark_cases.py, by a worker; the result gives what it printed."""

    def install(worker):
        monkeypatch.setattr(runner, "CASES", benchmark_cases.CASES)
        monkeypatch.setattr(runner, "Worker", lambda: nullcontext(worker))
        return lambda: capsys.readouterr().out

    return install


class InThisProcess:
    """In place of a worker; it sees the variables that a test sets."""

    limit = 900

    def ask(self, **task):
        task = {"skip": [], "done": {}, "without": []} | task
        return worker.perform(task, {case.name: case for case in benchmark_cases.CASES})


def bench(**options):
    return runner.bench(quick=True, **options)


def test_case_names_are_unique_and_every_case_has_something_to_match():
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(next(iter(case.variants)) in ("reference", "published", "eager") for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_works_at_quick_sizes(case, monkeypatch):
    monkeypatch.setattr("benchmarks.measure.SECONDS", 0.0)  # a run, in place of three
    found = measure(case, Cpu(), quick=True)
    assert list(found["variants"]) == variants_on(case, "cpu")
    for name, result in found["variants"].items():
        if "missing" not in result:
            assert set(result) - {"error"} == TIMES, (name, result)
            assert 0 < result["p20_ms"] <= result["median_ms"] <= result["p80_ms"]
    assert found.keys() - {"variants"} <= {"floor_bytes", "floor_flops"}


@pytest.mark.parametrize(
    ("variant", "reason"), [(wrong, "AssertionError"), (raising, "out of order"), (drifting(), "Assertion")]
)
def test_a_broken_variant_has_no_time(variant, reason):
    found = measure(case(reference=double, broken=variant, right=lambda x: x + x), Cpu(), True)["variants"]
    assert set(found["broken"]) == {"failure"} and reason in found["broken"]["failure"]
    assert set(found["reference"]) == set(found["right"]) == TIMES


def test_an_error_that_a_check_returns_is_recorded():
    def near(outputs, expected):
        return close_in(0.1, [outputs], [expected])

    variants = {"reference": double, "other": lambda x: 2.25 * x, "wrong": lambda x: 3 * x}
    found = measure(Case("near", "", benchmark_cases.three, variants, near), Cpu(), True)["variants"]
    assert found["other"]["error"] == pytest.approx(0.125) and set(found["reference"]) == TIMES
    assert "error 0.5 of the largest magnitude, 0.4 allowed" in found["wrong"]["failure"]


def test_variants_that_work_in_place_do_not_disturb_each_other():
    found = measure(case(reference=lambda x: x.add_(1), other=lambda x: x.add_(1)), Cpu(), True)["variants"]
    assert set(found["other"]) == TIMES


def test_backends_of_other_devices_are_left_out():
    found = measure(case(reference=double, triton=double, cuda=double, cpp=double), Cpu(), True)["variants"]
    assert list(found) == ["reference", "cpp"]


def test_a_case_that_has_no_rival_on_a_device_is_not_measured_there(monkeypatch):
    both, gpu_only = case(reference=double, cpp=double, triton=double), case(reference=double, triton=double)
    monkeypatch.setattr(runner, "CASES", (both, gpu_only))
    assert runner.cases_for("cpu") == [both] and runner.cases_for("cuda") == [both, gpu_only]


def test_cases_are_chosen_by_any_of_several_patterns_each_once_in_the_registrys_order():
    chosen = [case.name for case in runner.cases_for("cpu", ["labels-vis*", "knn-across", "labels-*"])]
    assert chosen == [case.name for case in CASES if case.name == "knn-across" or case.name.startswith("labels-")]


def test_times_are_percentiles_of_the_turns_after_the_warm_up():
    slow, quick = (lambda x: x + x), (lambda x: 2 * x)
    device = FakeGpu({slow: [5, 0.003, 0.001, 0.002], quick: [5, 1e-4]})
    found = measure(case(reference=slow, triton=quick), device, True)["variants"]
    assert found["reference"]["median_ms"] == pytest.approx(2) and found["reference"]["runs"] == 3
    assert found["reference"]["p20_ms"] == pytest.approx(1.4) and found["reference"]["p80_ms"] == pytest.approx(2.6)
    assert found["reference"]["peak_mb"] == found["triton"]["peak_mb"] == 1.5
    assert found["triton"]["graph_cold_l2_ms"] == 0.2
    assert "graph_cold_l2_ms" not in found["reference"]  # takes long enough to be timed with its launches


class Clock:
    """A host, of which a launch takes 10 µs, and a GPU that works off what was launched."""

    def __init__(self):
        self.host = self.idle_from = 0.0

    def launch(self, milliseconds):
        self.host += 0.01
        self.idle_from = max(self.idle_from, self.host) + milliseconds

    def event(self, enable_timing):
        event = SimpleNamespace(synchronize=lambda: setattr(self, "host", max(self.host, self.idle_from)))
        event.record = lambda: setattr(event, "at", max(self.host, self.idle_from))
        event.elapsed_time = lambda end: end.at - event.at
        return event


@pytest.fixture
def clock(monkeypatch):
    """Pretends to be the GPU; a graph takes 3 µs."""
    clock, modes = Clock(), ["default"]
    pretended = dict(
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: clock.launch(0.003)),
        Event=clock.event,
        graph=lambda graph: nullcontext(),
        stream=nullcontext,
        current_stream=lambda: None,
        synchronize=lambda: None,
        get_sync_debug_mode=lambda: modes[-1],
        set_sync_debug_mode=modes.append,
    )
    for name, function in pretended.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: SimpleNamespace(zero_=lambda: clock.launch(0.09)))
    clock.modes = modes
    return clock


def test_a_replay_is_timed_without_its_launch(clock):
    found = Cuda().replay(lambda: None, ())
    assert {name: round(time, 6) for name, time in found.items()} == dict.fromkeys(found, 0.003) and len(found) == 2


def test_what_waits_is_not_captured(clock, monkeypatch):
    """A capture that fails would leave PyTorch's memory and random generator in its state."""
    captures = []
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: captures.append(graph) or nullcontext())

    def waits():
        if clock.modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    assert Cuda().replay(waits, ()) == {"no_graph": "RuntimeError: called a synchronizing CUDA operation"}
    assert not captures and clock.modes == ["default", "error", "default"]


@pytest.mark.cuda
def test_a_gpu_tells_memory_ceilings_and_the_time_of_kernels_alone(monkeypatch):
    """However long they take: other processes may have the GPU, too."""
    monkeypatch.setattr("benchmarks.measure.SMALL", math.inf)

    def of_a_megabyte(device, quick):
        return (torch.arange(1 << 18, dtype=torch.float32, device=device),)

    synchronising = lambda x: x * (1 + int(x[1]))  # noqa: E731  no graph can hold it
    small = Case("small", "", of_a_megabyte, {"reference": double, "triton": synchronising}, close)
    found = measure(small, Cuda(), quick=True)["variants"]
    assert found["reference"]["peak_mb"] == pytest.approx(1.05, abs=0.01)
    assert found["reference"]["graph_warm_l2_ms"] > 0 and found["reference"]["graph_cold_l2_ms"] > 0
    assert set(found["triton"]) == TIMES | {"peak_mb", "no_graph"}
    ceilings = Cuda().ceilings()
    assert set(ceilings) == {"copy_bytes_s", "float32_flop_s", "tf32_flop_s", "bfloat16_flop_s"}
    assert ceilings["bfloat16_flop_s"] > ceilings["float32_flop_s"] and ceilings["copy_bytes_s"] > 0


def test_a_long_run_of_plain_code_is_not_repeated():
    device = FakeGpu({double: [70, 1], wrong: [1], identity: [70, 1]})
    found = measure(case(reference=double, other=wrong, triton=identity), device, False)["variants"]
    assert found["reference"]["median_ms"] == 70_000 and found["reference"]["runs"] == 1
    assert set(found["other"]) == {"failure"}
    assert found["triton"]["median_ms"] == 1000 and found["triton"]["runs"] > 3  # the first one had to compile


def test_a_slow_baseline_can_be_matched_at_quick_sizes_alone():
    right = case(make_inputs=benchmark_cases.four, published=benchmark_cases.endless, auto=double, other=identity)
    found = measure(right, Cpu(), quick=False, without=["published"])["variants"]
    assert set(found) == {"auto", "other"} and set(found["auto"]) == set(found["other"]) == TIMES
    variants = dict(published=benchmark_cases.endless, wrong=wrong, auto=double, late=lambda x: 2 * x + (len(x) > 3))
    found = measure(case(make_inputs=benchmark_cases.four, **variants), Cpu(), quick=False, without=["published"])
    assert {name for name, result in found["variants"].items() if "failure" in result} == {"wrong", "late"}
    assert set(found["variants"]["auto"]) == TIMES


def test_a_task_may_have_less_time_than_the_worker(served):
    task = dict(task="measure", case="late", device="cpu", quick=False, skip=[], done={})
    assert served.ask(**task, without=[], limit=1) == worker.TOO_LONG
    assert set(served.ask(**task, without=["published"])["variants"]) == {"auto"}


def test_what_ran_before_is_checked_and_not_run_again(tmp_path):
    for outputs, verdict in ((torch.tensor([0.0, 2.0, 4.0]), TIMES), (torch.zeros(3), {"failure"})):
        (tmp_path / "outputs").write_bytes(pickle.dumps(outputs))
        slow = case(reference=lambda x: x.add_(x), slow=raising)
        found = measure(slow, Cpu(), True, done={"slow": (9.0, str(tmp_path / "outputs"))})["variants"]
        assert set(found["slow"]) == verdict and set(found["reference"]) == TIMES
    (tmp_path / "outputs").write_bytes(pickle.dumps(torch.tensor([0.0, 2.0, 4.0])))
    done = {"reference": (9.0, str(tmp_path / "outputs"))}
    found = measure(case(reference=raising, other=double, bad=wrong), Cpu(), True, done=done)["variants"]
    assert found["reference"] == {"median_ms": 9000, "p20_ms": 9000, "p80_ms": 9000, "runs": 1}
    assert found["other"]["runs"] == 3 and set(found["bad"]) == {"failure"}


@pytest.mark.serial
def test_a_long_run_leaves_its_time_and_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "LONG", {"cpu": 0.0})
    task = {"task": "peak", "case": "sound", "variant": "asleep", "quick": True, "keep": str(tmp_path / "kept")}
    found = worker.perform(task, {case.name: case for case in benchmark_cases.CASES})
    assert 0.004 < found["seconds"] < 1 and found["peak_mb"] < 60
    assert torch.equal(pickle.loads((tmp_path / "kept").read_bytes()), torch.tensor([0.0, 2.0, 4.0]))


def test_floors_are_of_the_nearer_ceiling():
    ceilings = {"copy_bytes_s": 100.0, "float32_flop_s": 10.0}
    assert floor_ms({"floor_bytes": 1, "floor_flops": 1}, ceilings) == 100
    assert floor_ms({"floor_bytes": 1, "floor_flops": 1}, ceilings | {"tf32_flop_s": 1000.0}) == 10
    assert floor_ms({}, ceilings) is None


def test_a_run_writes_a_record_with_memory_and_reasons(fakes, served, tmp_path):
    printed, out = fakes(served), tmp_path / "record.json"
    assert bench(out=out) == 1
    record = json.loads(out.read_text())
    assert record["device"] == "cpu" and record["quick"] is True
    assert record["machine"]["cpu"] and record["versions"]["torch"] == torch.__version__
    assert all(math.isfinite(rate) and rate > 0 for rate in record["ceilings"].values())
    cases = {name: case["variants"] for name, case in record["cases"].items()}
    assert set(cases["sound"]["holding"]) == TIMES | {"peak_mb"}
    assert 60 < cases["sound"]["holding"]["peak_mb"] < 80 and cases["sound"]["asleep"]["peak_mb"] < 5
    unsound, lacking, lost = cases["unsound"], cases["lacking"], cases["nothing to match"]
    assert set(unsound["right"]) >= TIMES
    assert all("failure" in unsound[name] and not TIMES & set(unsound[name]) for name in ("wrong", "raising"))
    assert unsound["aborting"] == {"failure": "its process ended with SIGABRT"}
    assert set(lacking["reference"]) >= TIMES
    assert lacking["peer"] == {"missing": "no_such_library is not installed"}
    assert set(lacking["greedy"]) == set(lacking["killed"]) == {"oom"}
    assert "SIGKILL" in lost["reference"]["oom"] and "nothing to compare with" in lost["right"]["failure"]
    assert runner.failures(record) == [f"unsound/{v}" for v in ("wrong", "raising", "aborting")] + [
        "nothing to match/right"
    ]
    said = printed()
    assert "missing: no_such_library is not installed" in said and "Traceback" not in said


def test_what_is_missing_or_out_of_memory_is_no_failure(fakes, served):
    fakes(served)
    assert bench(only=["lacking"]) == 0


@pytest.mark.serial
def test_a_slowed_variant_is_caught(fakes, tmp_path, monkeypatch):
    printed, then, now = fakes(InThisProcess()), tmp_path / "then.json", tmp_path / "now.json"
    assert bench(only=["sound"], out=then) == 0
    monkeypatch.setenv("SALCR_TEST_SLEEP", "0.2")
    assert bench(only=["sound"], out=now, against=then) == 1
    line = next(line for line in printed().splitlines() if "sound/asleep" in line)
    assert line.endswith("slower") and float(line.split()[1]) > 5
    assert "sound/asleep" not in compare.compare(json.loads(then.read_text()), json.loads(now.read_text()))[1]


@pytest.mark.parametrize(
    ("p20", "p80", "runs", "slower"),
    [(1.04, 1.2, 9, False), (1.3, 1.6, 9, False), (1.37, 1.4, 9, True), (1.6, 1.6, 1, False), (1.7, 1.7, 1, True)],
)
def test_noise_is_no_regression(p20, p80, runs, slower):
    def record(**times):
        cases = {"a case": {"variants": {"cpp": times}}}
        return {"machine": {"cpu": "one"}, "commit": "c", "date": "d", "cases": cases}

    then = record(median_ms=1.1, p20_ms=1.0, p80_ms=1.3, runs=9)
    now = record(median_ms=(p20 + p80) / 2, p20_ms=p20, p80_ms=p80, runs=runs)
    assert compare.compare(now, then)[1] == (["a case/cpp"] if slower else [])
    assert compare.compare(record(failure="wrong"), then)[1] == ["a case/cpp"]
    assert compare.compare(now, record(failure="wrong")) == (["compared with c of d: time now / then"], [])


def test_a_variant_without_a_time_says_why_whatever_memory_it_took():
    variants = {"cpp": {"peak_mb": 3.0, "oom": "no room"}}
    assert runner.lines("some", {"note": "a size", "variants": variants}) == [
        "some (a size)",
        "  cpp         oom: no room",
    ]


def test_imports_leave_the_gpu_to_the_children():
    """Forked children of the benchmarks could not use it otherwise."""
    forbidden = "def no(*_): raise SystemExit('asked for a GPU')"
    asked = ("is_available", "device_count", "init", "_lazy_init")
    patched = "; ".join(f"torch.cuda.{name} = no" for name in asked)
    code = f"import torch\n{forbidden}\n{patched}\nimport sys, benchmarks.registry\n"
    code += "assert 'salcr.ops' in sys.modules and not {'salcr._cuda', 'cupy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def a_record(**times):
    cases = {"a case": {"note": "sizes", "variants": {"cpp": times, "slow": {"failure": "wrong"}}}}
    machine = {"cpu": "one", "cores": 2, "load": 0.5, "gpu": None}
    top = {"date": "d", "commit": None, "machine": machine, "versions": {"torch": "t"}, "device": "cpu", "quick": True}
    return top | {"cases": cases}


def case_of(**changed):
    return {"a case": {"note": "sizes", "variants": {}} | changed}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "it must be fields by name, got a list"),
        ("{}", "date of it must be there and a str"),
        (b"\xff\x00", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        (a_record() | {"machine": {"cpu": "one"}}, "cores of machine must be there and a int"),
        (a_record() | {"versions": {}}, "torch of versions must be there and a str"),
        (a_record() | {"commit": 3}, r"commit of it must be there and a str \| None"),
        (a_record(median_ms=1, p20_ms=1, p80_ms=1, runs=3, peak_mb="x"), "peak_mb of a case/cpp must be there"),
        (a_record() | {"cases": []}, "cases of it must be there and a dict"),
        (a_record() | {"cases": {"a case": 1}}, "case 'a case' must be fields by name, got a int"),
        (a_record() | {"cases": case_of(variants=[1])}, "variants of case 'a case' must be there and a dict"),
        (a_record() | {"cases": case_of(variants={"cpp": 3})}, "a case/cpp must be fields by name, got a int"),
        (a_record(median_ms=1.0), "of a case/cpp must be numbers above 0"),
        (a_record(median_ms=0, p20_ms=1, p80_ms=1, runs=3), "of a case/cpp must be numbers above 0"),
        (a_record(median_ms=10**400, p20_ms=1, p80_ms=1, runs=3), "of a case/cpp must be numbers above 0"),
        (a_record(median_ms=float("nan"), p20_ms=1, p80_ms=1, runs=3), "of a case/cpp must be numbers above 0"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 99 else "",
)
def test_what_is_no_record_is_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "their.json"
    text = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        bench(against=path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_records_are_read_back(tmp_path):
    whole = a_record(median_ms=1.5, p20_ms=1, p80_ms=2, runs=3)
    (tmp_path / "our.json").write_text(json.dumps(whole))
    assert records.read_record(tmp_path / "our.json") == whole
    for committed in (ROOT / "benchmarks/results").glob("c*.json"):
        assert records.read_record(committed)["cases"]
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        records.read_record(tmp_path)


def test_unknown_names_devices_and_records_are_refused(tmp_path):
    with pytest.raises(ValueError, match=CASES[0].name):
        bench(only=["knn*", "no such case"])
    with pytest.raises(ValueError, match="cpu or cuda"):
        bench(device="tpu")
    with pytest.raises(FileNotFoundError):
        bench(against=tmp_path / "no.json")
    for other in ({"device": "cuda"}, {"quick": False}):
        (tmp_path / "other.json").write_text(json.dumps(a_record() | other))
        with pytest.raises(ValueError, match="another device or of other sizes"):
            bench(against=tmp_path / "other.json")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            bench(device="cuda")
