"""The kernels of csrc/cuda on a GPU, compiled by nvcc and by CuPy; their logic without one: tests/kernels."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from salcr import ops, reference
from salcr.ops.backends.cuda import assignment as _assignment_cuda
from tests.ops.assignment_problems import INF, KINDS, assert_optimal, costs

SHAPES = [(1, 1), (1, 7), (7, 1), (40, 23), (50, 2000), (800, 500), (300, 300)]


@pytest.fixture(params=["nvcc", "cupy"])
def compiler(request, monkeypatch):
    if request.param == "nvcc":
        pytest.importorskip("salcr._cuda")
    else:
        pytest.importorskip("cupy")
        monkeypatch.setattr(_assignment_cuda, "_launcher", lambda: _assignment_cuda.launch_with_cupy)
    return request.param


@pytest.fixture(params=["batch", "large"])
def kernel(request, monkeypatch):
    """Whether a block solves a problem, or the grid does whatever its size."""
    monkeypatch.setattr(_assignment_cuda, "GRID_FROM", 0 if request.param == "large" else 10**9)
    return request.param


def check(cost, *, maximize=False):
    """Optimal by its duals, the total of SciPy, the same bits twice."""
    first, again = (
        ops.linear_assignment(cost.cuda(), maximize=maximize, return_duals=True, impl="cuda") for _ in range(2)
    )
    assert all(x.is_cuda and torch.equal(x, y) for x, y in zip(first, again, strict=True))
    rows, cols, *duals = (x.cpu() for x in first)
    assert_optimal(cost, rows, cols, *duals, maximize=maximize)
    expected = cost.double()[linear_sum_assignment(cost.numpy(), maximize)].sum()
    torch.testing.assert_close(cost.double()[rows, cols].sum(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.cuda
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_optimal(generator, kernel, kind, shape, maximize):
    cost = costs(kind, shape, generator)
    check(-cost if maximize else cost, maximize=maximize)


@pytest.mark.cuda
def test_either_compiler(generator, compiler, kernel):
    for dtype in (torch.float32, torch.float64):
        check(torch.rand(300, 400, generator=generator, dtype=dtype))


@pytest.mark.cuda
@pytest.mark.parametrize("maximize", [False, True])
def test_batch(generator, kernel, maximize):
    cost = torch.rand(9, 80, 50, generator=generator)
    found = ops.linear_assignment(cost.cuda(), maximize=maximize, return_duals=True, impl="cuda")
    for n, problem in enumerate(cost):
        assert_optimal(problem, *(x[n].cpu() for x in found), maximize=maximize)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["uniform", "geometric"])
@pytest.mark.parametrize("shape", [(2048, 2048), (5000, 5000), (3000, 7000)])
def test_large(generator, kind, shape):
    check(costs(kind, shape, generator))


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(9, 9), (40, 23), (23, 40), (500, 10), (4000, 300), (1, 30)])
@pytest.mark.parametrize("kind", ["uniform", "integer", "geometric", "rank one"])
def test_both_ways(generator, kernel, kind, shape):
    cost = costs(kind, shape, generator)
    num_rows, num_cols = shape
    results = ops.bidirectional_assignment(cost.cuda(), impl="cuda")
    expected = reference.bidirectional_assignment(cost)
    rows, cols = torch.arange(num_rows), torch.arange(num_cols)
    for x, y, capacity, picked in (
        (*(r[0].cpu() for r in (results, expected)), -(-num_rows // num_cols), lambda to: (rows, to)),
        (*(r[1].cpu() for r in (results, expected)), -(-num_cols // num_rows), lambda to: (to, cols)),
    ):
        assert x.bincount().max() <= capacity
        totals = (cost.double()[picked(to)].sum() for to in (x, y))
        torch.testing.assert_close(*totals, rtol=1e-6, atol=0.0)


@pytest.mark.cuda
def test_infeasible(generator, kernel):
    cost = torch.rand(3, 5, 5, generator=generator)
    cost[1, :, 2] = INF
    with pytest.raises(ValueError, match="infeasible: problem 1 of 3"):
        ops.linear_assignment(cost.cuda(), impl="cuda")


@pytest.mark.cuda
def test_on_the_current_stream(generator):
    cost, stream = torch.rand(200, 300, generator=generator), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        on_device = cost.cuda()
        torch.cuda._sleep(10_000_000)
        on_device.neg_()
        rows, cols = ops.linear_assignment(on_device, impl="cuda")
    stream.synchronize()
    expected = ops.linear_assignment(-cost, impl="reference")
    assert torch.equal(rows.cpu(), expected[0]) and torch.equal(cols.cpu(), expected[1])


@pytest.fixture
def cupy(monkeypatch):
    """CuPy's place: what it compiled, and each launch with what holds as it is made."""
    said = SimpleNamespace(sources=[], launches=[])

    class Function:
        max_dynamic_shared_size_bytes = 0

        def kernel(self, *arguments, **options):
            said.launches.append((*arguments, options | {"limit": self.max_dynamic_shared_size_bytes}))

    def module(code, options):
        said.sources.append((code, options))
        return SimpleNamespace(get_function=lambda name: Function())

    cuda = SimpleNamespace(Device=nullcontext, ExternalStream=lambda *of: of)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda, RawModule=module))
    _assignment_cuda._compiled.cache_clear()
    yield said
    _assignment_cuda._compiled.cache_clear()


