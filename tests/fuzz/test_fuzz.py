"""The fuzzer knows every operator, finds what it is there to find, and finds nothing in 2,000 calls."""

import os
from functools import cache
from itertools import islice

import pytest
import torch

from salcr import ops
from tests import forked
from tests.fuzz import calls, campaign
from tests.fuzz.draw import Draw
from tests.fuzz.operators import OPERATORS

SEED = int(os.environ.get("SALCR_TEST_SEED", "0"))


@cache
def plain(name):
    """Five calls of an operator whose arguments are right: plain numbers in plain layouts."""
    numbers = range(calls.NAMES.index(name), 10**6, len(calls.NAMES))
    draws = ((n, Draw(SEED, n)) for n in numbers)
    plain = (n for n, d in draws if d.content == "plain" and not d.odd_layouts and not d.spoils)
    works = (n for n in plain if calls.run(name, calls.drawn(SEED, n), "reference").kind == calls.WORKS)
    return list(islice(works, 5))


def test_every_public_operator_has_an_entry():
    public = set(ops.__all__) - {"BackendError", "RankingResult", "use_backend"}
    assert set(OPERATORS) == public, "tests/fuzz/operators.py"


@pytest.mark.long
def test_two_thousand_calls():
    assert not [str(finding) for finding in campaign.campaign(SEED, range(2000))]


def test_calls_are_the_same_again():
    for number in range(200):
        one, other = (calls.drawn(7, number) for _ in range(2))
        assert list(one) == list(other)
        assert str(one) == str(other)


def test_workers_survive_their_calls():
    with forked.Worker(campaign.serve, 0, "tests.fuzz.misbehaving", seconds=2) as worker:
        problems = [worker.ask(number) for number in range(6)]
    assert problems[0] is problems[5] is None
    assert "ends the process with -6" in problems[1] and "does not return within 2 s" in problems[2]
    assert "MemoryError" in problems[3] and problems[4] == "wrong"


@pytest.mark.parametrize("name", calls.NAMES)
def test_a_wrong_result_is_found(monkeypatch, name):
    """One number of a backend's results is off by a hundredth of their size, or one index by one."""

    def wrong(name, arguments, impl):
        outcome = right(name, arguments, impl)
        if impl == "auto" and outcome.kind == calls.WORKS:
            x = max(outcome.values, key=lambda x: x.is_floating_point() * x.numel())
            x[(0,) * x.ndim] += 0.01 * x.abs().max() + 1e-3 if x.is_floating_point() else 1
        return outcome

    right = calls._outcome
    numbers = plain(name)
    assert [calls.finding(SEED, n) for n in numbers] == [None] * 5
    monkeypatch.setattr(calls, "_outcome", wrong)
    monkeypatch.setattr(calls, "AUTO_EVERY", 1)
    assert any(calls.finding(SEED, n) for n in numbers)


@pytest.mark.parametrize("name", calls.NAMES)
def test_negative_bits_and_meta_tensors(name):
    """A view behind a negative bit gives what its values give; a meta tensor meta results, or an error."""
    number = plain(name)[0]
    for impl in calls.backends(name):
        outcome = calls.run(name, calls.drawn(SEED, number), impl)
        if outcome.kind == calls.CANNOT:
            continue
        expected, arguments = outcome.values, calls.drawn(SEED, number)
        negative = {name: behind_a_negative_bit(x) for name, x in arguments.items()}
        found = calls.run(name, negative, impl)
        assert found.kind == calls.WORKS, found.message
        for one, other in zip(found.values, expected, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)
        for argument in arguments:
            fresh = calls.drawn(SEED, number)  # an operator may change one in place
            meta = calls.run(name, fresh | {argument: on_meta(fresh[argument])}, impl)
            assert meta.kind != calls.BREAKS, f"{argument}: {meta.message}"
            assert meta.kind != calls.REFUSES or any(word in meta.message for word in (argument, *OPERATORS[name].says))
            if meta.kind == calls.WORKS and not all(y.is_meta for y in meta.values):  # not needed
                for one, other in zip(meta.values, expected, strict=True):
                    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def behind_a_negative_bit(x):
    if isinstance(x, list):
        return [behind_a_negative_bit(y) for y in x]
    if not isinstance(x, torch.Tensor) or x.layout != torch.strided:
        return x
    return torch._neg_view(-x.detach()).requires_grad_(x.requires_grad)


def on_meta(x):
    if isinstance(x, list) and isinstance(x[0], torch.Tensor):
        return [on_meta(y) for y in x]
    return x.detach().to("meta") if isinstance(x, torch.Tensor) else x
