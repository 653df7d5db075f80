import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN

from salcr import ops, reference
from tests.ops.label_problems import KINDS, check_labels, images, scikit_learn


def sparse(distances, keep):
    """The entries of a dense matrix where ``keep``, as torch.sparse_csr."""
    columns = keep.nonzero()[:, 1]
    pointers = torch.cat([torch.zeros(1, dtype=torch.int64), keep.sum(1).cumsum(0)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(pointers, columns, distances[keep], size=distances.shape)


def assert_as_scikit_learn(distances, eps, min_samples=4):
    expected = scikit_learn(distances, eps, min_samples)
    stored = distances <= torch.tensor(eps)
    graph = sparse(distances, stored.fill_diagonal_(True))
    for impl in ("reference", "cpp"):
        for same in (distances, graph):
            assert torch.equal(ops.dbscan(same, eps=eps, min_samples=min_samples, impl=impl), expected)
    return expected


@pytest.mark.parametrize("eps", [0.3, 0.6])
@pytest.mark.parametrize("rows", [1, 2, 5, 40, 150, 400])
@pytest.mark.parametrize("kind", ["spread", "duplicates", "quantised"])
def test_labels_of_jaccard_distances(generator, rows, eps, kind):
    centres = torch.randn(max(1, rows // 15), 16, generator=generator)
    features = centres[torch.randint(0, len(centres), (rows,), generator=generator)]
    features = features + 0.6 * torch.randn(rows, 16, generator=generator)
    if kind == "duplicates":
        features[: rows // 2] = features[rows // 2 : 2 * (rows // 2)]
    if kind == "quantised":
        features = (features / 2).round()
        features[:, 0] += 0.5
    distances = reference.jaccard_distance(features, k1=20)
    labels = assert_as_scikit_learn(distances, eps)
    graph = reference.jaccard_graph(features, k1=20, max_distance=eps)
    assert torch.equal(ops.dbscan(graph, eps=eps), labels)
    if rows == 400:
        assert labels.max() > 3


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 14).flatmap(lambda n: st.lists(st.integers(0, 6), min_size=n * n, max_size=n * n)),
    st.integers(1, 5),
    st.sampled_from([0.2, 0.3, 0.5]),
)
def test_labels_of_any_symmetric_matrix(entries, min_samples, eps):
    count = int(len(entries) ** 0.5)
    distances = torch.tensor(entries).view(count, count) / 10
    assert_as_scikit_learn(torch.minimum(distances, distances.T), eps, min_samples)


def test_numbering_borders_and_noise():
    """On a line: core points 1-3 and 5-7 make two clusters, 4 borders on both, 0 and 8 on one each, 9 is noise."""
    places = torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 4.5, 5.0, 6.0, 9.0])
    distances = (places[:, None] - places).abs()
    labels = assert_as_scikit_learn(distances, 1.0)
    assert labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, -1]
    backwards = assert_as_scikit_learn(distances.flip(0, 1), 1.0)
    assert backwards.tolist() == [-1, 0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_a_border_point_with_a_small_index_does_not_number_the_clusters():
    places = torch.tensor([5.9, 0.0, 0.1, 0.2, 5.0, 5.1, 5.2])  # point 0 belongs to the second cluster
    distances = (places[:, None] - places).abs()
    assert assert_as_scikit_learn(distances, 0.75, min_samples=3).tolist() == [1, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_distance_equal_to_eps_is_near_in_float32(impl):
    distances = torch.tensor([[0, 0.6], [0.6, 0]], dtype=torch.float64)
    assert ops.dbscan(distances, eps=0.6, min_samples=2, impl=impl).tolist() == [0, 0]
    assert ops.dbscan(distances.float(), eps=0.6, min_samples=2, impl=impl).tolist() == [0, 0]  # float32(0.6) > 0.6
    rounds_to_it = distances * (1 + 5e-8)
    for same in (rounds_to_it, sparse(rounds_to_it, rounds_to_it >= 0)):
        assert ops.dbscan(same, eps=0.6, min_samples=2, impl=impl).tolist() == [0, 0]
    assert ops.dbscan(distances.half(), eps=0.6, min_samples=2, impl=impl).tolist() == [
        -1,
        -1,
    ]  # float16(0.6) > float32(0.6)


@pytest.mark.filterwarnings("ignore:Precomputed sparse input was not sorted")  # older scikit-learn
@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_diagonal_of_a_sparse_matrix_is_read_as_scikit_learn_does(impl):
    from scipy.sparse import csr_array

    distances = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.9, 0.1], [0.0, 0.1, 0.0]])
    keep = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    graph = sparse(distances, keep)
    pieces = graph.values().numpy(), graph.col_indices().numpy(), graph.crow_indices().numpy()
    peer = csr_array(pieces, shape=(3, 3))
    for min_samples in (1, 2, 3):
        expected = DBSCAN(eps=0.5, min_samples=min_samples, metric="precomputed").fit_predict(peer)
        assert ops.dbscan(graph, eps=0.5, min_samples=min_samples, impl=impl).tolist() == expected.tolist()


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_extremes(impl):
    assert ops.dbscan(torch.zeros(1, 1), eps=0.5, impl=impl).tolist() == [-1]
    assert ops.dbscan(torch.zeros(1, 1), eps=0.5, min_samples=1, impl=impl).tolist() == [0]
    assert ops.dbscan(torch.zeros(6, 6), eps=0.5, impl=impl).tolist() == [0] * 6
    assert ops.dbscan(torch.full((6, 6), torch.inf).fill_diagonal_(0), eps=0.5, impl=impl).tolist() == [-1] * 6
    nothing = torch.ones(3, 3)
    assert ops.dbscan(sparse(nothing, nothing < 0), eps=0.5, min_samples=1, impl=impl).tolist() == [0, 1, 2]
    behind_a_negative_bit = torch._neg_view(-torch.eye(5))
    assert ops.dbscan(behind_a_negative_bit, eps=0.5, impl=impl).tolist() == [0] * 5
    nothing[0, 0] = 0  # the others are far even from themselves
    assert ops.dbscan(nothing, eps=0.5, min_samples=1, impl=impl).tolist() == [0, -1, -1]


