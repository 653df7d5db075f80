"""The Triton backend of the batch norm with ReLU under the interpreter; run by test_interpreter.py."""

import pytest
import torch

from salcr import ops
from tests.ops.batch_norm_problems import check_budget, check_far_mean, problem, results_and_gradients
from tests.ops.differentiable import NORM_CALLS, check_nonfinite, check_second_derivative_is_an_error
from tests.ops.test_batch_norm import KINDS

SHAPES = [(3, 20, 5, 3), (1, 1, 1, 2), (2, 130, 3, 7), (4, 7, 1, 1), (5, 128, 4, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_within_the_budget(generator, kind, twice, dtype):
    check_budget("triton", *problem(generator, dtype=dtype, **kind), twice=twice)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_any_shape(generator, normed, shape, channels_last):
    kind = dict(shortcut=True, normed=normed, channels_last=channels_last)
    tensors, statistics = problem(generator, shape=shape, **kind)
    check_budget("triton", tensors, statistics)
    found = results_and_gradients(ops.batch_norm_relu, tensors, statistics, impl="triton")
    of_shortcut = found[3 - len(tensors)]
    assert found[0].stride() == of_shortcut.stride() == tensors[0].stride()


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_mean_far_from_zero_costs_no_digits_of_the_variance(generator, offset):
    check_far_mean("triton", generator, offset)


@pytest.mark.parametrize("normed", [False, True])
def test_it_repeats_bit_for_bit(generator, normed):
    tensors, statistics = problem(generator, shape=(5, 130, 6, 3), shortcut=True, normed=normed)
    first, second = (results_and_gradients(ops.batch_norm_relu, tensors, statistics, impl="triton") for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy, of Inf - Inf
@pytest.mark.parametrize("name", NORM_CALLS)
def test_what_is_not_finite_is_shown(generator, name):
    check_nonfinite(name, "triton", generator, spots=2)


@pytest.mark.parametrize("name", [*NORM_CALLS][1:])
def test_a_second_derivative_is_an_error(generator, name):
    check_second_derivative_is_an_error(name, "triton", generator, torch.float32)
