"""``cluster_contrast`` with soft targets and weights."""

import pytest
import torch
import torch.nn.functional as F

from salcr import ops
from tests.ops.contract import assert_compiles, assert_operator_contract
from tests.ops.memories import CPU_BACKENDS, check_soft_contrast, soft_problem

BACKENDS = ["eager", *CPU_BACKENDS]
SHAPES = [((), 23, 7, 19), ((2,), 17, 273, 40), ((3,), 5, 1, 9)]


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_within_the_budget_of_eager_pytorch(generator, impl, shape):
    check_soft_contrast(impl, generator, *shape, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(generator, dtype):
    check_soft_contrast("eager", generator, (2,), 17, 70, 40, dtype)


@pytest.mark.parametrize("impl", BACKENDS)
def test_it_is_the_cross_entropy_of_probabilities(generator, impl):
    """PyTorch's own, whose sums need not be 1 either; its mean is over all rows."""
    features, memory, soft, weights = soft_problem(generator, (), 23, 7, 19, torch.float64)
    soft = soft + 0.1
    logits = F.normalize(features) @ memory.T / 0.05
    losses = F.cross_entropy(logits, soft, reduction="none")
    for reduction, expected in (("none", losses), ("sum", losses.sum()), ("mean", losses.mean())):
        found = ops.cluster_contrast(features, memory, soft_targets=soft, reduction=reduction, impl=impl)
        torch.testing.assert_close(found, expected)
    found = ops.cluster_contrast(features, memory, soft_targets=soft, weights=weights, impl=impl)
    torch.testing.assert_close(found, (weights * losses).mean())
    targets = soft.argmax(1)
    found = ops.cluster_contrast(features, memory, targets, weights=weights, impl=impl)
    torch.testing.assert_close(found, (weights * F.cross_entropy(logits, targets, reduction="none")).mean())


@pytest.mark.parametrize("impl", BACKENDS)
def test_one_at_the_target_is_the_target(generator, impl):
    """Also for rows that are left out, which hold NaN, and have any weight."""
    features, memory, _, weights = soft_problem(generator, (2,), 12, 6, 8, torch.float64)
    targets = torch.randint(-1, 6, (2, 12), generator=generator)
    targets[:, 0], targets[1, 3] = -1, -1
    features[targets < 0], weights[targets < 0] = torch.nan, torch.inf
    soft = F.one_hot(targets.clamp_min(0), 6) * (targets >= 0).unsqueeze(-1)
    results = []
    for given in (dict(targets=targets), dict(soft_targets=soft.double())):
        leaf = features.clone().requires_grad_()
        loss = ops.cluster_contrast(leaf, memory, weights=weights, impl=impl, **given)
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(*results)
    assert results[0][0].isfinite() and not results[1][1][targets < 0].any()


@pytest.mark.parametrize("impl", BACKENDS)
def test_terms_that_all_parts_share(generator, impl):
    features, memory, soft, weights = soft_problem(generator, (3,), 9, 6, 8, torch.float64)
    shared = ops.cluster_contrast(features, memory, soft_targets=soft[0], weights=weights[0], impl=impl)
    soft, weights = soft[:1].expand(3, -1, -1), weights[:1].expand(3, -1)
    torch.testing.assert_close(
        shared, ops.cluster_contrast(features, memory, soft_targets=soft, weights=weights, impl=impl)
    )


@pytest.mark.parametrize("impl", BACKENDS)
def test_they_may_lie_in_memory_in_any_order(generator, impl):
    features, memory, soft, weights = soft_problem(generator, (2,), 5, 3, 4, torch.float32)
    turned = dict(soft_targets=soft.mT.contiguous().mT, weights=weights.mT.contiguous().mT)
    results = []
    for terms in (dict(soft_targets=soft, weights=weights), turned):
        leaf = features.clone().requires_grad_()
        loss = ops.cluster_contrast(leaf, memory, impl=impl, **terms)
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("spoilt", ["soft_targets", "weights"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_shown(generator, impl, spoilt, value):
    features, memory, soft, weights = soft_problem(generator, (), 9, 6, 8, torch.float32)
    given = dict(soft_targets=soft, weights=weights)
    given[spoilt].view(-1)[-1] = value
    features.requires_grad_()
    losses = ops.cluster_contrast(features, memory, **given, reduction="none", impl=impl)
    (gradient,) = torch.autograd.grad(losses.sum(), features)
    assert not losses[-1].isfinite() and not gradient[-1].isfinite().any()
    assert losses[:-1].isfinite().all() and gradient[:-1].isfinite().all()


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_contract(generator, impl):
    features, memory, soft, weights = soft_problem(generator, (2,), 9, 6, 8, torch.float32)
    targets, lse = torch.zeros(2, 9, dtype=torch.int64), torch.full((2, 9), 20.0)
    for options in ((soft, weights), (None, weights[0]), (soft[0], None)):
        assert_operator_contract(
            torch.ops.salcr.cluster_contrast, (features, memory, targets, 0.05, "mean", *options, "float32", impl)
        )
        given = torch.ones(2, 9), features, memory, targets, lse, 0.05, "none", *options, "float32", impl
        assert_operator_contract(torch.ops.salcr.cluster_contrast_backward, given)


def test_compiles(generator):
    def contrast(features, memory, soft, weights):
        return ops.cluster_contrast(features, memory, soft_targets=soft, weights=weights)

    examples = [soft_problem(generator, (), rows, columns, 19, torch.float32) for rows, columns in ((23, 7), (9, 5))]
    for features, *_ in examples:
        features.requires_grad_()
    assert_compiles(contrast, *examples)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(soft_targets=None), ValueError, "pass either targets or soft_targets, got neither"),
        (dict(targets=torch.zeros(9, dtype=torch.int64)), ValueError, "targets or soft_targets, got both"),
        (dict(soft_targets=torch.ones(9, 5)), ValueError, r"soft_targets \(9, 5\) do not fit memory \(6, 8\)"),
        (dict(soft_targets=torch.ones(8, 6)), ValueError, r"soft_targets \(8, 6\) do not fit features \(9, 8\)"),
        (dict(soft_targets=torch.ones(9)), ValueError, "soft_targets must have 2 axes"),
        (dict(soft_targets=torch.ones(9, 6).double()), TypeError, "soft_targets is torch.float64, features"),
        (dict(soft_targets=torch.ones(9, 6, requires_grad=True)), ValueError, "soft_targets requires a gradient"),
        (dict(weights=torch.ones(8)), ValueError, r"weights \(8,\) do not fit features"),
        (dict(weights=torch.ones(9, 1)), ValueError, "weights must have 1 axes"),
        (dict(weights=torch.ones(9, dtype=torch.int64)), TypeError, "weights must be floating point"),
        (dict(weights=torch.ones(9, requires_grad=True)), ValueError, "weights requires a gradient"),
    ],
)
def test_bad_arguments_are_named(generator, change, error, message):
    features, memory, soft, weights = soft_problem(generator, (), 9, 6, 8, torch.float32)
    with pytest.raises(error, match=message):
        ops.cluster_contrast(features, memory, **(dict(soft_targets=soft, weights=weights) | change))
