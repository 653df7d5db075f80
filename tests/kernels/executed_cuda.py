"""Launches of csrc/cuda executed as compiled: the PTX in salcr._cuda, on CPU tensors, by the machine in machine/.

The emulation (csrc/cuda/emulation.hpp) runs the solver's source; this runs what nvcc made of it, with its warps, their
exchanges, its shared memory and the grid's barrier.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from salcr.ops.backends.cuda import assignment
from tests.kernels.executed import Counts, Fault, run
from tests.kernels.lanes import printed


@contextlib.contextmanager
def executed_solver(processors: int, seed: int = 0, counts: list[Counts] | None = None) -> Iterator[list[str]]:
    """``salcr.ops.backends.cuda.assignment.solve`` takes CPU tensors, as on a GPU of so many multiprocessors.

    ``seed`` decides the order of warps. Yields the kernels launched, and appends what each takes to ``counts``.

    Raises:
        AssertionError: a kernel did what PTX forbids or leaves open.
    """
    launched, tensors, devices = [], [], []
    own_address = torch.Tensor.data_ptr

    def data_ptr(x: torch.Tensor) -> int:
        tensors.append(x)
        return own_address(x)

    def launch(kernel: str, *, blocks: int, threads: int, shared_bytes: int, arguments: Any, **options: Any) -> None:
        assert devices, "the tensors' device is not the current one"
        launched.append(kernel)
        shape, order = ((blocks,), threads // 32, shared_bytes), seed + len(launched)
        chosen = dict(counting=counts is not None, together=options["cooperative"])
        try:
            took = run(ptx_of(kernel), [x % 2**64 for x in arguments], tensors, *shape, order, **chosen)
        except Fault as fault:
            raise AssertionError(f"{kernel} of {blocks} blocks of {threads} threads: {fault}") from None
        if took is not None:
            counts.append(took._replace(kernel=kernel))

    @contextlib.contextmanager
    def current(device: torch.device) -> Iterator[None]:
        devices.append(device)
        yield
        devices.pop()

    properties = SimpleNamespace(multi_processor_count=processors)
    with (
        mock.patch.object(torch.Tensor, "data_ptr", data_ptr),
        mock.patch.object(assignment, "_launcher", lambda: launch),
        mock.patch.object(torch.cuda, "get_device_properties", lambda device: properties),
        mock.patch.object(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0)),
        mock.patch.object(torch.cuda, "device", current),
    ):
        yield launched


@functools.cache
def ptx_of(kernel: str) -> str:
    """That of one kernel of the extension, on the lines where cuobjdump prints it."""
    from salcr import _cuda

    everything = printed("cuobjdump", "--dump-ptx", Path(_cuda.__file__).read_bytes())
    begin = everything.index(f".entry {kernel}(")
    end = everything.find(".entry ", begin + 1)
    return "\n" * everything.count("\n", 0, begin) + everything[begin : None if end < 0 else end]
