"""Two ways to test Triton kernels without a GPU: the interpreter, and compilation of what launchers would launch."""

import contextlib
import functools
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = (80, 89, 90, 100, 120)
HGMMA, FROM_REGISTERS, WARPGROUP, DEPBAR = 0x9F0, 0x400, 0x9C5, 1 << 47  # operations of sm_90, and bits of either
EXECUTABLE = 4  # of a section
REGISTERS = 65_536  # of a multiprocessor, of any of them


class Launch(NamedTuple):
    """A launch as Triton specialises it: integers of 1 are constants, multiples of 16 are known, of pointers too."""

    kernel: Any
    signature: tuple[tuple[str, Any], ...]  # of each argument: "*fp32", "i32", "constexpr", or a tuple of these
    constants: tuple[tuple[Any, Any], ...]  # by name, in a tuple by place
    aligned: tuple[tuple[int, ...], ...]  # places of arguments, and in a tuple
    options: tuple[tuple[str, int], ...]
    grid: tuple[int, ...]

    @property
    def types(self) -> tuple[str, ...]:
        """Of the tensors that it gets."""
        kinds = (kind for _, kind in self.signature)
        flat = (one for kind in kinds for one in (kind if isinstance(kind, tuple) else [kind]))
        return tuple(kind for kind in flat if kind.startswith("*"))


class Resources(NamedTuple):
    """What a block of a compiled kernel takes, in bytes but for its registers a thread, and the code that it runs."""

    registers: int
    stack: int
    local: int
    shared: int
    ptx: str
    cubin: bytes


def require_interpreter() -> None:
    """Skip where Triton cannot interpret its kernels."""
    triton = pytest.importorskip("triton")
    if triton.__version__.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        reason = f"the interpreter of Triton {triton.__version__} fails with NumPy 2.4 and newer, here {np.__version__}"
        pytest.skip(reason, allow_module_level=True)


def interpret(*modules: Path) -> None:
    """Run the tests of ``modules`` with pytest in a process of its own, in which Triton interprets its kernels.

    Raises:
        AssertionError: with pytest's output, unless every test passed.
    """
    own_warning = "ignore:Conversion of an array with ndim:DeprecationWarning"  # the interpreter's, under NumPy 2
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", own_warning, *map(str, modules)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def recorded(arch: int) -> Iterator[list[Launch]]:
    """What launchers called on CPU tensors would launch on compute capability ``arch``; nothing runs.

    Fresh tensors hold ones, so that what a launcher reads back of a kernel's results is a size like any other.
    """
    from triton.runtime.jit import JITFunction

    from salcr.kernels import launch, products

    launches: list[Launch] = []

    def record(kernel, *args, grid, warmup, **kwargs):
        launches.append(specialised(kernel, args, kwargs, grid))

    with (
        mock.patch.object(JITFunction, "run", record),
        mock.patch.object(launch, "architecture", lambda device: arch),
        mock.patch.object(products, "architecture", lambda device: arch),
        _Ones(),
    ):
        yield launches


class _Ones(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out.fill_(1) if "empty" in func._schema.name else out


def specialised(kernel: Any, args: tuple, kwargs: dict, grid: tuple[int, ...]) -> Launch:
    """The launch of ``kernel`` with these arguments, as Triton's JIT specialises it."""
    named = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
    signature, constants, aligned = {}, {}, []
    for place, parameter in enumerate(kernel.params):
        value = named.pop(parameter.name)
        several = isinstance(value, tuple)
        kinds = []
        for i, one in enumerate(value if several else [value]):
            kind, is_aligned = ("constexpr", False) if parameter.is_constexpr else _type(one)
            if kind == "constexpr":
                constants[(place, i) if several else parameter.name] = getattr(one, "value", one)
            if is_aligned:
                aligned.append((place, i) if several else (place,))
            kinds.append(kind)
        signature[parameter.name] = tuple(kinds) if several else kinds[0]
    return Launch(kernel, *(tuple(x.items()) for x in (signature, constants)), tuple(aligned), (*named.items(),), grid)


def _type(value: Any) -> tuple[str, bool]:
    """Type of an argument, ``"constexpr"`` if a launch makes a constant of it, and whether 16 divides it."""
    if isinstance(value, torch.Tensor):
        names = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}
        names |= {torch.uint8: "u8", torch.int8: "i8", torch.int32: "i32", torch.int64: "i64"}
        return f"*{names[value.dtype]}", value.data_ptr() % 16 == 0
    if isinstance(value, int):
        return ("constexpr", False) if value == 1 else ("i32" if abs(value) < 2**31 else "i64", value % 16 == 0)
    if isinstance(value, float):
        return "fp32", False
    raise TypeError(f"Triton takes no {type(value)}")  # NumPy's whole numbers and float32 are none of Python's


@functools.cache
def compiled(launch: Launch, arch: int) -> Resources:
    """``launch`` compiled and assembled for compute capability ``arch``, as Triton does at the first such launch."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    divisible = {path: [["tt.divisibility", 16]] for path in launch.aligned}
    source = ASTSource(
        fn=launch.kernel, signature=dict(launch.signature), constexprs=dict(launch.constants), attrs=divisible
    )
    built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(launch.options))
    usage = printed("cuobjdump", "--dump-resource-usage", built.asm["cubin"])
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL"))
    return Resources(registers, stack, local, built.metadata.shared, built.asm["ptx"], built.asm["cubin"])


def machine_code(used: Resources) -> str:
    """The instructions of a compiled kernel as text, without the analysis of their order."""
    return printed("nvdisasm", "-ndf", used.cubin)


def products_and_waits(used: Resources) -> tuple[int, int]:
    """How many wgmma the machine code for sm_90 has, and at how many places it waits for some.

    Read off the bits in a millisecond: to print them takes a tenth of a second.
    """
    cubin, words = used.cubin, []
    first, size, count = *struct.unpack_from("<Q", cubin, 0x28), *struct.unpack_from("<HH", cubin, 0x3A)
    for header in range(first, first + size * count, size):
        flags, _, offset, length = struct.unpack_from("<QQQQ", cubin, header + 8)
        if flags & EXECUTABLE:
            words += [low for low, _ in struct.iter_unpack("<QQ", cubin[offset : offset + length])]
    products = sum(word & 0xFFF & ~FROM_REGISTERS == HGMMA for word in words)
    return products, sum(word & 0xFFF == WARPGROUP and bool(word & DEPBAR) for word in words)


def printed(program: str, option: str, cubin: bytes) -> str:
    """What Triton's copy of one of CUDA's programs prints about a compiled kernel."""
    from triton.backends import nvidia

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [Path(nvidia.__file__).parent / "bin" / program, option, file]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
