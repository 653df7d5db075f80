"""csrc/cuda compiled for every architecture: by nvcc with the assembler's report, and by NVRTC as CuPy would."""

import contextlib
import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.emulated import SOURCES
from tests.kernels.lanes import ARCHITECTURES

KERNELS = [f"assignment_{team}_{real}" for team in ("batch", "large") for real in ("float32", "float64")]
THREADS = {"batch": 512, "large": 128}
REGISTERS = 65536  # of a multiprocessor


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nvcc_without_spills_and_local_memory(tmp_path, arch):
    command = ["nvcc", "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", "-Xptxas=-v", "-Werror=all-warnings"]
    source = SOURCES / "assignment_cuda.cu"
    done = subprocess.run([*command, source, "-o", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reports = re.split(r"Compiling entry function '(\w+)'", done.stderr)[1:]
    assert sorted(reports[::2]) == sorted(KERNELS)
    for name, report in zip(reports[::2], reports[1::2], strict=True):
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report, f"{name}: {report}"
        registers = int(re.search(r"Used (\d+) registers", report)[1])
        assert registers * THREADS[name.split("_")[1]] <= REGISTERS


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nvrtc_compiles_the_sources_alone(arch):
    nvrtc = load_nvrtc()
    if nvrtc is None:
        pytest.skip("no NVRTC")
    program = ctypes.c_void_p()
    source = b'#include "assignment_kernels.cuh"\n'
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"salcr.cu", 0, None, None) == 0
    options = [b"--std=c++17", f"--gpu-architecture=sm_{arch}".encode(), f"-I{SOURCES}".encode()]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    assert status == 0, text_of(nvrtc, program, "ProgramLog")
    assert all(name.encode() in text_of(nvrtc, program, "CUBIN") for name in KERNELS)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def load_nvrtc():
    """The library of a toolkit, or of the wheel that CuPy and torch use, with its builtins, which it opens by name."""
    installed = [path for folder in sys.path for path in Path(folder).glob("nvidia/*/lib/libnvrtc*.so.*")]
    names = sorted(
        (path for path in installed if ".alt." not in path.name), key=lambda path: "builtins" not in path.name
    )
    for name in ("libnvrtc.so", *names):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(str(name), mode=ctypes.RTLD_GLOBAL)
            if hasattr(library, "nvrtcCreateProgram"):
                return library
    return None


def text_of(nvrtc, program, what):
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.raw
