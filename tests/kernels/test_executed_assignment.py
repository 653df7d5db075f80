"""The solver of csrc/cuda as nvcc has compiled it, executed on the CPU: see tests/kernels/executed_cuda.py."""

import pytest
import torch

from salcr import reference
from salcr.ops.backends.cuda import assignment
from tests.kernels.executed_cuda import executed_solver, ptx_of
from tests.kernels.test_cuda_build import KERNELS
from tests.kernels.test_emulated_assignment import CAPACITIES
from tests.ops.assignment_problems import INF, KINDS, assert_optimal, costs

pytest.importorskip("triton")  # which brings cuobjdump
pytest.importorskip("salcr._cuda")
PROCESSORS = 3


@pytest.fixture(params=["batch", "large"])
def kernel(request, monkeypatch):
    """Whether a block solves a problem, or the grid does whatever its size."""
    if request.param == "large":
        monkeypatch.setattr(assignment, "GRID_FROM", 0)
        monkeypatch.setattr(assignment, "GRID_THREADS", 64)
    return request.param


def solved(cost, kernel, **options):
    """What two orders of the warps find, to the same bits."""
    found = []
    for seed in (0, 100):
        with executed_solver(PROCESSORS, seed) as launched:
            found.append(assignment.solve(cost, **options))
        assert launched == [f"assignment_{kernel}_float{cost.element_size() * 8}"] * (
            len(cost) if kernel == "large" else 1
        )
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))
    return found[0]


@pytest.mark.parametrize("shape", [(1, 7), (40, 40), (33, 65), (20, 200)])
@pytest.mark.parametrize("kind", KINDS)
def test_optimal(generator, kernel, kind, shape):
    cost = costs(kind, shape, generator)
    columns, *duals = (x[0] for x in solved(cost[None], kernel, capacity=1, maximize=False))
    assert_optimal(cost, torch.arange(len(cost)), columns, *duals, maximize=False)


def test_a_batch_in_float64_to_maximise(generator, kernel):
    batch = torch.rand(4, 30, 35, generator=generator, dtype=torch.float64)
    found = solved(batch, kernel, capacity=1, maximize=True)
    for cost, columns, *duals in zip(batch, *found, strict=True):
        assert_optimal(cost, torch.arange(30), columns, *duals, maximize=True)


@pytest.mark.parametrize("shape", CAPACITIES[:5])
def test_capacities_are_repeated_columns(generator, kernel, shape):
    num_rows, num_cols, capacity = shape
    cost = torch.rand(1, num_rows, num_cols, generator=generator)
    columns = solved(cost, kernel, capacity=capacity, maximize=False)[0][0]
    repeated = solved(cost.repeat(1, 1, capacity), kernel, capacity=1, maximize=False)[0][0]
    assert columns.bincount().max() <= capacity
    totals = (cost[0, torch.arange(num_rows), x % num_cols].double().sum() for x in (columns, repeated))
    torch.testing.assert_close(*totals, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", [(9, 9), (7, 12), (12, 7)])
@pytest.mark.parametrize("turned", [False, True])
def test_linear_assignments(generator, kernel, shape, maximize, turned):
    """``turned``: in memory columns come first."""
    batch = torch.rand(2, *shape, generator=generator)
    batch = batch.mT.contiguous().mT if turned else batch
    with executed_solver(PROCESSORS):
        found = assignment.linear_assignment(batch, maximize=maximize, return_duals=True)
        alone = [assignment.linear_assignment(cost, maximize=maximize, return_duals=True) for cost in batch]
        assert len(assignment.linear_assignment(batch)) == 2
    for n, cost in enumerate(batch):
        assert all(torch.equal(x[n], y) for x, y in zip(found, alone[n], strict=True))
        assert_optimal(cost, *alone[n], maximize=maximize)


@pytest.mark.parametrize("shape", [(9, 9), (20, 7), (7, 20), (1, 5)])
def test_both_ways(generator, kernel, shape):
    cost = torch.rand(shape, generator=generator)
    with executed_solver(PROCESSORS):
        found = assignment.bidirectional_assignment(cost)
    assert all(map(torch.equal, found, reference.bidirectional_assignment(cost)))


def test_infeasible(generator, kernel):
    cost = torch.rand(3, 5, 5, generator=generator)
    cost[1, :, 2] = INF
    with pytest.raises(ValueError, match="infeasible: problem 1 of 3"), executed_solver(PROCESSORS):
        assignment.linear_assignment(cost)


def test_warps_merge_by_their_own_reductions(generator):
    counts = []
    with executed_solver(PROCESSORS, counts=counts):
        assignment.solve(torch.rand(1, 100, 100, generator=generator), capacity=1, maximize=False)
    assert counts[0].instructions < 200_000  # 171,000 of these costs
    assert all("redux.sync" in ptx and "shfl" not in ptx for ptx in map(ptx_of, KERNELS))
