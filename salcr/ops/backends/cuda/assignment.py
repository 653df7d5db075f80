"""Assignment on the GPU: a block a problem, or the whole grid for one after the other.

A block has a problem's state in shared memory and issues all of its instructions on one multiprocessor; the grid shares
them out, and has a barrier a step. With the instructions and steps of random costs, counted while compiled code was
executed on a CPU, 2 µs a barrier and 1.5 instructions a cycle, the grid is faster from about 1,000 columns on where a
problem is alone, and blocks are where there are many. (An estimate: no GPU has run either.)

The kernels are in csrc/cuda; here are the geometry of their launches and the memory they need.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import NamedTuple

import torch

from salcr.ops.backends._assignment import assign_both_ways

SHARED_LIMIT = 96 * 1024  # bytes a block may ask for on every GPU since Ampere
FIXED_BYTES = 2568  # shared memory of any launch, whatever its size
BLOCK_THREADS, GRID_THREADS = 512, 128
GRID_FROM = 1000  # columns of a problem that is alone


class Launch(NamedTuple):
    """Geometry of a launch; ``workspace`` is global memory that has to start with zeros, in bytes."""

    kernel: str
    blocks: int
    threads: int
    shared_bytes: int
    workspace: int = 0

    @property
    def cooperative(self) -> bool:
        return self.workspace > 0


def linear_assignment(
    cost: torch.Tensor, *, maximize: bool = False, return_duals: bool = False
) -> tuple[torch.Tensor, ...]:
    """See :func:`salcr.ops.linear_assignment`."""
    batch = cost if cost.ndim == 3 else cost[None]
    num_rows, num_cols = cost.shape[-2:]
    flipped = num_rows > num_cols or (num_rows == num_cols and cost.stride(-1) != 1)
    partners, *duals = solve(batch.mT if flipped else batch, capacity=1, maximize=maximize)
    if flipped:
        rows, cols = partners.sort(dim=1)
        duals.reverse()
    else:
        rows, cols = torch.arange(num_rows, device=cost.device).expand_as(partners).contiguous(), partners
    results = (rows, cols, *duals) if return_duals else (rows, cols)
    return results if cost.ndim == 3 else tuple(x[0] for x in results)


def bidirectional_assignment(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.bidirectional_assignment`."""
    return assign_both_ways(solve, cost)


def solve(cost: torch.Tensor, *, capacity: int, maximize: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The column of every row, no column of more than ``capacity`` rows, and the duals.

    Args:
        cost: ``[B, M, N]`` with M <= N * capacity, float32 or float64.

    Returns:
        ``(columns [B, M], row_duals [B, M], col_duals [B, N])``. Synchronises once, to see whether all were solved.
    """
    cost = cost.contiguous()
    count, num_rows, num_cols = cost.shape
    columns = cost.new_empty(count, num_rows, dtype=torch.int64)
    row_duals = cost.new_empty(count, num_rows, dtype=torch.float64)
    col_duals = cost.new_empty(count, num_cols, dtype=torch.float64)
    solved = cost.new_zeros(count, dtype=torch.int64)
    processors = torch.cuda.get_device_properties(cost.device).multi_processor_count
    launch = plan(cost.dtype, count, num_rows, num_cols, capacity, processors)
    sizes = num_rows, num_cols, capacity, int(maximize)
    outputs = columns, row_duals, col_duals, solved
    with torch.cuda.device(cost.device):
        if not launch.cooperative:
            _run(launch, cost, (cost.data_ptr(), *sizes, *(x.data_ptr() for x in outputs)))
        else:
            workspace = torch.empty(launch.workspace, dtype=torch.uint8, device=cost.device)
            for problem in range(count):
                workspace[:8].zero_()
                pointers = (x[problem].data_ptr() for x in outputs)
                _run(launch, cost, (cost[problem].data_ptr(), *sizes, *pointers, workspace.data_ptr()))
    if not solved.all():
        raise ValueError(f"cost matrix is infeasible: problem {int(solved.argmin())} of {count}")
    return columns, row_duals, col_duals


def plan(dtype: torch.dtype, count: int, num_rows: int, num_cols: int, capacity: int, processors: int) -> Launch:
    """The launch for ``count`` problems on a GPU of so many multiprocessors."""
    suffix = str(dtype).removeprefix("torch.")
    state = 25 * num_cols + 4 * num_cols * capacity + 8 * num_rows
    threads = min(BLOCK_THREADS, 32 * -(-max(num_cols, 64) // 32))
    shared = FIXED_BYTES + (84 * threads) // 32 + 8 + state
    rounds = -(-count // processors)
    if shared <= SHARED_LIMIT and rounds * num_cols <= GRID_FROM * count:
        return Launch(f"assignment_batch_{suffix}", count, threads, shared)
    blocks = min(processors, -(-max(num_rows, num_cols) // GRID_THREADS))
    workspace = 8 + 72 * blocks + state
    return Launch(f"assignment_large_{suffix}", blocks, GRID_THREADS, FIXED_BYTES + 16 * blocks, workspace)


def missing_solver() -> str | None:
    """What this backend lacks on this machine, or None if it can run."""
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    lacking = missing_extension()
    if lacking is not None and find_spec("cupy") is None:
        return f"{lacking}, and there is no CuPy to compile its sources"
    return None


@cache
def missing_extension() -> str | None:
    """Why salcr._cuda cannot be imported, or None if it can."""
    try:
        import salcr._cuda  # noqa: F401
    except ImportError as error:
        return f"the extension salcr._cuda is not built ({error})"
    return None


def _run(launch: Launch, cost: torch.Tensor, arguments: tuple[int, ...]) -> None:
    stream = torch.cuda.current_stream(cost.device).cuda_stream
    _launcher()(
        launch.kernel,
        blocks=launch.blocks,
        threads=launch.threads,
        shared_bytes=launch.shared_bytes,
        cooperative=launch.cooperative,
        device=cost.device.index,
        stream=stream,
        arguments=arguments,
    )


def _launcher() -> Callable[..., None]:
    if missing_extension() is not None:
        return launch_with_cupy
    from salcr import _cuda

    return _cuda.launch


def launch_with_cupy(
    kernel: str,
    *,
    blocks: int,
    threads: int,
    shared_bytes: int,
    cooperative: bool,
    device: int,
    stream: int,
    arguments: tuple[int, ...],
) -> None:
    """``salcr._cuda.launch`` with kernels that NVRTC compiles at first use; CuPy keeps them on disk."""
    import cupy
    import numpy as np

    with cupy.cuda.Device(device):
        function = _compiled(kernel)
        function.max_dynamic_shared_size_bytes = shared_bytes
        function.kernel(
            (blocks,),
            (threads,),
            tuple(np.int64(x) for x in arguments),
            shared_mem=shared_bytes,
            stream=cupy.cuda.ExternalStream(stream, device),
            enable_cooperative_groups=cooperative,
        )


@cache
def _compiled(kernel: str):
    """The kernel. CuPy's cache on disk goes by the source it is given, so that names what it includes."""
    import cupy

    folder = resources.files("salcr") / "cuda_sources"  # no package: files() of it makes a path that no compiler opens
    headers = sorted(path.read_bytes() for path in folder.iterdir() if path.name.endswith(".cuh"))
    digest = hashlib.sha256(b"".join(headers)).hexdigest()
    code = f'// {digest}\n#include "assignment_kernels.cuh"\n'
    return cupy.RawModule(code=code, options=("--std=c++17", f"-I{folder}")).get_function(kernel)
