"""The hardware check on a machine without a GPU: its stand-in has a name, and cuda-marked tests that need none."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks import processes, runner
from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import install, measure, sanitize
from benchmarks.gpu_check.record import Check, Found, fingerprint
from benchmarks.machine import ROOT
from benchmarks.processes import Command
from benchmarks.registry import LEFT_OUT
from benchmarks.worker import TOO_LONG
from tests import benchmark_cases, forked

STAMP = "a stand-in", {"torch": "2.11"}
TEST_FILE = """
import os, pathlib, sys, time
import pytest

ROOT = pathlib.Path(__file__).parents[2]

def ran(name):
    with (ROOT / "ran").open("a") as file:
        file.write(f"{{name}} {{os.getpid()}}\\n")
    while (ROOT / f"hold {{name}}").exists():
        time.sleep(0.01)

if "--collect-only" not in sys.argv:
    ran("{family}")

@pytest.mark.cuda
def test_one():
    ran("{family} one")

@pytest.mark.cuda
def test_two():
    ran("{family} two")
"""


@pytest.fixture(autouse=True)
def bare_pytest(monkeypatch):
    """The tests of a tree need no plugin, and start sooner without."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def tree(root, *families):
    """A checkout with a kernel file and a test file of every family; a test writes its name into the file ``ran``."""
    (root / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers = cuda: needs a GPU\n")
    for folder in ("kernels", "tests/ops"):
        (root / folder).mkdir(parents=True)
    for family in families:
        (root / f"kernels/{family}.py").write_text(f"# {family}\n")
        (root / f"tests/ops/test_{family}.py").write_text(TEST_FILE.format(family=family))
    return root


def ran(root):
    """What ran since the last time this was asked, with the process: (name, pid)."""
    file = root / "ran"
    lines = [line.rsplit(" ", 1) for line in file.read_text().splitlines()] if file.exists() else []
    file.unlink(missing_ok=True)
    return [(name, int(pid)) for name, pid in lines]


def runs(root):
    return [name for name, _ in ran(root)]


def run(root, part="tests", device=STAMP[0], **options):
    check = Check(root, root / "out", device, STAMP[1], **options)
    return gpu_check.run(check, {part: gpu_check.PARTS[part]}, [part])


def run_bare(root):
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    run(root)


def saved(root, name="gpu_check.json"):
    return json.loads((root / "out" / name).read_text())


def wait_for(condition):
    while not condition():
        time.sleep(0.01)


def alive(pid):
    with contextlib.suppress(FileNotFoundError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


ALL = {family: [family, f"{family} one", f"{family} two"] for family in "abc"}


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are killed on Linux only")
@pytest.mark.parametrize("held", ["b", "b two"])
def test_a_killed_call_is_resumed_and_only_what_was_in_flight_runs_again(tmp_path, held, capsys):
    tree(tmp_path, *ALL)
    (tmp_path / f"hold {held}").touch()
    call, file = forked.start(run_bare, tmp_path, log=tmp_path / "log"), tmp_path / "ran"
    wait_for(lambda: not call.is_alive() or (file.exists() and f"{held} " in file.read_text()))
    call.kill()
    call.join()
    assert call.exitcode == -signal.SIGKILL
    before = ran(tmp_path)
    assert [name for name, _ in before] == [*ALL["a"], *ALL["b"][: ALL["b"].index(held) + 1]]
    wait_for(lambda: not alive(before[-1][1]))  # the test that was in flight does not go on alone
    assert list(saved(tmp_path)["results"]["tests"]) == ["tests/ops/test_a.py"]
    assert list(saved(tmp_path, "verified.json")) == ["kernels/a.py"]
    (tmp_path / f"hold {held}").unlink()
    assert run(tmp_path) == 0
    assert runs(tmp_path) == [*ALL["b"], *ALL["c"]]
    out = capsys.readouterr().out
    assert "tests     3 passed" in out and "next: nothing, all is done" in out
    assert list(saved(tmp_path, "verified.json")) == [f"kernels/{family}.py" for family in ALL]


def test_what_passed_holds_while_its_sources_device_and_versions_stay(tmp_path):
    everything = sorted([*ALL["a"], *ALL["b"]])
    tree(tmp_path, "a", "b")

    def run_both(**options):
        return run(tmp_path, at_once=2, **options), sorted(runs(tmp_path))

    assert run_both() == (0, everything)
    with (tmp_path / "tests/ops/test_b.py").open("a") as file:
        file.write("    assert False\n")
    assert run_both() == (1, ALL["b"])
    assert list(saved(tmp_path, "verified.json")) == ["kernels/a.py"]
    assert run_both() == (1, ALL["b"])  # it did not pass
    assert run_both(device="another") == (1, everything)
    (tmp_path / "tests/ops/test_b.py").write_text(TEST_FILE.format(family="b"))
    assert run_both(device="another") == (0, ALL["b"])
    assert run_both(device="another") == (0, [])
    (tmp_path / "kernels/a.py").write_text("# changed\n")
    assert run_both(device="another") == (0, everything)


def test_files_run_side_by_side_and_a_died_one_loses_itself_alone(tmp_path, capsys):
    tree(tmp_path, *ALL)
    (tmp_path / "tests/ops/test_a.py").write_text(
        "import os, sys, pytest\n\n@pytest.mark.cuda\ndef test_one():\n    os._exit(9)\n"
    )
    assert run(tmp_path, at_once=3) == 1
    out = capsys.readouterr().out
    assert "tests/ops/test_a.py (pytest died (exit status 9) without writing results)" in out
    assert "next: mend what failed, then make gpu-check PART=tests" in out
    assert sorted(saved(tmp_path, "verified.json")) == ["kernels/b.py", "kernels/c.py"]  # in the order they ended


def test_what_the_deadline_leaves_is_named_and_the_next_call_does_it(tmp_path, monkeypatch, capsys):
    tree(tmp_path, *ALL)
    ended = iter([*processes.run([Command("c", [sys.executable, "-c", ""])], tmp_path, 1, float("inf"))])
    real, begun = processes.run, []

    def stopped_after_one_file(commands, *options):
        for done in real(commands, *options):
            begun.append(done.name)
            yield done
            if done.name.startswith("tests/"):
                yield next(ended)._replace(name="tests/ops/test_b.py", status=None)
                return

    with monkeypatch.context() as patch:
        patch.setattr(processes, "run", stopped_after_one_file)
        assert run(tmp_path) == 1
    out = capsys.readouterr().out
    assert begun == ["collection", "tests/ops/test_a.py"]
    assert "tests     1 passed, 2 left" in out and "left: tests/ops/test_c.py (not begun)" in out
    assert "left: tests/ops/test_b.py (killed after" in out and "next: make gpu-check PART=tests" in out
    ran(tmp_path)
    assert run(tmp_path) == 0 and runs(tmp_path) == [*ALL["b"], *ALL["c"]]


def test_commands_are_killed_with_their_children_at_their_limit(tmp_path):
    code = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '600'])"
    sleeping, quick = Command("sleeping", [sys.executable, "-c", code], limit=2), Command("quick", ["echo", "done"])
    ended = list(processes.run([sleeping, quick], tmp_path, 2, float("inf")))
    assert [(done.name, done.status, done.output) for done in ended] == [
        ("quick", 0, "done\n"),
        ("sleeping", None, "begun\n"),
    ]
    assert list(processes.run([quick], tmp_path, 1, time.monotonic())) == []


