import hashlib
import json

import pytest

from benchmarks import ledger
from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check.record import Check
from benchmarks.gpu_check.tests import run_tests
from benchmarks.machine import ROOT
from benchmarks.records import read_json, write_json

STAMP = {"device": "a GPU", "versions": {"torch": "2.11"}}
TESTS = {  # family → body of its test file; no such test touches a GPU
    "good": "def test_one(): pass\n\n@pytest.mark.cuda\n@pytest.mark.parametrize('n', [1, 2])\ndef test_two(n): pass",
    "wrong": "@pytest.mark.cuda\nclass TestIt:\n    def test_one(self): pass\n    def test_two(self): assert 0",
    "shy": "@pytest.mark.cuda\ndef test_one(): pass\n\n@pytest.mark.cuda\ndef test_two(): pytest.skip('not here')",
    "unmarked": "def test_one(): pass",
    "broken": "import no_such_module",
    "untidy": "@pytest.fixture\ndef mess():\n    yield\n    assert 0\n\n@pytest.mark.cuda\ndef test_one(mess): pass",
}


def tree(root, kernels, families):
    """A checkout with ``kernels`` (paths) and the test files of ``families``."""
    (root / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers = cuda: needs a GPU\n")
    for folder in ("kernels", "csrc/cuda", "tests/ops", "benchmarks/results"):
        (root / folder).mkdir(parents=True)
    (root / "kernels/__init__.py").write_text("")
    for kernel in kernels:
        (root / kernel).write_text(f"# {kernel}\n")
    for family in families:
        (root / f"tests/ops/test_{family}.py").write_text(f"import pytest\n\n{TESTS[family]}\n")
    return root


@pytest.fixture(autouse=True)
def bare_pytest(monkeypatch):
    """The tests of a tree need no plugin, and start sooner without."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def check(root):
    """The part of the hardware check that keeps the ledger."""
    return gpu_check.run(Check(root, root / "benchmarks/results", **STAMP, at_once=2), {"tests": run_tests}, ["tests"])


def test_the_committed_ledger_names_kernel_files_of_this_checkout():
    entries = read_json(ROOT / ledger.LEDGER)
    assert (ROOT / ledger.LEDGER).exists()
    assert set(entries) <= set(ledger.hashes(ROOT))
    assert all({"sha256", "device", "versions", "date"} == set(entry) for entry in entries.values())


def test_hashes_are_of_the_content_of_every_kernel_file(tmp_path):
    tree(tmp_path, ["kernels/b.py", "csrc/cuda/a.cu", "csrc/cuda/a.cuh"], [])
    (tmp_path / "csrc/cuda/notes.md").write_text("no kernel")
    found = ledger.hashes(tmp_path)
    assert list(found) == ["csrc/cuda/a.cu", "csrc/cuda/a.cuh", "kernels/b.py"]
    assert found["kernels/b.py"] == hashlib.sha256(b"# kernels/b.py\n").hexdigest()


def test_included_headers_are_part_of_the_file_that_includes_them(tmp_path):
    tree(tmp_path, ["csrc/cuda/good.cu"], ["good"])
    for name, text in {"good.cu": '#include <a.h>\n#include "one.cuh"\n', "one.cuh": ' #include "two.cuh"\n'}.items():
        (tmp_path / "csrc/cuda" / name).write_text(text)
    (tmp_path / "csrc/cuda/two.cuh").write_text('#pragma once\n#include "one.cuh"\n#include "elsewhere.h"\n')
    assert check(tmp_path) == 0
    assert list(ledger.hashes(tmp_path)) == ["csrc/cuda/good.cu"]
    (tmp_path / "csrc/cuda/two.cuh").write_text("// changed\n")
    assert list(ledger.unverified(tmp_path)) == ["csrc/cuda/good.cu"]


def test_imported_files_are_part_of_the_file_that_imports_them(tmp_path):
    tree(tmp_path, ["kernels/launch.py", "kernels/good.py"], ["good"])
    (tmp_path / "kernels/good.py").write_text("from . import launch\nfrom .helper import help\n")
    (tmp_path / "kernels/helper.py").write_text("import triton\n\n@triton.jit\ndef help(): pass\n")
    first = ledger.hashes(tmp_path)
    assert list(first) == ["kernels/good.py", "kernels/helper.py"]
    (tmp_path / "kernels/launch.py").write_text("WARPS = 4\n")
    assert [kernel for kernel, digest in ledger.hashes(tmp_path).items() if digest != first[kernel]] == [
        "kernels/good.py"
    ]
    (tmp_path / "kernels/helper.py").write_text("import triton\n\n@triton.jit\ndef help(): return\n")
    assert all(digest != first[kernel] for kernel, digest in ledger.hashes(tmp_path).items())


def test_only_files_whose_every_check_passed_are_entered(tmp_path, capsys):
    kernels = ["csrc/cuda/good.cu", "csrc/cuda/wrong.cu", "csrc/cuda/none.cuh"]
    kernels += [f"kernels/{family}.py" for family in ("good", "shy", "unmarked", "broken", "untidy")]
    tree(tmp_path, kernels, TESTS)
    assert check(tmp_path) == 1
    entries = read_json(tmp_path / ledger.LEDGER)
    assert set(entries) == {"csrc/cuda/good.cu", "kernels/good.py"}
    entry = entries["kernels/good.py"]
    assert entry.pop("date").endswith("Z")
    assert entry == STAMP | {"sha256": ledger.hashes(tmp_path)["kernels/good.py"]}
    reasons = json.loads((tmp_path / "benchmarks/results/gpu_check.json").read_text())["parts"]["tests"]["failed"]
    reasons = {name.removesuffix(" is not green"): why for name, why in reasons.items()}
    assert reasons["csrc/cuda/wrong.cu"].startswith("1 of 2 cuda-marked tests in tests/ops/test_wrong.py did not pass")
    assert reasons["kernels/unmarked.py"] == "tests/ops/test_unmarked.py has no cuda-marked test"
    assert reasons["csrc/cuda/none.cuh"] == "tests/ops/test_none.py has no cuda-marked test"
    assert all(family in reasons[f"kernels/{family}.py"] for family in ("shy", "broken", "untidy"))
    assert "kernels/shy.py is not green (1 of 2" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "benchmarks/results").iterdir()) == [
        *("gpu_check.json", "gpu_check.log", "verified.json"),
    ]


def test_a_change_after_a_green_run_is_noticed(tmp_path):
    tree(tmp_path, ["kernels/good.py", "csrc/cuda/good.cu"], ["good"])
    assert set(ledger.unverified(tmp_path).values()) == {"never had a green hardware run"}
    assert check(tmp_path) == 0
    assert ledger.unverified(tmp_path) == {}
    (tmp_path / "kernels/good.py").write_text("# changed\n")
    changed = ledger.unverified(tmp_path)
    assert list(changed) == ["kernels/good.py"]
    assert changed["kernels/good.py"].startswith("changed since its green run of 20")


def test_a_red_run_takes_the_entry_away(tmp_path):
    tree(tmp_path, ["kernels/good.py"], ["good"])
    assert check(tmp_path) == 0
    (tmp_path / "tests/ops/test_good.py").write_text(f"import pytest\n\n{TESTS['wrong']}\n")
    assert check(tmp_path) == 1
    assert read_json(tmp_path / ledger.LEDGER) == {}


def test_a_run_that_dies_leaves_the_ledger_as_it_was(tmp_path, capsys):
    tree(tmp_path, ["kernels/good.py"], ["good"])
    assert check(tmp_path) == 0
    before = (tmp_path / ledger.LEDGER).read_bytes()
    (tmp_path / "tests/conftest.py").write_text("import os\n\nos._exit(9)\n")
    assert check(tmp_path) == 1
    assert "pytest could not collect them (exit status 9)" in capsys.readouterr().out
    assert (tmp_path / ledger.LEDGER).read_bytes() == before


def test_failing_cuda_tests_fail_the_check_where_no_kernel_is_theirs(tmp_path):
    assert check(tree(tmp_path, ["kernels/good.py"], ["good", "wrong"])) == 1
    assert set(read_json(tmp_path / ledger.LEDGER)) == {"kernels/good.py"}


def test_writing_is_atomic(tmp_path):
    path = tmp_path / "ledger.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
