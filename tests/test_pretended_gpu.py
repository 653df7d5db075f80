"""The bodies of cuda-marked tests, so that the first hour on a GPU is not spent on tensors of two devices."""

import subprocess
import sys

from benchmarks.machine import ROOT

FOLDERS = "tests/ops", "tests/nn", "tests/data"


def test_bodies_of_cuda_marked_tests_keep_to_one_device():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.pretended_gpu", "-p", "no:cacheprovider", *FOLDERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
