import math
from decimal import Decimal, getcontext

import pytest
import torch

from salcr import ops, reference
from salcr.reference.published.association import sinkhorn as published
from tests.ops.contract import assert_compiles, assert_operator_contract
from tests.ops.transport_problems import assert_plan_within_budget, check, check_batch, squared_distances


@pytest.fixture(params=["reference", "cpp"])
def impl(request):
    return request.param


def plain(cost, lam, tol, max_iter, check_every=10):
    """The iteration as docs/method.md, "Optimal transport", has it, with the number of steps it took."""
    kernel = torch.exp(-lam * cost)
    num_rows, num_cols = cost.shape
    beta = torch.full((num_cols,), 1 / num_cols, dtype=cost.dtype)
    steps, error = 0, float("inf")
    while error > tol and steps < max_iter:
        alpha = (1 / num_rows) / (kernel @ beta)
        new_beta = (1 / num_cols) / (alpha @ kernel)
        if steps % check_every == 0:
            error = (beta / new_beta - 1).abs().sum().item()
        beta = new_beta
        steps += 1
    return alpha[:, None] * kernel * beta, steps


def plain_in_decimal(cost, steps):
    """``steps`` plain iterations at λ = 5 with 40 digits and no limit of the exponent."""
    getcontext().prec = 40
    kernel = [[(-5 * Decimal(c)).exp() for c in row] for row in cost.tolist()]
    num_rows, num_cols = cost.shape
    beta = [1 / Decimal(num_cols)] * num_cols
    for _ in range(steps):
        alpha = [1 / (num_rows * sum(k * b for k, b in zip(row, beta, strict=True))) for row in kernel]
        columns = zip(*kernel, strict=True)
        beta = [1 / (num_cols * sum(k * a for k, a in zip(column, alpha, strict=True))) for column in columns]
    return torch.tensor(
        [[float(a * k * b) for k, b in zip(row, beta, strict=True)] for a, row in zip(alpha, kernel, strict=True)],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("lam", [0.5, 5.0, 60.0])
@pytest.mark.parametrize("tol", [0.0, 1e-6, 0.1, 3.0])
def test_iterates_and_stopping_rule_are_the_plain_ones(generator, lam, tol, impl):
    cost = squared_distances(generator)
    for shifted in (cost, cost + torch.linspace(-1, 2, 37, dtype=torch.float64)[:, None], cost - 1.5):
        expected, _ = plain(shifted, lam, tol, 95)
        torch.testing.assert_close(ops.sinkhorn(shifted, lam=lam, tol=tol, max_iter=95, impl=impl), expected)


@pytest.mark.parametrize("check_every", [1, 3, 10])
def test_it_looks_at_the_change_only_every_so_often(generator, check_every, impl):
    cost = squared_distances(generator)
    expected, steps = plain(cost, 5.0, 0.1, 500, check_every)
    assert steps % check_every == (1 % check_every) and 1 < steps < 500
    one_more, _ = plain(cost, 5.0, 0.0, steps + 1)
    assert not torch.allclose(expected, one_more, rtol=1e-7, atol=0)
    torch.testing.assert_close(ops.sinkhorn(cost, check_every=check_every, impl=impl), expected)


@pytest.mark.parametrize("step", [0, 2])
def test_the_change_is_of_the_old_in_units_of_the_new(generator, step, impl):
    """The tolerance is between that and the change of the new in units of the old."""
    for cost in (squared_distances(generator, rows=6, cols=3) for _ in range(8)):
        plans = [plain(cost, 5.0, 0.0, step + n)[0] for n in (1, 2)]
        kernel = torch.exp(-5.0 * cost)
        betas = [torch.full((3,), 1 / 3, dtype=torch.float64)]
        for _ in range(step + 1):
            alpha = (1 / 6) / (kernel @ betas[-1])
            betas.append((1 / 3) / (alpha @ kernel))
        old, new = betas[-2:]
        change, other = ((x - 1).abs().sum() for x in (old / new, new / old))
        got = ops.sinkhorn(cost, tol=float(change + other) / 2, max_iter=step + 2, check_every=max(step, 1), impl=impl)
        torch.testing.assert_close(got, plans[int(change > other)])


@pytest.mark.parametrize("max_iter", [1, 2, 10, 11, 12])
def test_max_iter_counts_steps(generator, max_iter, impl):
    cost = squared_distances(generator)
    expected, steps = plain(cost, 20.0, 1e-9, max_iter)
    assert steps == max_iter
    torch.testing.assert_close(ops.sinkhorn(cost, lam=20.0, tol=1e-9, max_iter=max_iter, impl=impl), expected)


def test_it_ends_after_500_steps(impl):
    cost = torch.tensor([[0.0, 0.0], [20.0, 0.0]], dtype=torch.float64)  # the second entry falls as one over the steps
    expected, before = (plain(cost, 5.0, 0.0, steps)[0] for steps in (500, 499))
    assert not torch.allclose(expected, before, rtol=1e-6, atol=0)
    torch.testing.assert_close(ops.sinkhorn(cost, tol=0.0, impl=impl), expected)


def test_marginals_after_convergence(generator, impl):
    cost = squared_distances(generator, rows=60, cols=9)
    plan = ops.sinkhorn(cost, tol=1e-10, impl=impl)
    torch.testing.assert_close(plan.sum(1), torch.full((60,), 1 / 60, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(plan.sum(0), torch.full((9,), 1 / 9, dtype=torch.float64), rtol=1e-9, atol=0)
    assert (plan > 0).all()


@pytest.mark.parametrize("scale", [100.0, 1000.0, 20000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_costs_neither_underflow_nor_overflow(generator, scale, dtype, impl):
    cost = (scale * torch.rand(7, 4, generator=generator, dtype=torch.float64)).to(dtype)
    cost[:, 2] += 3 * scale  # exp(-lam cost) of this column is zero in every row
    plan = ops.sinkhorn(cost, tol=0.0, max_iter=40, impl=impl)
    expected = plain_in_decimal(cost, 40)
    digits = torch.finfo(dtype).eps * 5 * 4 * scale
    assert plan.dtype == dtype
    # In C++ a factor of a row and one of a column, each up to e^20, may scale an entry that was too small to be stored.
    atol = torch.finfo(dtype).tiny * (math.exp(40) if impl == "cpp" else 1)
    torch.testing.assert_close(plan.double(), expected, rtol=40 * digits, atol=atol)


@pytest.mark.parametrize("turned", [False, True])
def test_what_had_no_weight_regains_it(impl, turned):
    """Row 0 alone is near columns 0 and 1, which need twice what it has: they grow dearer until they outweigh e^150."""
    cost = torch.ones(40, 40)
    cost[0, :2] = cost[1:, 2:] = 0
    options = dict(lam=150.0, tol=0.0, max_iter=300)
    cost = cost.T.contiguous() if turned else cost
    plan = ops.sinkhorn(cost, impl=impl, **options)
    assert_plan_within_budget(plan, cost, **options)
    torch.testing.assert_close(plan.sum(1 - turned), torch.full((40,), 1 / 40))


def test_columns_are_near_to_rows_far_apart(impl):
    """Of some columns the largest entry is in the first rows, of the others in the last."""
    cost = torch.ones(300, 6, dtype=torch.float64)
    cost[:150, :3] = cost[150:, 3:] = 0
    plan = ops.sinkhorn(cost, lam=900.0, tol=0.0, max_iter=3, impl=impl)
    torch.testing.assert_close(plan, (1 - cost) / 900)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_error_budget(generator, dtype, impl):
    cost = squared_distances(generator, rows=200, cols=30, dtype=dtype)
    options = dict(tol=0.0, max_iter=21)
    got = ops.sinkhorn(cost, impl=impl, **options)
    assert_plan_within_budget(got, cost, eager=reference.sinkhorn(cost.float(), **options), **options)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_a_single_row_or_column_takes_everything(generator, shape, impl):
    plan = ops.sinkhorn(torch.randn(shape, generator=generator), impl=impl)
    torch.testing.assert_close(plan, torch.full(shape, 1 / (shape[0] * shape[1])))


def test_equal_costs_give_the_uniform_plan(impl):
    torch.testing.assert_close(ops.sinkhorn(torch.full((6, 4), 1e6), impl=impl), torch.full((6, 4), 1 / 24))


@pytest.mark.parametrize("scale", [1.0, 60.0, 2000.0])
def test_each_problem_of_a_batch_stops_on_its_own(generator, impl, scale):
    batch = torch.stack([scale**power * squared_distances(generator, 40, 9) for power in (0, 1, 0.5, -1)])
    steps = {plain(cost, 5.0, 0.1, 500)[1] for cost in batch if scale < 100}
    assert scale in (1.0, 2000.0) or len(steps) > 1
    check_batch(impl, batch)


def test_factors_that_leave_the_range_are_absorbed_on_the_way(generator, impl):
    """Rows that want the same few columns: over many steps these columns' factors fall by dozens of orders."""
    cost = torch.rand(30, 30, generator=generator, dtype=torch.float64)
    cost[:, :3] -= torch.linspace(0, 40, 30, dtype=torch.float64)[:, None]
    exact = plain_in_decimal(cost, 120)
    plan = ops.sinkhorn(cost, tol=0.0, max_iter=120, impl=impl)
    torch.testing.assert_close(plan, exact, rtol=1e-9, atol=1e-300)
    single = ops.sinkhorn(cost.float(), tol=0.0, max_iter=120, impl=impl)
    assert_plan_within_budget(single, cost.float(), exact=exact, tol=0.0, max_iter=120)


def test_the_number_of_threads_changes_no_bit(generator):
    cost = squared_distances(generator, rows=1000, cols=23, dtype=torch.float32)
    torch.set_num_threads(1)
    one = ops.sinkhorn(cost, impl="cpp")
    torch.set_num_threads(2)
    assert torch.equal(ops.sinkhorn(cost, impl="cpp"), one)
    assert torch.equal(ops.sinkhorn(cost.view(4, 250, 23), impl="cpp")[1], ops.sinkhorn(cost[250:500], impl="cpp"))


def test_strided_cost_and_no_gradient(generator, impl):
    cost = squared_distances(generator).float()
    plan = ops.sinkhorn(cost.T.contiguous().T.requires_grad_(), impl=impl)
    assert not plan.requires_grad
    torch.testing.assert_close(plan, ops.sinkhorn(cost, impl=impl), rtol=1e-4, atol=0)


def test_contract(generator):
    cost = squared_distances(generator, dtype=torch.float32)
    assert_operator_contract(
        torch.ops.salcr.sinkhorn, (cost, 5.0, 0.1, 500, 10, "auto"), (cost.half(), 5.0, 0.1, 500, 10, "reference")
    )
    assert_operator_contract(torch.ops.salcr.sinkhorn, (torch.stack([cost, 2 * cost]), 5.0, 0.1, 500, 10, "auto"))


def test_compiles(generator):
    examples = [(squared_distances(generator, rows=m, cols=n, dtype=torch.float32),) for m, n in ((37, 11), (8, 21))]
    assert_compiles(ops.sinkhorn, *examples)
    assert_compiles(ops.sinkhorn, *([torch.stack([cost, 2 * cost])] for (cost,) in examples))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(cost=torch.zeros(0, 3)), ValueError, "cost is empty"),
        (dict(cost=torch.zeros(3)), ValueError, "cost must have 2 or 3 axes"),
        (dict(cost=torch.zeros(3, 3, dtype=torch.int64)), TypeError, "cost must be floating point"),
        (dict(cost=torch.tensor([[0.0], [torch.nan]])), ValueError, "cost has NaN or Inf, first in row 1"),
        (dict(cost=torch.tensor([[torch.inf], [0.0]])), ValueError, "cost has NaN or Inf, first in row 0"),
        (
            dict(cost=torch.tensor([[[0.0], [0.0]], [[0.0], [torch.nan]]])),
            ValueError,
            "cost has NaN or Inf, first in row 3",
        ),
        (dict(impl="cuda"), ValueError, "has the backends cpp, triton, reference"),
        (dict(impl="scipy"), ValueError, "impl must be one of"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        ops.sinkhorn(**(dict(cost=torch.zeros(3, 4)) | change))


@pytest.mark.parametrize("tol", [1e-6, 0.1])
def test_the_published_form_is_equal(generator, tol):
    cost = squared_distances(generator)
    expected = reference.sinkhorn(cost, tol=tol, max_iter=60, check_every=5)
    torch.testing.assert_close(published(cost, tol=tol, max_iter=60, check_every=5), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(22258, 500), (11909, 600), (3, 800, 500), (5, 33, 7), (1, 1), (70, 4001)])
@pytest.mark.parametrize("lam", [5.0, 200.0])
def test_triton_on_a_gpu(generator, shape, lam):
    cost = torch.rand(shape, generator=generator).cuda()
    check("triton", cost, lam=lam)
    check("triton", cost, lam=lam, tol=1e-3, max_iter=37, check_every=3)
    if len(shape) == 3:
        check_batch("triton", cost * torch.arange(1, shape[0] + 1, device="cuda")[:, None, None], lam=lam)


@pytest.mark.cuda
def test_no_wait_for_a_look(generator):
    """The host asks for nothing while a chunk is under way; what it waits for, an event, is no synchronising call."""
    cost = torch.rand(3, 200, 50, generator=generator).cuda()
    expected = ops.sinkhorn(cost, impl="triton")
    from salcr.kernels.sinkhorn import sinkhorn

    torch.cuda.set_sync_debug_mode("error")
    try:
        got = sinkhorn(cost, lam=5.0, tol=0.1, max_iter=500, check_every=10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got, expected)
