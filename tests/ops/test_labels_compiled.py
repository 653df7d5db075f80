"""Pseudo labels and Jaccard distances inside torch.compile and torch.export: one opaque operator each."""

import pytest
import torch

from salcr import ops
from tests.ops.contract import assert_compiles, assert_operator_contract


def features(generator, count):
    centres = torch.randn(4, 6, generator=generator)
    return centres[torch.arange(count) % 4] + 0.4 * torch.randn(count, 6, generator=generator)


def labels(x):
    return ops.cluster(x, eps=0.6, k1=8, k2=3)


def labels_of_given_neighbours(x):
    return ops.cluster(x, eps=0.6, k1=8, neighbors=ops.knn(x, 8))


def distances(x):
    return ops.jaccard_distance(x, k1=8, scale="farthest", include_self=False)


def graph(x):
    return ops.jaccard_graph(x, k1=8, max_distance=0.7)


def near(x):
    """The parts of the graph, of which only the values know how many they are."""
    _, columns, found = torch.ops.salcr.jaccard_graph(x, 8, 3, "none", True, None, None, 0.7, "auto")
    return columns, 2 * found


@pytest.mark.parametrize("function", [labels, labels_of_given_neighbours, distances, near])
def test_it_compiles_whole_for_any_number_of_rows(generator, function):
    assert_compiles(function, *([features(generator, count)] for count in (20, 27)))


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_operators_keep_their_contract(generator, impl):
    x = features(generator, 20)
    given = ops.knn(x, 8)
    for lists in ((None, None), given):
        assert_operator_contract(torch.ops.salcr.cluster.default, (x, 8, 3, *lists, 0.6, 4, impl))
        assert_operator_contract(torch.ops.salcr.jaccard_distance.default, (x, 8, 3, "none", True, *lists, impl))
    assert_operator_contract(
        torch.ops.salcr.jaccard_graph.default,
        *((x, 8, 3, "none", True, None, None, largest, impl) for largest in (0.5, 1.0)),
    )


class Alone(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("function", [labels, distances])
def test_it_is_exported(generator, function):
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(Alone(function), (features(generator, 20),), dynamic_shapes=shapes)
    other = features(generator, 31)
    assert torch.equal(program.module()(other), function(other))


def test_a_sparse_matrix_is_made_outside_of_the_graph(generator):
    x = features(generator, 20)
    torch._dynamo.reset()
    found, expected = torch.compile(graph, backend="eager")(x), graph(x)
    assert torch.equal(found.to_dense(), expected.to_dense())
    torch._dynamo.reset()  # which remembers to leave it uncompiled
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compiles and exports no sparse matrix: leave out"):
        torch.compile(graph, backend="eager", fullgraph=True)(x)
    with pytest.raises(NotImplementedError, match="compiles and exports no sparse matrix"):
        torch.export.export(Alone(graph), (x,), strict=False)


def test_wrong_values_are_named_where_they_are_read(generator):
    x = features(generator, 20)
    x[3, 2] = torch.nan
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="features has NaN or Inf, first in row 3"):
        torch.compile(labels, backend="eager", fullgraph=True)(x)
