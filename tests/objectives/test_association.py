import itertools

import pytest
import torch

from salcr import ops
from salcr.objectives import Association, associate, association_named, register_association
from salcr.objectives.association import squared_distances
from salcr.ops._checks import known_values


def test_squared_distances(generator, monkeypatch):
    x, y = (torch.randn(n, 5, generator=generator) for n in (23, 9))
    whole = squared_distances(x, y)
    torch.testing.assert_close(whole, torch.cdist(x, y).square(), rtol=1e-4, atol=1e-4)
    assert (squared_distances(x, x).diagonal() >= 0).all()
    monkeypatch.setattr("salcr.objectives.association.BLOCK_ROWS", 7)
    assert torch.equal(squared_distances(x, y), whole)


@pytest.mark.parametrize("association", ["hungarian", "graph"])
def test_clusters_are_matched_by_squared_distances(association):
    """One matching has the smaller squares, 5.5 against 9, the other the smaller distances, 3 against 3.18."""
    visible, infrared = torch.tensor([[0.0, 0.0], [1.0, 0.5]]), torch.tensor([[1.0, 0.5], [3.0, 0.0]])
    labels = torch.arange(2)
    found = association_named(association)(Association(visible, infrared, labels, labels, visible, infrared))
    assert [y.tolist() for y in found] == [[0, 1], [0, 1]]


def test_what_a_strategy_of_ones_own_calls_is_checked(generator, monkeypatch):
    """Also in training, which knows the values of all that it computes itself."""
    monkeypatch.setattr("salcr.objectives.association._STRATEGIES", {})
    register_association("careless", lambda state: ops.cluster_centroids(state.visible, state.visible_labels + 7, 2))
    x, y = torch.randn(2, 4, 3, generator=generator)
    with known_values(), pytest.raises(ValueError, match="labels"):
        associate(x, torch.arange(4) % 2, y, torch.arange(4) % 2, association="careless")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (torch.tensor([0, 1, -1, 0]), r"labels of the association 'mine' must be in \[0, 2\), got -1 to 1"),
        (torch.tensor([0, 1, 2, 0]), r"must be in \[0, 2\), got 0 to 2"),
        (torch.tensor([0, 1, 0]), "must be one for each of 4 images, got 3"),
        (torch.tensor([0.0, 1.0, 0.0, 1.0]), "must be int64, got torch.float32"),
    ],
)
def test_what_a_strategy_of_ones_own_returns_is_checked(generator, monkeypatch, answer, error):
    """No noise: images without a label would weigh otherwise in several processes than in one."""
    monkeypatch.setattr("salcr.objectives.association._STRATEGIES", {})
    register_association("mine", lambda state: (torch.arange(4) % 2, answer))
    x, y = torch.randn(2, 4, 3, generator=generator)
    with known_values(), pytest.raises((ValueError, TypeError), match=error):
        associate(x, torch.arange(4) % 2, y, torch.arange(4) % 2, association="mine")


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
