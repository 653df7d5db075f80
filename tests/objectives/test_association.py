import itertools

import pytest
import torch

from salcr.objectives import association_named, register_association
from salcr.objectives.association import squared_distances


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
