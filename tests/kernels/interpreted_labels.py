"""The Triton backend from neighbours to labels under the interpreter; run by test_interpreter.py in its own process."""

import numpy as np
import pytest
import torch

import salcr
from salcr import ops, reference
from salcr.kernels import jaccard, jaccard_encodings
from salcr.ops.backends.triton.jaccard import jaccard_graph
from tests.ops.label_problems import (
    KINDS,
    check_encodings,
    check_graph,
    check_labels,
    images,
    scikit_learn,
    searched,
    sizes,
)
from tests.ops.test_dbscan import sparse


@pytest.mark.parametrize(("k1", "k2"), [(7, 3), (40, 1)])
def test_encodings(generator, k1, k2):
    check_encodings(images(generator, "groups", 17), k1, k2)


@pytest.mark.parametrize(("kind", "k1", "k2", "max_distance"), [("groups", 9, 6, 0.6), ("hubs", 6, 1, 0.9999999)])
def test_graph_is_the_thresholded_distance(generator, monkeypatch, kind, k1, k2, max_distance):
    features = images(generator, kind, 18)
    graph = check_graph(features, k1, k2, max_distance)
    monkeypatch.setattr(jaccard, "ROOM", 0)  # pairs are counted first
    found = searched(features, k1)
    again = jaccard_graph(*found, **sizes(found, k2), max_distance=float(graph.values().max()))
    assert torch.equal(again.values(), graph.values())


def test_a_pair_that_shares_most_behind_the_prefixes_is_found():
    """As much of two rows as may lie there: what they share before that is just enough."""
    near, count = 0.6, 29
    least = 2 * (1 - near) / (2 - near)
    behind = jaccard.PREFIX_SHARE * least - 2e-6
    pair = torch.tensor([*[(1 - least - 1e-6) / 8] * 8, least + 1e-6 - behind, *[behind / 10] * 10])
    shared, others = torch.arange(18, 29), torch.arange(2, count)
    columns = torch.cat([torch.arange(2, 10), shared, torch.arange(10, 18), shared, others])
    values = torch.cat([pair, pair, torch.ones(count - 2)])
    lengths = torch.tensor([19, 19] + (count - 2) * [1])
    uses = columns.bincount(minlength=count).int()
    encodings = jaccard_encodings.Encodings(jaccard_encodings.row_pointers(lengths), columns.int(), values, uses)
    index, _ = jaccard._index(encodings, jaccard.PREFIX_SHARE * least - jaccard.SLACK)
    assert index.prefixes.tolist() == [9, 9] + (count - 2) * [1]  # more than a block
    pointers, columns, distances = jaccard.jaccard_graph(encodings, near)
    assert pointers.diff().tolist() == [2, 2] + (count - 2) * [1] and columns[:4].tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(distances[:4], torch.tensor([0, near, near, 0]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_scikit_learn(generator, kind):
    labels = check_labels(images(generator, kind, 20), k1=8, k2=3, min_samples=3)
    assert kind != "groups" or labels.max() >= 1


@pytest.mark.parametrize(("rows", "k1", "k2", "min_samples"), [(1, 30, 6, 1), (2, 1, 1, 1), (9, 5, 2, 2)])
def test_few_images(generator, rows, k1, k2, min_samples):
    check_labels(images(generator, "groups", rows), k1, k2, min_samples=min_samples)


def test_the_operators_take_the_kernels(generator):
    """From features to labels in one call, and each operator by its name."""
    features = images(generator, "groups", 14)
    options = dict(k1=6, k2=2)
    expected = ops.cluster(features, eps=0.6, min_samples=3, impl="reference", **options)
    assert torch.equal(salcr.cluster(features, eps=0.6, min_samples=3, impl="triton", **options), expected)
    distances = ops.jaccard_distance(features, impl="triton", **options)
    torch.testing.assert_close(distances, reference.jaccard_distance(features, **options), rtol=1e-5, atol=2e-6)
    form = options | dict(scale="farthest", include_self=False)
    expected = reference.jaccard_distance(features, **form)
    torch.testing.assert_close(ops.jaccard_distance(features, impl="triton", **form), expected, rtol=1e-5, atol=2e-6)
    doubled = ops.jaccard_distance(images(generator, "duplicates", 10), impl="triton", **options)
    assert doubled.min() == 0  # also where rounded rows sum to more than 1
    every = ops.jaccard_graph(features, max_distance=1.0, impl="triton", **options)
    assert torch.equal(every.to_dense(), distances) and len(every.values()) == 14 * 14
    with pytest.raises(RuntimeError, match=r"it takes torch.float32.*got torch.float64"):
        ops.jaccard_graph(features.double(), max_distance=0.6, impl="triton")


def test_labels_of_any_symmetric_matrix(rng):
    for _ in range(12):
        count, eps, min_samples = int(rng.integers(1, 16)), float(rng.choice([0.2, 0.3, 0.5])), int(rng.integers(1, 5))
        distances = torch.from_numpy(rng.integers(0, 7, (count, count)) / 10)
        distances = torch.minimum(distances, distances.T).float()
        expected = scikit_learn(distances, eps, min_samples)
        graph = sparse(distances, (distances <= torch.tensor(eps)).fill_diagonal_(True))
        for same in (distances, distances.double(), graph):
            assert torch.equal(ops.dbscan(same, eps=eps, min_samples=min_samples, impl="triton"), expected)


def test_a_long_path_and_a_diagonal_that_is_not_stored(rng):
    name = rng.permutation(60)
    distances = torch.ones(60, 60)
    distances[name[1:], name[:-1]] = distances[name[:-1], name[1:]] = 0.1
    graph = sparse(distances, distances < 1)
    assert not ops.dbscan(graph, eps=0.5, min_samples=2, impl="triton").any()
    nothing = sparse(distances, distances < 0)
    assert ops.dbscan(nothing, eps=0.5, min_samples=1, impl="triton").tolist() == list(range(60))


@pytest.mark.parametrize("part", ["crow_indices", "col_indices"])
def test_a_broken_sparse_matrix_is_refused(part):
    graph = sparse(torch.zeros(3, 3), torch.eye(3, dtype=torch.bool))
    getattr(graph, part)()[1] = 9
    with pytest.raises(ValueError, match="distances has"):
        ops.dbscan(graph, eps=0.5, impl="triton")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_centroids(generator, dtype):
    features = torch.randn(40, 300, generator=generator).to(dtype)
    labels = torch.from_numpy(np.concatenate([np.arange(6), np.full(20, 2), np.full(14, -1)]))
    labels = labels[torch.randperm(40, generator=generator)]
    for x in (features, features[:, :5]):
        assert torch.equal(ops.cluster_centroids(x, labels, impl="triton"), reference.cluster_centroids(x, labels))
