"""The error budget itself: what a correct implementation may round passes, and what is wrong does not."""

import pytest
import torch
import torch.nn.functional as F

from tests.ops.contract import assert_within_budget

WIDTHS = [16, 100, 2048]


def products(generator, width, of):
    """Unit rows in float32 and all their inner products in float64; ``of`` one number or a matrix."""
    x = F.normalize(torch.randn(of, width, generator=generator), dim=-1)
    return x, x.double() @ x.double().mT


def chain(x, order):
    """The products as one chain of additions in float32, term after term."""
    total = torch.zeros(len(x), len(x))
    for d in order:
        total += x[:, d, None] * x[:, d]
    return total


def judge(got, exact, width, eager=None):
    """Against an eager that has all the luck there is, unless another is given."""
    assert_within_budget(got, exact, exact.float() if eager is None else eager, terms=width, magnitude=1.0)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("of", [1, 30])
def test_any_order_of_a_sum_passes(generator, width, of):
    x, exact = products(generator, width, of)
    for order in (range(width), reversed(range(width)), x[0].abs().argsort(), x[0].argsort()):
        judge(chain(x, order), exact, width)
    judge(sum(x[:, d::8] @ x[:, d::8].mT for d in range(8)), exact, width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("error", ["bfloat16 inputs", "float16 inputs", "a term left out", "a bias", "one element"])
def test_an_error_fails(generator, width, error):
    x, exact = products(generator, width, of=30)  # in a single number the errors of rounded inputs may cancel
    got = x @ x.mT
    if error.endswith("inputs"):
        y = x.to(torch.bfloat16 if error.startswith("b") else torch.float16).float()
        got = y @ y.mT
    if error == "a term left out":
        got = x[:, 1:] @ x[:, 1:].mT
    if error == "a bias":
        got = got * (1 + 1e-5)
    if error == "one element":
        got[-1, -1] += 1e-5
    with pytest.raises(AssertionError, match="error"):
        judge(got, exact, width, eager=x @ x.mT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_result_in_half_precision_is_a_sum_in_float32(generator, dtype):
    """One rounding to the result's dtype passes, a chain in that dtype does not."""
    x = torch.rand(5, 300, generator=generator).to(dtype)
    exact = x.double().sum(1)
    judge_half = dict(exact=exact, eager=exact.to(dtype), terms=300)
    assert_within_budget(x.float().sum(1).to(dtype), **judge_half)
    total = torch.zeros(5, dtype=dtype)
    for d in range(300):
        total += x[:, d]
    with pytest.raises(AssertionError, match="error"):
        assert_within_budget(total, **judge_half)


def test_what_is_not_finite_or_of_another_kind_fails():
    exact, good = torch.ones(2, dtype=torch.float64), torch.ones(2)
    assert_within_budget(good, exact, good, terms=1)
    for bad in (good * torch.nan, good[:1], good.double()):
        with pytest.raises(AssertionError):
            assert_within_budget(bad, exact, good, terms=1)
    with pytest.raises(TypeError, match="terms"):
        assert_within_budget(good, exact, good)