@pytest.mark.parametrize("cooperative", [False, True])
def test_a_launch_by_cupy(cupy, cooperative):
    shape = dict(blocks=3, threads=64, shared_bytes=50_000, cooperative=cooperative, device=1, stream=77)
    _assignment_cuda.launch_with_cupy("assignment_batch_float32", **shape, arguments=(2**40, 5))
    ((grid, block, arguments, options),) = cupy.launches
    assert (grid, block, arguments) == ((3,), (64,), (2**40, 5)) and all(type(x) is np.int64 for x in arguments)
    more = dict(stream=(77, 1), enable_cooperative_groups=cooperative)
    assert options == dict(shared_mem=50_000, limit=50_000) | more


def test_cupy_is_told_where_the_headers_are(cupy):
    _assignment_cuda._compiled("assignment_batch_float32")
    ((_, options),) = cupy.sources
    (folder,) = (option.removeprefix("-I") for option in options if option.startswith("-I"))
    assert Path(folder, "assignment_kernels.cuh").is_file()


def test_a_changed_header_is_compiled_again(cupy, tmp_path, monkeypatch):
    """CuPy's cache on disk goes by the source alone."""
    monkeypatch.setattr(_assignment_cuda.resources, "files", lambda _: tmp_path)
    folder = tmp_path / "cuda_sources"
    folder.mkdir()
    for text in ("// one", "// another"):
        (folder / "scope.cuh").write_text(text)
        _assignment_cuda._compiled.cache_clear()
        _assignment_cuda._compiled("assignment_batch_float32")
    (first, options), (second, _) = cupy.sources
    assert first != second and f"-I{folder}" in options


@pytest.mark.parametrize("size", [1, 100, 2048])
def test_problems_up_to_2048_take_a_block_each(size):
    launch = _assignment_cuda.plan(torch.float32, 64, size, size, 1, 132)
    assert launch.kernel == "assignment_batch_float32" and not launch.cooperative
    assert launch.blocks == 64 and launch.threads % 32 == 0 and launch.shared_bytes <= _assignment_cuda.SHARED_LIMIT


@pytest.mark.parametrize(
    ("count", "size", "kernel"), [(1, 1000, "batch"), (1, 1001, "large"), (2, 2000, "batch"), (2, 2001, "large")]
)
def test_few_problems_take_the_grid_one_after_the_other(count, size, kernel):
    assert _assignment_cuda.plan(torch.float32, count, size, size, 1, 132).kernel == f"assignment_{kernel}_float32"


@pytest.mark.parametrize(("rows", "columns", "capacity"), [(20000, 20000, 1), (3000, 20000, 1), (20000, 300, 67)])
def test_larger_ones_take_the_grid(rows, columns, capacity):
    launch = _assignment_cuda.plan(torch.float64, 2, rows, columns, capacity, 132)
    assert launch.kernel == "assignment_large_float64" and launch.cooperative
    assert 1 < launch.blocks <= 132 and launch.shared_bytes < 48 * 1024
