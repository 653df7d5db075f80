"""Searches over lists of each row's best columns, which wide problems keep (csrc/assignment_lists.hpp)."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from salcr import _C
from tests.ops.assignment_problems import INF


@pytest.mark.parametrize("capacity", [1, 2])
@pytest.mark.parametrize("shape", [(410, 780), (780, 780)])
def test_infeasible_where_lists_are_kept(shape, capacity):
    """Too many rows have one column alone, and rows around them have many."""
    cost = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 97.0
    cost[40 : 41 + capacity, 1:] = INF
    partners = np.empty((1, shape[0]), np.int64)
    assert not _C.solve_assignment(cost, False, capacity, partners, 1)
    cost[40, 9] = 500.0
    assert _C.solve_assignment(cost, False, capacity, partners, 1) and partners[0, 40] == 9


@pytest.mark.parametrize("moved", [0, 1])
def test_a_search_over_lists_follows_every_row_of_a_column(moved):
    """Three rows want a column of two places. Only one of them has a second choice that is not dear."""
    cost = torch.full((410, 780), 100.0, dtype=torch.float64)  # more than half as many rows as columns: lists
    cost[torch.arange(3, 410), torch.arange(103, 510)] = 0
    cost[:3, 0] = 0
    cost[moved, 1] = 1
    partners = np.empty((1, 410), np.int64)
    assert _C.solve_assignment(cost.numpy(), False, 2, partners, 1)
    assert cost[torch.arange(410), torch.from_numpy(partners[0])].sum() == 1
    assert partners[0, moved] == 1 and (np.delete(partners[0, :3], moved) == 0).all()


def test_lists_serve_where_rows_contend_for_columns_of_two_places(generator):
    """Forty-one rows share fifteen cheap columns, all of which fit a list."""
    cost = 1 + torch.rand(410, 780, generator=generator, dtype=torch.float64)
    for rows in torch.arange(410).split(41):
        cheap = torch.randperm(780, generator=generator)[:15]
        cost[rows[:, None], cheap] = torch.rand(41, 15, generator=generator, dtype=torch.float64)
    partners = np.empty((1, 410), np.int64)
    assert _C.solve_assignment(cost.numpy(), False, 2, partners, 1)
    assert np.bincount(partners[0]).max() <= 2
    twice = cost.repeat(1, 2).numpy()
    total = cost[torch.arange(410), torch.from_numpy(partners[0])].sum()
    np.testing.assert_allclose(total, twice[linear_sum_assignment(twice)].sum(), rtol=1e-6)
