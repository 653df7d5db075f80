"""The solver of csrc/cuda without a GPU: the same source, its threads one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from tests.kernels.emulated import solve
from tests.ops.assignment_problems import INF, KINDS, assert_optimal, costs

SHAPES = [(1, 1), (1, 7), (6, 6), (23, 40), (50, 50), (40, 300), (50, 2000)]
CAPACITIES = [(7, 7, 1), (9, 4, 3), (12, 4, 3), (40, 23, 2), (60, 3, 20), (101, 2, 51), (50, 1, 50), (300, 200, 2)]
CAPACITIES += [(199, 5, 40), (209, 3, 70)]  # a step expands more rows than are staged at a time


def check(cost, *, maximize=False, **team):
    """Optimal by its duals, the total of SciPy, and the same bits whichever thread comes first."""
    first, last = (solve(cost, maximize=maximize, backwards=order, **team) for order in (False, True))
    assert first.solved and last.solved and first.barriers == last.barriers
    for x, y in zip(first[1:4], last[1:4], strict=True):
        assert torch.equal(x, y)
    rows = torch.arange(len(cost))
    assert_optimal(cost, rows, first.columns, first.row_duals, first.col_duals, maximize=maximize)
    expected = cost.double()[linear_sum_assignment(cost.numpy(), maximize)].sum()
    torch.testing.assert_close(cost.double()[rows, first.columns].sum(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_optimal(generator, kind, shape, maximize):
    cost = costs(kind, shape, generator)
    check(-cost if maximize else cost, maximize=maximize)


@pytest.mark.parametrize(("groups", "threads_per_group"), [(1, 32), (2, 64), (16, 32), (3, 128)])
@pytest.mark.parametrize("kind", KINDS)
def test_teams_of_every_shape(generator, kind, groups, threads_per_group):
    check(costs(kind, (70, 75), generator), groups=groups, threads_per_group=threads_per_group)


@pytest.mark.parametrize("scale", [1e-300, 1e-60, 1e60, 1e300])
def test_costs_beyond_float32(generator, scale):
    check(torch.rand(30, 30, generator=generator, dtype=torch.float64) * scale)


def test_a_search_takes_fewer_steps_than_it_expands_columns(generator):
    """With one group a step is one expansion of Dijkstra's algorithm."""
    cost = torch.rand(300, 300, generator=generator)
    alone, together = (solve(cost, groups=groups).barriers for groups in (1, 10))
    assert together < alone / 2


def test_rows_alike_bid_for_different_columns():
    """A barrier at the start, two a round, and one at the end where no row is left to a search."""
    assert solve(torch.ones(300, 300)).barriers == 4
    cost = torch.ones(3, 5)
    cost[:, 2:] = 0  # all want column 2 first; those that lose it want a column with room
    found = solve(cost)
    assert found.columns.tolist() == [2, 3, 4] and found.barriers == 8


def test_the_row_that_would_lose_more_keeps_the_column():
    """It lowers the price by all that it would lose, so that the other row goes elsewhere in the next round."""
    found = solve(torch.tensor([[0.0, 1.0], [0.0, 5.0]]))
    assert found.columns.tolist() == [1, 0] and found.col_duals.tolist() == [-5.0, -4.0] and found.barriers == 6


def test_a_row_with_one_column_bids_no_more_than_it_has_to():
    """Were its price that of the largest float, nothing would be left of the duals' sums."""
    cost = torch.tensor([[1.0, INF], [0.0, 2.0]])
    found = solve(cost)
    assert found.columns.tolist() == [0, 1]
    assert (found.row_duals + found.col_duals).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("shape", CAPACITIES)
@pytest.mark.parametrize(
    ("kind", "threads_per_group"),
    [*((kind, 32) for kind in KINDS), ("uniform", 1), ("integer", 1)],  # 1: so few columns are in different groups
)
def test_capacities_are_repeated_columns(generator, kind, shape, threads_per_group):
    num_rows, num_cols, capacity = shape
    cost = costs(kind, (num_rows, num_cols), generator).double()
    repeated = cost.repeat(1, capacity)
    try:
        best = repeated[linear_sum_assignment(repeated.numpy())].sum()
    except ValueError:  # a row of forbidden pairs, or too many rows for a column
        assert not solve(cost, capacity=capacity).solved
        return
    team = dict(capacity=capacity, threads_per_group=threads_per_group)
    first, last = (solve(cost, **team, backwards=order) for order in (False, True))
    assert first.solved and all(torch.equal(x, y) for x, y in zip(first[1:4], last[1:4], strict=True))
    held = first.columns.bincount(minlength=num_cols)
    rows = torch.arange(num_rows)
    assert held.max() <= capacity
    torch.testing.assert_close(cost[rows, first.columns].sum(), best, rtol=1e-6, atol=0.0)
    slack = cost - first.row_duals[:, None] - first.col_duals
    rounding = num_rows * torch.finfo(torch.float64).eps * cost[cost.isfinite()].abs().max()
    assert slack.min() >= -rounding and slack[rows, first.columns].abs().max() <= rounding
    if num_rows < num_cols * capacity:
        assert (first.col_duals <= 0).all() and not first.col_duals[held < capacity].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "capacity"),
    [
        ([[INF, INF], [0, 1]], 1),  # a row without a column
        ([[0, INF, INF], [1, INF, INF], [2, 0, 0]], 1),  # two rows with one column
        ([[0, INF], [1, INF], [2, INF]], 2),  # three rows with one column of two places
    ],
)
def test_infeasible(rows, capacity, dtype):
    assert not solve(torch.tensor(rows, dtype=dtype), capacity=capacity).solved


@settings(deadline=None, max_examples=80, derandomize=True)
@given(data=st.data())
def test_small_integers_with_forbidden_pairs(data):
    capacity, num_cols = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    num_rows = data.draw(st.integers(1, num_cols * capacity))
    values = st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0, INF]), min_size=num_cols, max_size=num_cols)
    cost = torch.tensor([data.draw(values) for _ in range(num_rows)], dtype=torch.float64)
    found = solve(cost, capacity=capacity, groups=data.draw(st.integers(1, 3)))
    try:
        rows, cols = linear_sum_assignment(cost.repeat(1, capacity).numpy())
    except ValueError:
        assert not found.solved
        return
    assert found.solved and found.columns.bincount().max() <= capacity
    assert cost[range(num_rows), found.columns].sum() == cost[rows, cols % num_cols].sum()
