import itertools

import pytest
import torch

from salcr.objectives import association_named, register_association
from salcr.objectives.association import progressive_matching, squared_distances


def test_rounds_worked_by_hand():
    """Rows 1 and 2 are the cheapest pair for the columns; then 0 and 3 share them; the last takes what it likes."""
    cost = torch.tensor([[4.0, 6.0], [0.0, 9.0], [9.0, 0.0], [5.0, 4.0], [7.0, 9.0]])
    row_to_col, col_to_row = progressive_matching(cost)
    assert row_to_col.tolist() == [0, 0, 1, 1, 0] and col_to_row.tolist() == [1, 2]
    col_to_row, row_to_col = progressive_matching(cost.T)
    assert row_to_col.tolist() == [0, 0, 1, 1, 0] and col_to_row.tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (50, 1), (1, 50), (101, 7), (7, 20), (9, 8)])
def test_both_sides_are_matched_evenly(generator, shape):
    partners = progressive_matching(torch.randn(shape, generator=generator))
    for mine, theirs, found in zip(shape, shape[::-1], partners, strict=True):
        used = found.bincount(minlength=theirs)
        assert found.shape == (mine,) and found.dtype == torch.int64
        assert mine // theirs <= used.min() and used.max() <= -(-mine // theirs)
    larger, smaller = sorted(partners, key=len, reverse=True)
    assert torch.equal(larger[smaller], torch.arange(len(smaller)))  # the first round's pairs are mutual


def test_squared_distances(generator, monkeypatch):
    x, y = (torch.randn(n, 5, generator=generator) for n in (23, 9))
    whole = squared_distances(x, y)
    torch.testing.assert_close(whole, torch.cdist(x, y).square(), rtol=1e-4, atol=1e-4)
    assert (squared_distances(x, x).diagonal() >= 0).all()
    monkeypatch.setattr("salcr.objectives.association.BLOCK_ROWS", 7)
    assert torch.equal(squared_distances(x, y), whole)


def test_names(monkeypatch):
    strategies = {name: association_named(name) for name in ("ot", "hungarian", "graph")}
    monkeypatch.setattr("salcr.objectives.association._STRATEGIES", dict(strategies))
    assert all(a is not b for a, b in itertools.combinations(strategies.values(), 2))
    register_association("mine", strategies["ot"])
    assert association_named("mine") is strategies["ot"]
    for taken in ("mine", "graph"):
        with pytest.raises(ValueError, match=f"the association '{taken}' is registered already"):
            register_association(taken, strategies["ot"])
    with pytest.raises(ValueError, match="association must be one of ot, hungarian, graph, mine, got 'other'"):
        association_named("other")