def passing(check):
    return Found(done=["it"])


def failing(check):
    return Found(failed={"it": "wrong"})


def late(check):
    raise TimeoutError("too late")


def broken(check):
    raise RuntimeError("no worker")


@pytest.mark.parametrize(
    ("parts", "status", "advice"),
    [
        ([passing, passing], 0, "nothing, all is done"),
        ([failing, late], 1, "make gpu-check PART=1"),
        ([broken, passing], 1, "mend what failed, then make gpu-check PART=0"),
    ],
)
def test_a_call_ends_with_what_to_call_next(tmp_path, capsys, parts, status, advice):
    parts = {str(number): part for number, part in enumerate(parts)}
    check = Check(tmp_path, tmp_path / "out", *STAMP)
    assert gpu_check.run(check, parts, list(parts)) == status
    assert capsys.readouterr().out.endswith(f"next: {advice}\n")
    (tmp_path / "setup.py").write_text("# another source")
    assert gpu_check.run(Check(tmp_path, tmp_path / "out", *STAMP), parts, []) == 0
    assert "0         not run with these sources" in capsys.readouterr().out


def test_no_part_is_begun_when_time_is_up(tmp_path):
    check = Check(tmp_path, tmp_path / "out", *STAMP, deadline=time.monotonic())
    assert gpu_check.run(check, {"part": broken}, ["part"]) == 1
    assert not (tmp_path / "out").exists()


