"""The solver of csrc/cuda without a GPU: the same source, its threads one after the other."""

import contextlib
import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from salcr import reference
from salcr.ops.backends.cuda import assignment as adapter
from tests.kernels.emulated import solve
from tests.ops.assignment_problems import INF, KINDS, assert_optimal, costs

SHAPES = [(1, 1), (1, 7), (6, 6), (23, 40), (50, 50), (40, 300), (50, 2000)]
CAPACITIES = [(7, 7, 1), (9, 4, 3), (12, 4, 3), (40, 23, 2), (60, 3, 20), (101, 2, 51), (50, 1, 50), (300, 200, 2)]


def check(cost, *, maximize=False, **team):
    """Optimal by its duals, the total of SciPy, and the same bits whichever thread comes first."""
    first, last = (solve(cost, maximize=maximize, backwards=order, **team) for order in (False, True))
    assert first.solved and last.solved and first.barriers == last.barriers
    for x, y in zip(first[1:4], last[1:4], strict=True):
        assert torch.equal(x, y)
    rows = torch.arange(len(cost))
    assert_optimal(cost, rows, first.columns, first.row_duals, first.col_duals, maximize=maximize)
    expected = cost.double()[linear_sum_assignment(cost.numpy(), maximize)].sum()
    torch.testing.assert_close(cost.double()[rows, first.columns].sum(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_optimal(generator, kind, shape, maximize):
    cost = costs(kind, shape, generator)
    check(-cost if maximize else cost, maximize=maximize)


@pytest.mark.parametrize(("groups", "threads_per_group"), [(1, 32), (2, 64), (16, 32), (3, 128)])
@pytest.mark.parametrize("kind", KINDS)
def test_teams_of_every_shape(generator, kind, groups, threads_per_group):
    check(costs(kind, (70, 75), generator), groups=groups, threads_per_group=threads_per_group)


@pytest.mark.parametrize("scale", [1e-300, 1e-60, 1e60, 1e300])
def test_costs_beyond_float32(generator, scale):
    check(torch.rand(30, 30, generator=generator, dtype=torch.float64) * scale)


def test_a_search_takes_fewer_steps_than_it_expands_columns(generator):
    """With one group a step is one expansion of Dijkstra's algorithm."""
    cost = torch.rand(300, 300, generator=generator)
    alone, together = (solve(cost, groups=groups).barriers for groups in (1, 10))
    assert together < alone / 2


@pytest.mark.parametrize("shape", CAPACITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_capacities_are_repeated_columns(generator, kind, shape):
    num_rows, num_cols, capacity = shape
    cost = costs(kind, (num_rows, num_cols), generator).double()
    repeated = cost.repeat(1, capacity)
    try:
        best = repeated[linear_sum_assignment(repeated.numpy())].sum()
    except ValueError:  # a row of forbidden pairs, or too many rows for a column
        assert not solve(cost, capacity=capacity).solved
        return
    first, last = (solve(cost, capacity=capacity, backwards=order) for order in (False, True))
    assert first.solved and all(torch.equal(x, y) for x, y in zip(first[1:4], last[1:4], strict=True))
    held = first.columns.bincount(minlength=num_cols)
    rows = torch.arange(num_rows)
    assert held.max() <= capacity
    torch.testing.assert_close(cost[rows, first.columns].sum(), best, rtol=1e-6, atol=0.0)
    slack = cost - first.row_duals[:, None] - first.col_duals
    rounding = num_rows * torch.finfo(torch.float64).eps * cost[cost.isfinite()].abs().max()
    assert slack.min() >= -rounding and slack[rows, first.columns].abs().max() <= rounding
    if num_rows < num_cols * capacity:
        assert (first.col_duals <= 0).all() and not first.col_duals[held < capacity].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "capacity"),
    [
        ([[INF, INF], [0, 1]], 1),  # a row without a column
        ([[0, INF, INF], [1, INF, INF], [2, 0, 0]], 1),  # two rows with one column
        ([[0, INF], [1, INF], [2, INF]], 2),  # three rows with one column of two places
    ],
)
def test_infeasible(rows, capacity, dtype):
    assert not solve(torch.tensor(rows, dtype=dtype), capacity=capacity).solved


@settings(deadline=None, max_examples=80, derandomize=True)
@given(data=st.data())
def test_small_integers_with_forbidden_pairs(data):
    capacity, num_cols = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    num_rows = data.draw(st.integers(1, num_cols * capacity))
    values = st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0, INF]), min_size=num_cols, max_size=num_cols)
    cost = torch.tensor([data.draw(values) for _ in range(num_rows)], dtype=torch.float64)
    found = solve(cost, capacity=capacity, groups=data.draw(st.integers(1, 3)))
    try:
        rows, cols = linear_sum_assignment(cost.repeat(1, capacity).numpy())
    except ValueError:
        assert not found.solved
        return
    assert found.solved and found.columns.bincount().max() <= capacity
    assert cost[range(num_rows), found.columns].sum() == cost[rows, cols % num_cols].sum()


