"""What AVX-512 and AVX2 each compute of a row is the same: compiled for whatever processor this is, and compared."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kernels.emulated import compiler
from tests.kernels.lanes import ROOT

COMPILERS = [compiler()] + ([["clang++"]] if shutil.which("clang++") else [])  # GCC's vector types differ in places


@pytest.mark.parametrize("command", COMPILERS, ids=" ".join)
def test_a_row_by_eight_lanes_is_a_row_by_four(command, tmp_path):
    program = tmp_path / "lanes"
    source = Path(__file__).with_name("assignment_lanes.cpp")
    subprocess.run([*command, "-std=c++17", "-O1", f"-I{ROOT / 'csrc'}", source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
