"""What a measurement asks of the device it runs on: a run by the clock, the memory it took, the machine's ceilings."""

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

COPIED, MATRIX = {"cpu": 1 << 28, "cuda": 1 << 30}, {"cpu": 1536, "cuda": 8192}  # bytes; rows of a square matrix
REPLAYS = 20


class Run(NamedTuple):
    """One call of a variant."""

    seconds: float
    outputs: object
    peak_bytes: int | None  # beyond the inputs; None where the device cannot say


class Cpu:
    """The clock alone: memory of the CPU is measured in a process of its own, see :mod:`benchmarks.worker`."""

    name = "cpu"

    def run(self, variant: Callable, inputs: Sequence) -> Run:
        start = time.perf_counter()
        outputs = variant(*inputs)
        return Run(time.perf_counter() - start, outputs, None)

    def replay(self, variant: Callable, inputs: Sequence) -> dict[str, float | str]:
        return {}

    def ceilings(self) -> dict[str, float]:
        return _ceilings(self, ("float32", "bfloat16"))


class Cuda:
    """The clock from an idle device to an idle device; memory as PyTorch's allocator counts it."""

    name = "cuda"

    def run(self, variant: Callable, inputs: Sequence) -> Run:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        start = time.perf_counter()
        outputs = variant(*inputs)
        torch.cuda.synchronize()
        return Run(time.perf_counter() - start, outputs, torch.cuda.max_memory_allocated() - before)

    def replay(self, variant: Callable, inputs: Sequence) -> dict[str, float | str]:
        """Median milliseconds of the kernels alone, as a CUDA graph: right after another replay (its inputs may still
        be in the L2 cache), and after the cache was overwritten; or why there is no graph."""
        graph = torch.cuda.CUDAGraph()
        try:
            with _refused_waits():  # after a capture that fails PyTorch frees and replays nothing any more
                variant(*inputs)
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):  # which may not give it back
                variant(*inputs)
        except Exception as error:
            torch.cuda.synchronize()
            return {"no_graph": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        scratch = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
        warm = [self._event_ms(graph.replay, scratch.zero_, graph.replay) for _ in range(REPLAYS)]
        cold = [self._event_ms(graph.replay, scratch.zero_) for _ in range(REPLAYS)]
        return {"graph_warm_l2_ms": statistics.median(warm), "graph_cold_l2_ms": statistics.median(cold)}

    def ceilings(self) -> dict[str, float]:
        return _ceilings(self, ("float32", "tf32", "bfloat16"))

    def _event_ms(self, replay: Callable, *before: Callable) -> float:
        """Of ``replay``, which the device begins at once after ``before``: an idle one would wait for its launch."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for call in before:
            call()
        start.record()
        replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


@contextlib.contextmanager
def _refused_waits() -> Iterator[None]:
    """Inside, what waits for the device raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


DEVICES = {"cpu": Cpu, "cuda": Cuda}


def floor_ms(case: dict, ceilings: dict[str, float]) -> float | None:
    """The least time that this machine's ceilings leave a case of a record; None where it names no floor.

    Matrix products count at the rate of float32, on a GPU at that of TF32.
    """
    rate = ceilings.get("tf32_flop_s", ceilings["float32_flop_s"])
    parts = case.get("floor_bytes", 0) / ceilings["copy_bytes_s"], case.get("floor_flops", 0) / rate
    return 1000 * max(parts) or None


def _ceilings(device: Cpu | Cuda, precisions: Sequence[str]) -> dict[str, float]:
    """Bytes a second of a large copy (read and written), and FLOP a second of a large matrix product; the best of 5."""
    source = torch.ones(COPIED[device.name] // 4, device=device.name)
    target = source.clone()
    found = {"copy_bytes_s": 2 * source.nbytes / _best(device, target.copy_, (source,))}
    size = MATRIX[device.name]
    for precision in precisions:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        x = torch.ones(size, size, device=device.name, dtype=dtype)
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        found[f"{precision}_flop_s"] = 2 * size**3 / _best(device, torch.mm, (x, x))
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return found


def _best(device: Cpu | Cuda, function: Callable, inputs: Sequence) -> float:
    return min(device.run(function, inputs).seconds for _ in range(5))