@pytest.fixture(params=["batch", "large"])
def launched(request, monkeypatch):
    """The launches of the adapter; their kernels read and write what the arguments point to, here in the host's memory.

    Either a block solves a problem, or the grid one after the other.
    """
    launches, devices = [], []

    @contextlib.contextmanager
    def current(device):
        devices.append(device)
        yield
        devices.pop()

    def at(address, count, dtype):
        kind = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double, torch.int64: ctypes.c_int64}[dtype]
        return torch.from_numpy(np.ctypeslib.as_array((kind * count).from_address(address)))

    def launch(kernel, *, blocks, cooperative, arguments, **_):
        launches.append(kernel)
        assert devices  # where the kernel has to run
        cost, num_rows, num_cols, capacity, maximize, columns, row_duals, col_duals, solved, *workspace = arguments
        count, dtype = 1 if cooperative else blocks, getattr(torch, kernel.rpartition("_")[2])
        if cooperative:
            barriers = at(*workspace, 1, torch.int64)
            assert barriers == 0
            barriers.fill_(7)
        costs = at(cost, count * num_rows * num_cols, dtype).view(count, num_rows, num_cols)
        outputs = [(columns, num_rows, torch.int64), (row_duals, num_rows, torch.float64)]
        outputs = [
            at(place, count * size, of).view(count, size)
            for place, size, of in (*outputs, (col_duals, num_cols, torch.float64))
        ]
        for n, problem in enumerate(costs):
            found = solve(problem, capacity=capacity, maximize=bool(maximize))
            at(solved, count, torch.int64)[n] = found.solved
            for output, values in zip(outputs, found[1:4], strict=True):
                output[n] = values

    if request.param == "large":
        monkeypatch.setattr(adapter, "SHARED_LIMIT", 0)
    monkeypatch.setattr(adapter, "_launcher", lambda: launch)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))
    monkeypatch.setattr(torch.cuda, "device", current)
    yield launches
    assert launches and all(kernel.startswith(f"assignment_{request.param}_") for kernel in launches)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (9, 9), (7, 12), (12, 7)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_adapter_solves_every_problem_of_a_batch(generator, launched, shape, maximize, turned):
    """``turned``: in memory columns come first."""
    for dtype in (torch.float32, torch.float64):
        batch = torch.rand(3, *shape, generator=generator, dtype=dtype)
        batch = batch.mT.contiguous().mT if turned else batch
        found = adapter.linear_assignment(batch, maximize=maximize, return_duals=True)
        for n, cost in enumerate(batch):
            alone = adapter.linear_assignment(cost, maximize=maximize, return_duals=True)
            for x, y in zip(alone, found, strict=True):
                assert torch.equal(x, y[n])
            assert_optimal(cost, *alone, maximize=maximize)
        assert len(adapter.linear_assignment(batch)) == 2


@pytest.mark.parametrize("shape", [(9, 9), (20, 7), (7, 20), (1, 5)])
def test_the_adapter_assigns_both_ways(generator, launched, shape):
    cost = torch.rand(shape, generator=generator)
    for found, expected in zip(
        adapter.bidirectional_assignment(cost), reference.bidirectional_assignment(cost), strict=True
    ):
        assert torch.equal(found, expected)


def test_the_adapter_names_a_problem_without_a_solution(generator, launched):
    cost = torch.rand(3, 5, 5, generator=generator)
    cost[1, :, 2] = INF
    with pytest.raises(ValueError, match="infeasible: problem 1 of 3"):
        adapter.linear_assignment(cost)
