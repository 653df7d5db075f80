"""The Triton backend of pooling under the interpreter; run by test_interpreter.py in a process of its own."""

import pytest
import torch

from salcr import ops, reference
from tests.ops.differentiable import check_nonfinite, check_second_derivative_is_an_error
from tests.ops.pooling_problems import (
    EDGES,
    check_budget,
    check_edge_case,
    check_repeats,
    problem,
    training_step,
)


def small(generator, **options):
    return problem(generator, **dict(batch=3, width=20, size=(5, 3), dtype=torch.float32) | options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_operator_is_within_the_budget(generator, dtype):
    check_budget("triton", *small(generator, parts=2, dtype=dtype, channels_last=dtype == torch.float32))


@pytest.mark.parametrize(("parts", "channels_last"), [(n, n % 2 == 0) for n in range(1, 7)])
def test_any_number_of_parts(generator, parts, channels_last):
    """Fifteen cells: 2, 4 and 6 parts leave some out."""
    check_budget("triton", *small(generator, parts=parts, channels_last=channels_last), calls=training_step)


def test_several_positions_and_tiles_repeat_bit_for_bit(generator):
    arguments = small(generator, parts=1, batch=6, channels_last=True)
    check_budget("triton", *arguments, calls=training_step)
    check_repeats("triton", *arguments, calls=training_step)


@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_edge_cases(generator, case, dtype):
    check_edge_case("triton", case, *small(generator, size=(6, 3), dtype=dtype)[:2])


def test_a_stripe_of_one_cell_is_that_cell(generator):
    x, tokens, queries = small(generator, parts=6, size=(3, 2))
    for found in (ops.part_prototypes(x, tokens, impl="triton"), ops.part_attention(queries, x, impl="triton")):
        assert torch.equal(found, x.flatten(2).mT)


@pytest.mark.parametrize("channels_last", [False, True])
def test_dropped_cells_have_a_gradient_of_gem_only(generator, channels_last):
    x, tokens, _ = small(generator, parts=4, size=(3, 3), channels_last=channels_last)
    x = (x + 0.1).requires_grad_()
    pooled, *forms = ops.semantic_pool(x, tokens, impl="triton")
    (of_parts,) = torch.autograd.grad(sum(z.sum() for z in forms), x, retain_graph=True)
    (of_gem,) = torch.autograd.grad(pooled.sum(), x)
    assert not of_parts[:, :, 2, 2].any() and of_parts[:, :, 2, 1].any() and of_gem[:, :, 2, 2].all()
    assert of_gem.stride() == of_parts.stride() == x.stride()
    torch.testing.assert_close(of_gem, torch.autograd.grad(reference.gem_pool(x).sum(), x)[0])


@pytest.mark.filterwarnings("ignore:(All-NaN slice|invalid value) encountered:RuntimeWarning")  # NumPy, of NaN rows
@pytest.mark.parametrize("name", ["gem_pool", "part_prototypes", "part_attention", "semantic_pool"])
def test_what_is_not_finite_is_shown(generator, name):
    check_nonfinite(name, "triton", generator, spots=1, values=(torch.nan, torch.inf))


@pytest.mark.parametrize("name", ["gem_pool", "semantic_pool"])
def test_a_second_derivative_is_an_error(generator, name):
    check_second_derivative_is_an_error(name, "triton", generator, torch.float32)


def test_prototypes_that_also_attend_get_both_gradients(generator):
    """No public function returns prototypes beside forms; the operator itself does."""
    x, tokens, _ = small(generator, parts=2, batch=6)
    found = {}
    for impl in ("triton", "reference"):
        _, scores, prototypes, weights, forms = torch.ops.salcr.pool(x, tokens, None, 3, None, True, impl)
        gradients = torch.sin(torch.arange(prototypes.numel())).view_as(prototypes), [torch.cos(y) for y in forms]
        found[impl] = torch.ops.salcr.pool_backward(
            x, tokens, None, scores, prototypes, weights, None, *gradients, 3, None, impl
        )
    for got, expected in zip(found["triton"][:2], found["reference"][:2], strict=True):
        torch.testing.assert_close(got, expected)


def test_runs_of_a_map_that_are_more_than_a_grid_takes_are_longer(generator, monkeypatch):
    from salcr.kernels import pooling

    x = small(generator, size=(20, 20))[0].requires_grad_()
    found = []
    for most in (pooling.MOST_RUNS, 3):
        monkeypatch.setattr(pooling, "MOST_RUNS", most)
        pooled = ops.gem_pool(x, impl="triton")
        found.append((pooling.Plan(x, 0).grid[1], pooled.detach(), torch.autograd.grad(pooled.sum(), x)[0]))
    (many, *expected), (few, *got) = found
    assert (many, few) == (7, 3)
    torch.testing.assert_close(got, expected)


def test_what_does_not_fit_is_named(generator):
    x, tokens, _ = small(generator, parts=1)
    with pytest.raises(ValueError, match="8193 channels, Triton pooling takes at most 8192"):
        ops.gem_pool(x.new_zeros(1, 8193, 1, 1), impl="triton")
    with pytest.raises(RuntimeError, match=r"it takes torch.float32.*got torch.float64"):
        ops.semantic_pool(x.double(), tokens.double(), impl="triton")
