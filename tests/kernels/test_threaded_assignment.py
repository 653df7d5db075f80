"""The teams of csrc/cuda/scope.cuh with a thread of the host for each of the GPU's, under ThreadSanitizer."""

import subprocess

import pytest

from tests.kernels.emulated import SOURCES, compiler
from tests.kernels.lanes import ROOT

POLL = "*static_cast<volatile unsigned*>(arrived_)"  # no synchronisation to ThreadSanitizer, and an acquire on a GPU


@pytest.mark.long
def test_no_race_in_a_block_or_in_a_grid(tmp_path):
    library = subprocess.run([*compiler(), "-print-file-name=libtsan.so"], capture_output=True, text=True).stdout
    if "/" not in library:
        pytest.skip("no ThreadSanitizer")
    for header in SOURCES.glob("*.cuh"):
        text = header.read_text()
        assert (POLL in text) == (header.name == "scope.cuh")
        (tmp_path / header.name).write_text(text.replace(POLL, "__atomic_load_n(arrived_, __ATOMIC_SEQ_CST)"))
    command = [*compiler(), "-std=c++17", "-O1", "-g", "-fsanitize=thread", "-Wno-unknown-pragmas", f"-I{tmp_path}"]
    program = tmp_path / "threaded"
    subprocess.run([*command, ROOT / "tests/kernels/threaded_assignment.cpp", "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer cannot run on this kernel")
    assert done.returncode == 0, done.stdout + done.stderr
