import re

import numpy as np
import pytest
import scipy.optimize
import torch

import salcr
from salcr.compat import linear_sum_assignment


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (30, 30), (8, 20), (20, 8), (0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "f2", "i8", "u1", "?"])
def test_the_call_is_that_of_scipy(shape, dtype, maximize):
    draw = np.random.default_rng(0)
    cost = (5 * draw.random(shape)).astype(dtype)
    expected = scipy.optimize.linear_sum_assignment(cost.astype(float), maximize)
    for given in (cost, cost[::-1].copy()[::-1], np.asfortranarray(cost)):
        found = linear_sum_assignment(given, maximize)
        assert [x.dtype for x in found] == [np.dtype("int64")] * 2 and len(found[0]) == len(set(found[1])) == min(shape)
        assert np.array_equal(found[0], np.sort(found[0]))
        assert cost[found].sum(dtype=float) == pytest.approx(cost[expected].sum(dtype=float))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_lists_and_arrays_that_cannot_be_written(backend):
    cost = np.array([[4.0, 1.0], [2.0, 0.0]])
    cost.flags.writeable = False
    with salcr.use_backend(backend):
        for given in (cost, cost.tolist(), cost.astype(int).tolist(), cost.T.T):
            assert [x.tolist() for x in linear_sum_assignment(given)] == [[0, 1], [1, 0]]


@pytest.mark.parametrize("shift", [0, 4])
def test_one_field_of_a_table_whose_rows_are_no_whole_numbers_of_it(shift):
    cost = np.array([[4.0, 1.0], [2.0, 0.0]])
    table = np.zeros((2, 2), {"names": ["cost"], "formats": ["f8"], "offsets": [shift], "itemsize": 12})
    table["cost"] = cost
    assert [x.tolist() for x in linear_sum_assignment(table["cost"])] == [[0, 1], [1, 0]]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("cost", "error", "message"),
    [
        (np.zeros(3), ValueError, "must have 2 axes, got shape (3,)"),
        (np.zeros((2, 2), complex), TypeError, "must hold real numbers, got complex128"),
        (np.zeros((2, 2), "V0"), TypeError, "must hold real numbers, got"),
        ([["a"]], TypeError, "must hold real numbers"),
        ([[None]], TypeError, "must hold real numbers, got object"),
        (np.array([[0.0], [np.nan]]), ValueError, "first nan at [1, 0]"),
        (np.array([[0.0, -np.inf]], "f4"), ValueError, "first -inf at [0, 1]"),
        (np.full((2, 2), np.inf), ValueError, "infeasible"),
    ],
)
def test_what_is_no_problem_is_an_error(cost, error, message, backend):
    with salcr.use_backend(backend), pytest.raises(error, match=re.escape(message)):
        linear_sum_assignment(cost)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_a_backend_that_was_chosen_is_asked(monkeypatch, backend):
    """The short way past tensors is that of one backend."""
    cost = np.random.default_rng(0).random((5, 5))
    asked = []
    monkeypatch.setattr(torch, "from_numpy", lambda x, real=torch.from_numpy: asked.append(x.shape) or real(x))
    linear_sum_assignment(cost)
    assert not asked
    with salcr.use_backend(backend):
        linear_sum_assignment(cost)
    assert asked