def test_install_builds_only_what_changed(tmp_path, monkeypatch):
    script = "import os, sys; open('built', 'a').write(os.environ['SALCR_REQUIRE_CUDA']); sys.exit({})"
    monkeypatch.setattr(install, "PIP", (sys.executable, "setup.py"))
    monkeypatch.setattr(install, "IMPORTS", f"print({str(tmp_path)!r})")
    built = tmp_path / "built"
    for status in (3, 3, 0, 0):
        (tmp_path / "setup.py").write_text(script.format(status))
        assert run(tmp_path, "install") == (1 if status else 0)
    assert built.read_text() == "111"
    monkeypatch.setattr(install, "IMPORTS", "import no_such_module")
    assert run(tmp_path, "install") == 1 and built.read_text() == "1111"
    assert "No module named 'no_such_module'" in saved(tmp_path)["parts"]["install"]["failed"]["salcr"]
    monkeypatch.setattr(install, "IMPORTS", "print('/elsewhere')")
    assert run(tmp_path, "install") == 1
    assert "another salcr is imported" in saved(tmp_path)["parts"]["install"]["failed"]["salcr"]


SANITIZER = """#!/bin/sh
echo "$PYTORCH_NO_CUDA_MEMORY_CACHING $*" >> asked
case "$2" in
    memcheck) echo "========= ERROR SUMMARY: $ERRORS errors"; [ $ERRORS = 0 ] || exit 86 ;;
    racecheck) echo "========= $RACES"; [ -z "$REFUSED" ] || exit 1 ;;
esac
"""


def test_the_sanitizer_runs_a_case_of_every_kernel_file(tmp_path, monkeypatch, capsys):
    (tree(tmp_path, "a", "b") / "bin").mkdir()
    (tmp_path / "bin/compute-sanitizer").write_text(SANITIZER)
    (tmp_path / "bin/compute-sanitizer").chmod(0o755)
    (tmp_path / "kernels/untested.py").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for variable, value in {"ERRORS": "2", "REFUSED": "1", "RACES": "Error: Device not supported"}.items():
        monkeypatch.setenv(variable, value)
    assert run(tmp_path, "sanitize") == 1
    found = saved(tmp_path)["parts"]["sanitize"]
    assert set(found["failed"]) == {"kernels/untested.py", "kernels/a.py memcheck", "kernels/b.py memcheck"}
    assert found["failed"]["kernels/a.py memcheck"] == "ERROR SUMMARY: 2 errors, see gpu_check.log"
    assert found["left_out"] == dict.fromkeys(
        ("kernels/a.py racecheck", "kernels/b.py racecheck"), "Error: Device not supported"
    )
    assert "kernels/b.py racecheck (Error: Device not supported)" in capsys.readouterr().out
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 4 and asked[0].startswith("1 --tool memcheck")
    assert asked[0].endswith("tests/ops/test_a.py::test_one")
    (tmp_path / "kernels/untested.py").unlink()
    monkeypatch.setenv("ERRORS", "0")
    assert run(tmp_path, "sanitize") == 0
    monkeypatch.setenv("REFUSED", "")
    monkeypatch.setenv("RACES", "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)")
    (tmp_path / "asked").unlink()
    assert run(tmp_path, "sanitize") == 0
    assert [line.split()[2] for line in (tmp_path / "asked").read_text().splitlines()] == ["racecheck", "racecheck"]


