"""NaN and Inf in any argument reach the result and the gradient, in every backend."""

import math

import pytest
import torch

from salcr import ops
from salcr.ops._parts import SINGLE_AND_DOUBLE
from tests.ops.differentiable import (
    DIFFERENTIABLE,
    MEMORY_CALLS,
    NORM_CALLS,
    OTHERS,
    POOLING_CALLS,
    POSITIVES,
    backends,
    case,
    check_left_out,
    check_nonfinite,
    check_overlong,
    results,
    spoilt,
)


@pytest.mark.parametrize(("name", "impl"), backends([*DIFFERENTIABLE, *OTHERS]))
def test_what_the_reference_shows_every_backend_shows(generator, name, impl):
    check_nonfinite(name, impl, generator)


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *OTHERS])
def test_the_reference_shows_it(generator, name):
    """NaN in the result; Inf, whose exponential may be zero, there or in the gradient, unless ReLU makes 0 of it."""
    _, call, tensors, learnable = case(name, generator)
    values = (torch.nan, torch.inf) if name in NORM_CALLS else (torch.nan, torch.inf, -torch.inf)
    for what, value, changed in spoilt(tensors, generator, 6, values):
        found, gradients = results(call, "reference", changed, learnable)
        shown = found if math.isnan(value) else found + gradients
        assert not all(y.isfinite().all() for y in shown), what


CONTRASTS = ["cluster_contrast", "cluster_contrast_sum", "set_contrast"]


@pytest.mark.parametrize(("name", "impl"), [*((name, "reference") for name in CONTRASTS), *backends(CONTRASTS)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_left_out_does_not_count(generator, name, impl, value):
    check_left_out(name, impl, generator, value)


LOOK_AT_ROWS = [*MEMORY_CALLS, "instance_search", "update_cluster_memory_"]


@pytest.mark.parametrize(("name", "impl"), [*((name, "reference") for name in LOOK_AT_ROWS), *backends(LOOK_AT_ROWS)])
def test_a_row_too_long_to_square_is_shown_as_nan_is(generator, name, impl):
    for dtype in SINGLE_AND_DOUBLE if impl == "cpp" else (*SINGLE_AND_DOUBLE, torch.bfloat16):
        check_overlong(name, impl, generator, dtype)


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
