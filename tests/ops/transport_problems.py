"""Transport problems, and the error budget of a backend of sinkhorn."""

import torch

from salcr import ops, reference
from tests.ops.contract import assert_within_budget


def squared_distances(generator, rows=37, cols=11, width=16, dtype=torch.float64):
    x, y = (torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (rows, cols))
    x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    return (2 - 2 * x @ y.T).to(dtype)


def check(impl, cost, **options):
    """Within the budget of eager PyTorch, and the same bits twice."""
    got = ops.sinkhorn(cost, impl=impl, **options)
    assert_plan_within_budget(got, cost, **options)
    assert torch.equal(got, ops.sinkhorn(cost, impl=impl, **options))


def assert_plan_within_budget(got, cost, *, exact=None, eager=None, **options):
    """A plan is an exponential, whose relative error is the absolute error of λ · cost and of the two potentials."""
    exact = reference.sinkhorn(cost.double(), **options) if exact is None else exact
    eager = reference.sinkhorn(cost, **options) if eager is None else eager
    exponent = options.get("lam", 5.0) * (cost.amax() - cost.amin()).item()
    assert_within_budget(
        got, exact, eager, terms=sum(cost.shape[-2:]), magnitude=exact.abs().max() * max(1.0, exponent)
    )


def check_batch(impl, cost, **options):
    """Each problem of a batch as if it were alone."""
    plans = ops.sinkhorn(cost, impl=impl, **options)
    assert plans.shape == cost.shape
    for problem, plan in zip(cost, plans, strict=True):
        assert torch.equal(plan, ops.sinkhorn(problem, impl=impl, **options))