def test_the_sanitizer_takes_the_smallest_sizes():
    sized = ["f::a[9-8-x]", "f::a[7-2-y]", "f::a[1-1-y]", "f::b[lead0-3-3-0.5]", "f::b[40-3]", "f::c[5]", "f::d"]
    assert sanitize.smallest(sized) == ["f::a[7-2-y]", "f::b[lead0-3-3-0.5]"]
    assert sanitize.smallest(sized[5:]) == ["f::c[5]"] and sanitize.smallest([]) == []


def test_without_a_sanitizer_a_note_stands_in_the_record(tmp_path, monkeypatch):
    tree(tmp_path, "a")
    monkeypatch.setattr(sanitize, "find_sanitizer", lambda: None)
    assert run(tmp_path, "sanitize") == 0
    assert set(saved(tmp_path)["parts"]["sanitize"]["left_out"].values()) == {"compute-sanitizer is not installed"}


class FakeWorker:
    """Every case takes a millisecond; ``asked`` names them. A case of ``too_long`` does not end with its baselines."""

    asked: list
    too_long: tuple

    def __init__(self, limit):
        assert limit == measure.CASE_LIMIT
        self.limit = limit

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, *, task, **options):
        if task == "ceilings":
            return {"copy_bytes_s": 1e12, "float32_flop_s": 1e13}
        FakeWorker.asked.append(options["case"])
        if options["case"] in self.too_long and (not options["without"] or options["limit"] < self.limit):
            return TOO_LONG
        times = {"median_ms": 1.0, "p20_ms": 1.0, "p80_ms": 1.0, "runs": 3}
        names = next(case for case in runner.CASES if case.name == options["case"]).variants
        return {"floor_bytes": 10**8, "variants": {n: dict(times) for n in names if n not in options["without"]}}


@pytest.fixture
def registry(monkeypatch):
    FakeWorker.asked, FakeWorker.too_long = [], ()
    monkeypatch.setattr(measure, "Worker", FakeWorker)
    monkeypatch.setattr(runner, "CASES", benchmark_cases.CASES)
    return FakeWorker.asked


def test_the_registry_goes_on_where_time_ran_out(tmp_path, registry, monkeypatch):
    names = [case.name for case in runner.CASES]
    moments = iter([0, 0, 0, 0, *(990 for _ in names)])
    with monkeypatch.context() as patch:
        patch.setattr(runner.time, "monotonic", lambda: next(moments))
        found = measure.bench(Check(tmp_path, tmp_path, *STAMP, deadline=1000))
    assert found.done == names[:2] and list(found.left) == names[2:] and registry == names[:2]
    assert measure.bench(Check(tmp_path, tmp_path, *STAMP)).passed and registry == names
    record = json.loads((tmp_path / "cuda.json").read_text())
    assert list(record["cases"]) == names and record["device"] == "cuda"
    assert record["cases"]["sound"]["floor_ms"] == pytest.approx(0.1)
    (tmp_path / "setup.py").write_text("# another source")
    measure.bench(Check(tmp_path, tmp_path, *STAMP))
    assert registry == 2 * names


def test_a_case_that_takes_too_long_is_tried_once_more_without_its_baselines(tmp_path, registry, monkeypatch):
    FakeWorker.too_long = ("late",)
    monkeypatch.setattr(runner, "CASES", [case for case in runner.CASES if case.name == "late"])
    assert measure.bench(Check(tmp_path, tmp_path, *STAMP)).passed
    assert registry == ["late", "late"]
    found = json.loads((tmp_path / "cuda.json").read_text())["cases"]["late"]
    assert found["checked"] == "against the baselines at quick sizes only"
    assert found["variants"]["published"] == {"left_out": "the case took longer than 150 s with it"}
    assert found["variants"]["auto"]["median_ms"] == 1


def test_the_second_try_may_come_in_the_next_call(tmp_path, registry, monkeypatch):
    FakeWorker.too_long = ("late",)
    monkeypatch.setattr(runner, "CASES", [case for case in runner.CASES if case.name == "late"])
    moments = iter([0, 0, 990])
    with monkeypatch.context() as patch:
        patch.setattr(runner.time, "monotonic", lambda: next(moments))
        assert list(measure.bench(Check(tmp_path, tmp_path, *STAMP, deadline=1000)).left) == ["late"]
    assert registry == ["late", "late"]
    assert measure.bench(Check(tmp_path, tmp_path, *STAMP)).done == ["late"]
    assert registry == ["late", "late", "late"]


