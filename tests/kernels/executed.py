"""Triton's launches executed as compiled: their PTX, on CPU tensors, by the machine in tests/kernels/machine.

The interpreter runs what a kernel says; this runs what the compiler made of it for one architecture: bfloat16 and TF32,
tensor cores, asynchronous copies, layouts, and the threads that share them.
"""

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from tests.kernels.emulated import compiler
from tests.kernels.lanes import ROOT, compiled, specialised
from tests.kernels.ptx import Program

SOURCES = ROOT / "tests" / "kernels" / "machine"
ARCHITECTURES = (80, 89, 90, 120)  # 100 has tensor cores of its own kind
FREE = {"mov", "pack", "unpack", "param", "nothing"}  # instructions
SHARED = {"load_shared", "store_shared", "atom_shared", "ldmatrix", "stmatrix"}
MOST_STEPS = 200_000_000  # of warps, in a launch


class Counts(NamedTuple):
    """What the warps of a launch take together. Instructions are those of PTX, but for moves, which cost no time.

    Of memory ``sectors`` of 32 bytes, of shared memory ``passes`` over its 32 banks, and as few of either as the bytes
    of each instruction could take. A sector that two instructions want counts twice: a cache has it the second time.
    """

    kernel: str
    instructions: int
    sectors: int
    fewest_sectors: int
    passes: int
    fewest_passes: int
    lines: Counter[str]  # of the source: instructions

    @classmethod
    def of(cls, program: Program, counts: np.ndarray) -> "Counts":
        lines: Counter[str] = Counter()
        memory = np.zeros((2, 2), np.int64)
        for name, line, (warps, *took) in zip(program.names, program.source_lines(), counts.tolist(), strict=True):
            if name not in FREE:
                lines[line] += warps
            memory[int(name in SHARED)] += took
        return cls("", lines.total(), *memory.ravel().tolist(), lines)


class Fault(Exception):
    """What a kernel did that PTX forbids or leaves open."""


@contextlib.contextmanager
def executed(
    arch: int, seed: int = 0, counts: list[Counts] | None = None, blocks: int | None = None
) -> Iterator[Counter[str]]:
    """Kernels launched on CPU tensors run as on compute capability ``arch``; ``impl="triton"`` takes such tensors.

    ``seed`` decides the order of warps. Yields how often each kernel was launched. What each launch takes is appended
    to ``counts``. With ``blocks`` that many of a launch run, spread over its grid, and stand for all in its counts.

    Raises:
        AssertionError: a kernel did what PTX forbids or leaves open; the message names kernel, line and thread.
    """
    from triton.runtime.jit import JITFunction

    from salcr.kernels import launch, products
    from salcr.ops import _dispatch

    launches: Counter[str] = Counter()

    def record(kernel, *args, grid, warmup, **kwargs):
        launches[kernel.__name__] += 1
        every = max(1, math.prod(grid) // blocks) if blocks else 1
        took = execute(kernel, args, kwargs, grid, arch, seed + launches.total(), every, counting=counts is not None)
        if took is not None:
            counts.append(took._replace(kernel=kernel.__name__))

    _dispatch.missing.cache_clear()  # it remembers that Triton cannot run here, and afterwards that it can
    try:
        with (
            mock.patch.object(JITFunction, "run", record),
            mock.patch.object(launch, "architecture", lambda device: arch),
            mock.patch.object(products, "architecture", lambda device: arch),
            mock.patch.object(_dispatch, "_interpreting", lambda: True),
        ):
            yield launches
    finally:
        _dispatch.missing.cache_clear()


def execute(
    kernel: Any,
    args: tuple,
    kwargs: dict[str, Any],
    grid: tuple[int, ...],
    arch: int,
    seed: int,
    every: int = 1,
    counting: bool = False,
) -> Counts | None:
    launch = specialised(kernel, args, kwargs, ())
    named = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
    parameters, tensors = [], []
    for name, kinds in launch.signature:
        several = isinstance(kinds, tuple)
        for kind, value in zip(kinds if several else [kinds], named[name] if several else [named[name]], strict=True):
            if kind.startswith("*"):
                tensors.append(value)
            if kind != "constexpr":
                parameters.append(_bits(kind, value))
    used, warps = compiled(launch, arch), dict(launch.options).get("num_warps", 4)
    try:
        return run(used.ptx, parameters, tensors, grid, warps, used.shared, seed, every, counting=counting)
    except Fault as fault:
        number = int(str(fault).removeprefix("line ").split(",")[0])
        lines = used.ptx.splitlines()[:number]
        source = next((x.strip() for x in reversed(lines) if x.strip().startswith(".loc")), "")
        which = f"{kernel.__name__} of sm_{arch}, {dict(launch.constants)}, grid {grid}"
        raise AssertionError(f"{which}: {fault}: {lines[-1].strip()} {source}") from None


def run(
    ptx: str,
    parameters: list[int],
    tensors: list[torch.Tensor],
    grid: tuple[int, ...],
    warps: int,
    shared: int,
    seed: int,
    every: int = 1,
    counting: bool = False,
    together: bool = False,
) -> Counts | None:
    """Execute the one kernel of ``ptx``, whose ``parameters`` are bits and which may touch ``tensors`` alone.

    Of its blocks every ``every``-th runs, the first among them: a few at a time or, where they wait for each other,
    all ``together``. Returns what all blocks of the grid would take, where ``counting``.

    Raises:
        Fault: line and thread of the first thing that PTX forbids or leaves open.
    """
    program, handle = _assembled(ptx)
    parameters = [*parameters, *[0] * (len(program.parameters) - len(parameters))]  # Triton's scratch: there is none
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    regions = np.array([[begin, begin + size] for begin, size in storages.items()], np.uint64)
    shape = np.array([*grid, *[1] * (3 - len(grid)), warps, shared, every, together], np.int32)
    passed, message = np.array(parameters, np.uint64), ctypes.create_string_buffer(400)
    arrays = (ctypes.c_void_p(x.ctypes.data) for x in (passed, shape, regions))
    limits = len(regions), ctypes.c_uint64(seed), ctypes.c_uint64(MOST_STEPS)
    counts = np.zeros((len(program.code), 3), np.uint64)
    counted = ctypes.c_void_p(counts.ctypes.data if counting else None)
    if library().launch(ctypes.c_void_p(handle), *arrays, *limits, counted, message, len(message)):
        raise Fault(message.value.decode())
    return Counts.of(program, counts * np.uint64(every)) if counting else None


def _bits(kind: str, value: Any) -> int:
    if kind.startswith("*"):
        return value.data_ptr()
    return struct.unpack("<I", struct.pack("<f", value))[0] if kind == "fp32" else value % 2**64


@functools.cache
def _assembled(ptx: str) -> tuple[Program, int]:
    program = Program(ptx, library())
    return program, program.assemble()


@functools.cache
def library() -> ctypes.CDLL:
    """Compiled once for its sources and compiler, into build/."""
    sources = sorted(SOURCES.glob("*.cpp"))
    command = [*compiler(), "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", *sources]
    of = [*map(str, command), *(x.read_text() for x in (*sources, *sorted(SOURCES.glob("*.hpp"))))]
    target = ROOT / "build" / f"machine-{hashlib.sha256(repr(of).encode()).hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        written = target.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", written], check=True)
        written.replace(target)
    library = ctypes.CDLL(str(target))
    library.assemble.restype = ctypes.c_void_p
    return library
