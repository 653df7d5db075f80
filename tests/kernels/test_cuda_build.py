"""csrc/cuda for every architecture, without spills: as nvcc has built it into salcr._cuda, else compiled by NVRTC.

NVRTC gets the sources as CuPy hands them over. They ask for no architecture, so that a compiler which takes them for
one takes them for all; what differs is the assembler's work, and every architecture's is looked at once.
"""

import contextlib
import ctypes
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.kernels.emulated import SOURCES
from tests.kernels.lanes import ARCHITECTURES, REGISTERS, printed

KERNELS = [f"assignment_{team}_{real}" for team in ("batch", "large") for real in ("float32", "float64")]
THREADS = {"batch": 512, "large": 128}
BUILT = find_spec("salcr._cuda")
BY_NVCC = (80, 90, 100) if BUILT else ()


@pytest.mark.skipif(BUILT is None, reason="salcr._cuda was not built")
def test_what_nvcc_has_built_is_without_spills_and_local_memory():
    pytest.importorskip("triton")  # which brings cuobjdump
    usage = printed("cuobjdump", "--dump-resource-usage", Path(BUILT.origin).read_bytes())
    parts = re.split(r"^arch = sm_(\d+)$", usage, flags=re.MULTILINE)[1:]
    code = {int(arch): part for arch, part in zip(parts[::2], parts[1::2], strict=True) if "Function " in part}
    assert tuple(code) == BY_NVCC
    for part in code.values():
        check_resources(part)


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch not in BY_NVCC])
def test_nvrtc_compiles_the_sources_alone(arch):
    pytest.importorskip("triton")
    nvrtc = load_nvrtc()
    if nvrtc is None:
        pytest.skip("no NVRTC")
    program = ctypes.c_void_p()
    source = b'#include "assignment_kernels.cuh"\n'
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"salcr.cu", 0, None, None) == 0
    options = [b"--std=c++17", f"--gpu-architecture=sm_{arch}".encode(), f"-I{SOURCES}".encode()]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = text_of(nvrtc, program, "ProgramLog").strip(b"\0")
    assert (status, log) == (0, b"")  # a warning stands there too
    check_resources(printed("cuobjdump", "--dump-resource-usage", text_of(nvrtc, program, "CUBIN")))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def test_the_sources_ask_for_no_architecture():
    assert not any("__CUDA_ARCH__" in path.read_text() for path in SOURCES.glob("*.cu*"))


def check_resources(usage):
    """Every kernel is there, spills nothing and has the registers for its threads."""
    reports = re.split(r"Function (\w+):", usage)[1:]
    assert sorted(reports[::2]) == sorted(KERNELS)
    for name, report in zip(reports[::2], reports[1::2], strict=True):
        registers, stack, local = (int(re.search(rf"{kind}:(\d+)", report)[1]) for kind in ("REG", "STACK", "LOCAL"))
        assert (stack, local) == (0, 0), f"{name}: {report}"
        assert registers * THREADS[name.split("_")[1]] <= REGISTERS


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
