"""The bodies of cuda-marked tests, so that the first hour on a GPU is not spent on tensors of two devices."""

import subprocess
import sys

import pytest

from benchmarks.machine import ROOT

FOLDERS = "ops", "nn", "data"


@pytest.mark.long
def test_bodies_of_cuda_marked_tests_keep_to_one_device():
    done = run("tests.pretended_gpu", *FOLDERS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_there_they_may_run_with_kernels_as_compiled(monkeypatch):
    """Here the test of pooling that asks for the kernels' own words."""
    pytest.importorskip("triton")
    monkeypatch.setenv("SALCR_ARCH", "80")
    done = run("tests.pretended_gpu", "ops", options=["-p", "tests.kernels.executed_lane", "-k", "triton_takes_other"])
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def run(plugin, *folders, options=()):
    """pytest with a plugin, over the test files of ``folders`` that have a cuda-marked test."""
    files = with_cuda_marked_tests(*folders)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", plugin, *options, *files]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def with_cuda_marked_tests(*folders):
    files = [path for folder in folders for path in (ROOT / "tests" / folder).glob("test_*.py")]
    return sorted(path for path in files if "mark.cuda" in path.read_text())