def long_components(rng, shape, count=20000):
    """Components as deep as union-find can make them, in random order of points, and their labels."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    child = np.arange(1, count)
    parent = {"path": child - 1, "star": np.zeros_like(child), "forest": rng.integers(0, child)}[shape]
    keep = rng.random(count - 1) < (0.99 if shape == "forest" else 1)
    name = rng.permutation(count)
    a, b = name[child[keep]], name[parent[keep]]
    edges = coo_array((np.full(2 * len(a), 0.5, np.float32), (np.r_[a, b], np.r_[b, a])), shape=(count, count)).tocsr()
    pieces = (torch.from_numpy(x) for x in (edges.indptr, edges.indices, edges.data))  # int32 indices
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        graph = torch.sparse_csr_tensor(*pieces, size=edges.shape)
    component = connected_components(edges, directed=False)[1]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return graph, torch.from_numpy(np.argsort(np.argsort(first))[inverse])


SHAPES = ("path", "star", "forest")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 4])
def test_long_components(rng, monkeypatch, shape, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    graph, expected = long_components(rng, shape)
    assert torch.equal(ops.dbscan(graph, eps=0.5, min_samples=1, impl="cpp"), expected)


@pytest.mark.parametrize("bad", ["column", "negative column", "pointer", "descent"])
@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_a_broken_sparse_matrix_is_refused(bad, impl):
    pointers, columns = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2])
    {"column": columns, "negative column": columns, "pointer": pointers, "descent": pointers}[bad][2] = {
        "column": 3, "negative column": -1, "pointer": 9, "descent": 0
    }[bad]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        graph = torch.sparse_csr_tensor(pointers, columns, torch.ones(3), size=(3, 3), check_invariants=False)
    with pytest.raises(ValueError, match="distances has"):
        ops.dbscan(graph, eps=0.5, impl=impl)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(distances=torch.zeros(2, 3)), ValueError, r"distances must be \[N, N\]"),
        (dict(distances=torch.zeros(0, 0)), ValueError, r"distances must be \[N, N\]"),
        (dict(distances=np.zeros((2, 2))), TypeError, "torch.Tensor, got ndarray"),
        (dict(distances=torch.zeros(2, 2).to_sparse()), TypeError, "dense or torch.sparse_csr"),
        (dict(distances=torch.zeros(2, 2, dtype=torch.int64)), TypeError, "floating"),
        (dict(distances=torch.full((2, 2), torch.nan)), ValueError, "distances contains NaN"),
        (dict(impl="cuda"), ValueError, "has the backends"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.dbscan(**(dict(distances=torch.zeros(2, 2), eps=0.5) | arguments))


def test_a_backend_gets_numbers_of_python(monkeypatch):
    """Triton launches nothing with one of NumPy's."""
    found = {}
    monkeypatch.setattr(sys.modules["salcr.ops.dbscan"], "pick", lambda *_: lambda _, **options: found.update(options))
    ops.dbscan(torch.zeros(2, 2), eps=np.float32(0.5), min_samples=np.int64(1))
    assert [type(number) for number in found.values()] == [float, int]


@pytest.mark.cuda
@pytest.mark.parametrize("eps", [0.3, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_the_kernels(generator, kind, eps):
    for rows, min_samples in ((1, 1), (2, 4), (40, 2), (1500, 4)):
        check_labels(images(generator, kind, rows).cuda(), 20, 6, eps, min_samples)


@pytest.mark.cuda
def test_kernels_on_small_matrices(rng):
    for _ in range(60):
        count, eps, min_samples = int(rng.integers(1, 15)), float(rng.choice([0.2, 0.3, 0.5])), int(rng.integers(1, 6))
        distances = torch.from_numpy(rng.integers(0, 7, (count, count)) / 10).float()
        distances = torch.minimum(distances, distances.T)
        expected = scikit_learn(distances, eps, min_samples)
        graph = sparse(distances, (distances <= torch.tensor(eps)).fill_diagonal_(True))
        for same in (distances, distances.double(), graph):
            got = ops.dbscan(same.cuda(), eps=eps, min_samples=min_samples, impl="triton")
            assert torch.equal(got.cpu(), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("shape", SHAPES)
def test_long_components_of_the_kernels(rng, shape):
    graph, expected = long_components(rng, shape, 200_000)
    assert torch.equal(ops.dbscan(graph.cuda(), eps=0.5, min_samples=1, impl="triton").cpu(), expected)