def test_tuning_makes_what_was_found_before_due_again(tmp_path, capsys):
    parts = {"passing": passing, "tune": measure.tune}
    check = Check(tmp_path, tmp_path / "out", *STAMP)
    assert gpu_check.run(check, parts, ["passing"]) == 0
    for folder in ("benchmarks", "kernels"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "benchmarks/tune.py").write_text(
        "import sys\n\nassert sys.argv[1] == '--minutes' and float(sys.argv[2]) > 1\n"
        "with open('kernels/launch.py', 'a') as file:\n    file.write('# tuned')\n"
    )
    check.deadline = time.monotonic() + 300
    for _ in range(2):  # the second time it has nothing to do
        assert gpu_check.run(check, parts, ["tune"]) == 0
        assert (tmp_path / "kernels/launch.py").read_text() == "# tuned"
        out = capsys.readouterr().out
        assert "passing   not run with these sources" in out and "next: make gpu-check PART=passing" in out


def test_an_epoch_is_measured_with_each_settings_until_it_passed(tmp_path, monkeypatch, capsys):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/__init__.py").touch()
    (tmp_path / "benchmarks/epoch.py").write_text(
        "import sys\n\nwith open('ran', 'a') as file:\n    file.write(' '.join(sys.argv[5:]) + '\\n')\n"
        "sys.exit('schedule.graph=off' in sys.argv)\n"
    )
    monkeypatch.setattr(measure, "EPOCHS", [[], ["schedule.graph=off"]])
    monkeypatch.setattr(measure.registry, "LEFT_OUT", {})
    check, parts = Check(tmp_path, tmp_path / "out", *STAMP), {"epoch": measure.epoch}
    for _ in range(2):
        assert gpu_check.run(check, parts, ["epoch"]) == 1
        assert "failed: benchmarks.epoch schedule.graph=off (ended with status 1, see" in capsys.readouterr().out
    assert (tmp_path / "ran").read_text().splitlines() == ["", "schedule.graph=off", "schedule.graph=off"]
    monkeypatch.setattr(measure.registry, "LEFT_OUT", {"epoch": "pydantic is not installed"})
    assert gpu_check.run(check, parts, ["epoch"]) == 0
    assert "2 left out" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_check_refuses(tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path / "results")]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_part_without_a_gpu_says_what_it_would_do(tmp_path, registry, capsys):
    tree(tmp_path, *ALL)
    for part, left in (("tests", 3), ("sanitize", 6), ("bench", len(benchmark_cases.CASES))):
        assert run(tmp_path, part, device=None) == 2
        out = capsys.readouterr().out
        assert f"0 passed, {left} left" in out and "(no CUDA device)" in out
    assert runs(tmp_path) == [] and registry == []
    assert fingerprint(tmp_path) and not (tmp_path / "out/verified.json").exists()


WITHOUT_PYDANTIC = """
import json, sys
sys.modules["pydantic"] = None
import pytest
from benchmarks import registry
print(json.dumps([registry.LEFT_OUT, len(registry.CASES)]), flush=True)
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "tests/objectives", "tests/nn"]))
"""


def test_without_the_engines_dependencies_registry_and_pytest_say_what_they_leave_out():
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYDANTIC], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    of_registry, collected = done.stdout.split("\n", 1)
    left_out, count = json.loads(of_registry)
    assert set(left_out) == {"epoch", "evaluation", "training_step"}
    assert all(reason.endswith(" is not installed") for reason in left_out.values())
    here = left_out.keys() - LEFT_OUT.keys()  # what this environment has
    cases_left_out = [import_module(f"benchmarks.cases.{name}").CASES for name in here]
    assert count == len(runner.CASES) - sum(map(len, cases_left_out))

    assert re.search(r"left out: tests/objectives/test_stage_two.py \(\w+ is not installed\)", collected)
    assert "tests/objectives/test_gpcr.py::" in collected and "left out: tests/nn" not in collected
