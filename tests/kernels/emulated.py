"""The solver of csrc/cuda compiled for the host (csrc/cuda/emulation.hpp), called through ctypes."""

import ctypes
import os
import shlex
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from tests.kernels.lanes import ROOT

SOURCES = ROOT / "csrc" / "cuda"


class Solution(NamedTuple):
    """What a kernel writes for one problem, and how many barriers the team met at."""

    solved: bool
    columns: torch.Tensor
    row_duals: torch.Tensor
    col_duals: torch.Tensor
    barriers: int


def solve(
    cost: torch.Tensor,
    *,
    capacity: int = 1,
    maximize: bool = False,
    groups: int = 4,
    threads_per_group: int = 32,
    backwards: bool = False,
) -> Solution:
    """Solve ``cost`` ``[M, N]``, M <= N * capacity, with a team of that shape; ``backwards``: the last thread first."""
    cost = cost.contiguous()
    num_rows, num_cols = cost.shape
    columns, barriers = torch.full((num_rows,), -1), torch.zeros(1, dtype=torch.int64)
    duals = [torch.full((n,), torch.nan, dtype=torch.float64) for n in (num_rows, num_cols)]
    function = getattr(_library(), f"solve_{str(cost.dtype).removeprefix('torch.')}")
    numbers = num_rows, num_cols, capacity, int(maximize), groups, threads_per_group, int(backwards)
    pointers = (ctypes.c_void_p(x.data_ptr()) for x in (columns, *duals, barriers))
    solved = function(ctypes.c_void_p(cost.data_ptr()), *numbers, *pointers)
    return Solution(bool(solved), columns, *duals, int(barriers))


def compiler() -> list[str]:
    """The C++ compiler that setup.py would take, with its own options."""
    return shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")


@cache
def _library() -> ctypes.CDLL:
    """Built once a process; under SALCR_SANITIZE (``make sanitize``) with those sanitizers."""
    sanitize = os.environ.get("SALCR_SANITIZE")
    flags = ["-g", f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"] if sanitize else []
    warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror"]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "emulated.so"
        source = Path(__file__).with_name("emulated_assignment.cpp")
        command = [*compiler(), "-std=c++17", "-O2", "-fno-strict-aliasing", *warnings, *flags, "-shared", "-fPIC"]
        command.append(f"-I{SOURCES}")
        subprocess.run([*command, source, "-o", target], check=True, capture_output=True, text=True)
        return ctypes.CDLL(str(target))
