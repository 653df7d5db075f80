"""Transport problems, and the budget of DESIGN section 4 for a backend of sinkhorn."""

import torch

from salcr import ops, reference
from tests.ops.contract import assert_within_budget


def squared_distances(generator, rows=37, cols=11, width=16, dtype=torch.float64):
    x, y = (torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (rows, cols))
    x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    return (2 - 2 * x @ y.T).to(dtype)


def check(impl, cost, **options):
    """Within the budget of eager PyTorch, and the same bits twice."""
    exact = reference.sinkhorn(cost.double(), **options)
    got = ops.sinkhorn(cost, impl=impl, **options)
    assert_within_budget(got, exact, reference.sinkhorn(cost, **options))
    assert torch.equal(got, ops.sinkhorn(cost, impl=impl, **options))


def check_batch(impl, cost, **options):
    """Each problem of a batch as if it were alone."""
    plans = ops.sinkhorn(cost, impl=impl, **options)
    assert plans.shape == cost.shape
    for problem, plan in zip(cost, plans, strict=True):
        assert torch.equal(plan, ops.sinkhorn(problem, impl=impl, **options))
