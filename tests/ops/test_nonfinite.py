"""NaN and Inf in any argument reach the result and the gradient, in every backend."""

import math

import pytest
import torch

from salcr import ops
from tests.ops.differentiable import (
    DIFFERENTIABLE,
    OTHERS,
    POOLING_CALLS,
    POSITIVES,
    TARGETS,
    backends,
    case,
    check_nonfinite,
    results,
    spoilt,
)


@pytest.mark.parametrize(("name", "impl"), backends([*DIFFERENTIABLE, *OTHERS]))
def test_what_the_reference_shows_every_backend_shows(generator, name, impl):
    check_nonfinite(name, impl, generator)


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *OTHERS])
def test_the_reference_shows_it(generator, name):
    """NaN in the result; Inf, whose exponential may be zero, there or in the gradient."""
    _, call, tensors, learnable = case(name, generator)
    for what, value, changed in spoilt(tensors, generator, spots=6):
        found, gradients = results(call, "reference", changed, learnable)
        shown = found if math.isnan(value) else found + gradients
        assert not all(y.isfinite().all() for y in shown), what


@pytest.mark.parametrize(
    ("name", "impl"),
    [("set_contrast", "reference"), ("cluster_contrast", "reference"), *backends(["set_contrast", "cluster_contrast"])],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_left_out_does_not_count(generator, name, impl, value):
    tensors = case(name, generator).tensors
    x, memory = (y.clone() for y in tensors)
    x[:, 3] = value
    left_out = torch.arange(5) == 3
    rows = POSITIVES.masked_fill(left_out[:, None], -1) if name == "set_contrast" else TARGETS.masked_fill(left_out, -1)
    loss = getattr(ops, name)(x.requires_grad_(), memory, rows, impl=impl)
    expected = getattr(ops, name)(tensors[0], memory, rows, impl=impl)
    torch.testing.assert_close(loss.detach(), expected)
    assert torch.autograd.grad(loss, x)[0][:, ~left_out].isfinite().all()


@pytest.mark.parametrize(("name", "impl"), [("set_contrast", "reference"), *backends(["set_contrast"])])
@pytest.mark.parametrize("known", ["lse", "mean_row"])
def test_what_the_search_made_is_read(generator, name, impl, known):
    x, memory = case(name, generator).tensors
    made = dict(zip(("lse", "mean_row"), ops.instance_search(x, memory, 2, impl=impl)[1:], strict=True))
    made[known][1, 2] = torch.nan
    loss = ops.set_contrast(x.requires_grad_(), memory, POSITIVES, impl=impl, **made)
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isnan() if known == "lse" else gradient[1, 2].isnan().all() or impl == "reference"


@pytest.mark.parametrize(
    ("name", "impl"), [*((name, "reference") for name in POOLING_CALLS), *backends(list(POOLING_CALLS))]
)
def test_a_cell_of_no_part_reaches_the_power_mean_alone(generator, name, impl):
    _, call, (x, *rows), _ = case(name, generator)
    x = torch.cat([x, x[:, :, :1]], 2).flatten(2)[..., :7].unsqueeze(2).contiguous()  # two parts of three, one left
    clean, _ = results(call, impl, (x, *rows), 0)
    x[1, 2, 0, 6] = torch.nan
    found, _ = results(call, impl, (x, *rows), 0)
    for n, (got, expected) in enumerate(zip(found, clean, strict=True)):
        if n == 0 and name.split()[0] in ("gem_pool", "semantic_pool"):
            assert got.isnan().nonzero().tolist() == [[1, 2]]
        else:
            assert torch.equal(got, expected)


@pytest.mark.parametrize(("name", "impl"), [("instance_search", "reference"), *backends(["instance_search"])])
def test_the_search_never_chooses_what_is_not_a_number(generator, name, impl):
    x, memory = case(name, generator).tensors
    memory[:, 1, 0] = torch.nan
    indices, lse = ops.instance_neighbors(x, memory, 4, impl=impl)
    assert indices.tolist() == [[[0, 2, 3, -1]] * 5] * 2
    assert lse.isnan().all()
