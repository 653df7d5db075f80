import pytest
import torch

from salcr import ops, reference
from tests.ops.contract import assert_compiles, assert_operator_contract, assert_within_budget


def problem(generator, rows=40, clusters=6, width=5, dtype=torch.float32):
    features = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(-1, clusters, (rows,), generator=generator)
    labels[:clusters] = torch.arange(clusters)
    return features, labels[torch.randperm(rows, generator=generator)]


def by_hand(features, labels, clusters):
    return torch.stack([features[labels == c].mean(0) for c in range(clusters)])


def test_centroids_are_plain_means_without_noise(generator):
    features, labels = problem(generator, dtype=torch.float64)
    expected = by_hand(features, labels, 6)
    torch.testing.assert_close(ops.cluster_centroids(features, labels), expected)
    torch.testing.assert_close(ops.cluster_centroids(features, labels, 6), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_error_budget(generator, dtype):
    features, labels = problem(generator, rows=500, clusters=3, dtype=dtype)
    assert_means_within_budget(ops.cluster_centroids(features, labels), by_hand(features, labels, 3), features, labels)


def assert_means_within_budget(got, eager, features, labels):
    exact, magnitude = (reference.cluster_centroids(x, labels) for x in (features.double(), features.double().abs()))
    assert_within_budget(got, exact, eager, terms=int(labels[labels >= 0].bincount().max()), magnitude=magnitude)


@pytest.mark.parametrize("width", [1, 513, 1100])
def test_wide_rows_and_many_clusters(generator, width):
    features, labels = problem(generator, rows=400, clusters=90, width=width)
    got = ops.cluster_centroids(features, labels, impl="cpp")
    assert torch.equal(got, reference.cluster_centroids(features, labels))


def test_edge_cases():
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert ops.cluster_centroids(features, torch.tensor([0, 0])).tolist() == [[2, 3]]
    assert ops.cluster_centroids(features, torch.tensor([-1, 0])).tolist() == [[3, 4]]
    assert ops.cluster_centroids(features, torch.tensor([-1, -1])).shape == (0, 2)
    cancelling = torch.tensor([[1e8], [3.0], [-1e8]])
    for impl in ("cpp", "reference"):
        assert ops.cluster_centroids(cancelling, torch.zeros(3, dtype=torch.int64), impl=impl).tolist() == [[1]]
    assert ops.cluster_centroids(features.mT, torch.tensor([1, 0])).tolist() == [[2, 4], [1, 3]]
    assert not ops.cluster_centroids(features.requires_grad_(), torch.tensor([0, 0])).requires_grad


def test_contract(generator):
    assert_operator_contract(
        torch.ops.salcr.cluster_centroids,
        (*problem(generator), 6, "auto"),
        (*problem(generator, clusters=2, dtype=torch.float16), 2, "auto"),
    )
    assert_compiles(lambda x, y: ops.cluster_centroids(x, y, 6), problem(generator), problem(generator, rows=23))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(labels=torch.tensor([0, 2, 2])), ValueError, "cluster 1 has no member"),
        (dict(num_clusters=4), ValueError, r"cluster 2 has no member \(2 of 4"),
        (dict(labels=torch.tensor([-1, -1, -1]), num_clusters=2), ValueError, "cluster 0 has no member"),
        (dict(num_clusters=1), ValueError, r"labels must be in \[-1, 1\), got 0 to 1"),
        (dict(labels=torch.tensor([0, -2, 1])), ValueError, "got -2 to 1"),
        (dict(labels=torch.tensor([0, 1])), ValueError, "labels has 2 entries, features 3 rows"),
        (dict(labels=torch.zeros(3)), TypeError, "labels must be int64"),
        (dict(features=torch.zeros(0, 2)), ValueError, "features is empty"),
        (dict(impl="cuda"), ValueError, "has the backends"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.cluster_centroids(**(dict(features=torch.ones(3, 2), labels=torch.tensor([0, 1, 1])) | arguments))


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("rows", "clusters", "width", "dtype"),
    [
        (22258, 400, 2048, torch.float32),
        (22258, 400, 2048, torch.bfloat16),
        (500, 90, 1, torch.float32),
        *((3000, 1, 1100, dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)),
    ],
)
def test_kernel(generator, rows, clusters, width, dtype):
    features, labels = problem(generator, rows, clusters, width, dtype)
    got, again = (ops.cluster_centroids(features.cuda(), labels.cuda(), impl="triton").cpu() for _ in range(2))
    assert torch.equal(got, again)
    assert_means_within_budget(got, reference.cluster_centroids(features, labels), features, labels)
