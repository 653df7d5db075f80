"""The Triton backend of sinkhorn under the interpreter; run by test_interpreter.py in a process of its own."""

import pytest
import torch

from salcr import ops, reference
from salcr.kernels import sinkhorn as kernels
from tests.ops.transport_problems import check, check_batch, squared_distances


@pytest.mark.parametrize("shape", [(37, 11), (5, 70), (1, 9), (9, 1)])
def test_plans_of_any_shape(generator, shape):
    cost = squared_distances(generator, *shape, dtype=torch.float32)
    check("triton", cost, lam=60.0, tol=0.0, max_iter=3)


@pytest.mark.parametrize(("max_iter", "check_every"), [(1, 1), (3, 2), (14, 10), (23, 1)])
def test_steps_and_looks(generator, max_iter, check_every):
    cost = squared_distances(generator, rows=30, cols=9, dtype=torch.float32)
    for tol in (0.0, 0.01, 100.0):
        options = dict(tol=tol, max_iter=max_iter, check_every=check_every)
        assert_close = torch.testing.assert_close
        assert_close(ops.sinkhorn(cost, impl="triton", **options), reference.sinkhorn(cost, **options))


def test_the_change_of_beta_is_exact_where_it_is_small():
    """Of a step from these logarithms of beta to zeros."""
    before = torch.tensor([[1e-7, -1e-7, 1e-3, 0.0199, 0.021, -3.0, 2.0, 60.0]])
    change, done, columns = torch.empty_like(before), torch.zeros(1, dtype=torch.int32), before.shape[1]
    shares = torch.zeros_like(before), torch.ones_like(before)
    kernels.columns_kernel[(columns // 4,)](
        *shares, before.clone(), change, done, columns, 1, columns // 4, 0.0, CHECK=True, C=4, BLOCK=2
    )
    torch.testing.assert_close(change.double(), before.double().expm1().abs(), rtol=1e-5, atol=0)


def test_each_problem_of_a_batch_stops_on_its_own(generator):
    cost = squared_distances(generator, 30, 9, dtype=torch.float32)
    check_batch("triton", torch.stack([cost, 60 * cost, cost / 60]), max_iter=23)


@pytest.mark.parametrize("scale", [100.0, 20000.0])
def test_large_costs(generator, scale):
    cost = scale * torch.rand(7, 4, generator=generator)
    cost[:, 2] += 3 * scale
    check("triton", cost, tol=0.0, max_iter=6)


def test_float64_is_left_to_others(generator):
    with pytest.raises(RuntimeError, match=r"it takes torch.float32, got torch.float64"):
        ops.sinkhorn(squared_distances(generator), impl="triton")


def test_more_problems_than_a_second_grid_axis_has(generator, monkeypatch):
    """65,535 is the limit of any axis but the first; nothing is run."""
    grids = []
    for name in ("rows_kernel", "columns_kernel", "plan_kernel"):
        kernel = type("Recorded", (), {"__getitem__": lambda self, grid: lambda *_, **__: grids.append(grid)})()
        monkeypatch.setattr(kernels, name, kernel)
    kernels.sinkhorn(torch.rand(35_000, 40, 20), lam=5.0, tol=0.1, max_iter=1, check_every=10)
    assert len(grids) == 3 and all(len(grid) == 1 and grid[0] > 65_535 for grid in grids)
