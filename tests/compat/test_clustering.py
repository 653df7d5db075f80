import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn import cluster

from salcr import ops
from salcr.compat import DBSCAN, compute_jaccard_distance
from salcr.reference.published.jaccard import jaccard_distance


def people(generator, count=120, identities=10, noise=0.5):
    centres = torch.randn(identities, 24, generator=generator)
    who = torch.arange(count) % identities
    return F.normalize(centres[who] + noise * torch.randn(count, 24, generator=generator), dim=1)


@pytest.mark.parametrize("k", [dict(), dict(k1=30, k2=6), dict(k1=7, k2=1)])
def test_distances_are_those_of_the_published_loops(generator, k):
    features = people(generator)
    expected = jaccard_distance(features, **dict(k1=20, k2=6) | k).numpy()
    found = compute_jaccard_distance(features.numpy(), **k, print_flag=False, search_option=3, use_float16=False)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(compute_jaccard_distance(features, **k), found)


def test_labels_are_those_of_the_published_way(generator):
    """Distances, then scikit-learn's DBSCAN: the five lines that every code base has."""
    features = people(generator)
    distances = jaccard_distance(features, k1=20).numpy()
    expected = cluster.DBSCAN(eps=0.6, min_samples=4, metric="precomputed", n_jobs=-1).fit_predict(distances)
    assert len(set(expected)) > 3
    ours = DBSCAN(eps=0.6, min_samples=4, metric="precomputed", n_jobs=-1)
    for given in (
        compute_jaccard_distance(features),
        compute_jaccard_distance(features, max_distance=0.6),
        torch.from_numpy(distances),
        ops.jaccard_graph(features, k1=20, max_distance=0.6),
    ):
        labels = ours.fit_predict(given)
        assert labels.dtype == np.int64 and np.array_equal(labels, expected) and labels is ours.labels_
    assert len(set(labels)) - (-1 in labels) == labels.max() + 1


@pytest.mark.parametrize("limit", [0.4, 0.0])
def test_sparse_distances_are_those_within_the_limit(generator, limit):
    features = people(generator)
    features[60] = features[50]
    dense = compute_jaccard_distance(features)
    found = compute_jaccard_distance(features, max_distance=limit)
    near = dense <= np.float32(limit)
    assert found.nnz == near.sum() and np.array_equal(found.toarray(), np.where(near, dense, 0))


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix, sparse.coo_array, sparse.csc_array])
def test_any_sparse_matrix_of_scipy(generator, kind):
    distances = compute_jaccard_distance(people(generator), max_distance=0.5)
    expected = cluster.DBSCAN(eps=0.5, metric="precomputed").fit_predict(distances)
    assert np.array_equal(DBSCAN(0.5).fit_predict(kind(distances)), expected)


def test_entries_given_twice_add_up():
    """Two points 0.4 apart in two entries of 0.2; neither is at 0.2. A matrix in rows keeps its entries as they are."""
    halves = sparse.csr_array(([0.2, 0.2, 0.4], [1, 1, 0], [0, 2, 3]), shape=(2, 2))
    for given in (halves, sparse.coo_array(([0.2, 0.2, 0.4], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))):
        assert DBSCAN(0.3, min_samples=2).fit_predict(given).tolist() == [-1, -1]
        assert DBSCAN(0.4, min_samples=2).fit_predict(given.astype(np.float32)).tolist() == [0, 0]
        assert given.nnz == 3  # the caller's is as it was


def test_read_only_arrays(generator):
    features = people(generator).numpy()
    features.flags.writeable = False
    assert compute_jaccard_distance(features).shape == (120, 120)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_that_half_precision_has_rounded_are_unit_rows(generator, dtype):
    features = F.normalize(people(generator).to(dtype), dim=1)
    expected = compute_jaccard_distance(F.normalize(features.float(), dim=1))
    np.testing.assert_allclose(compute_jaccard_distance(features), expected, atol=1e-5)


def test_rows_as_they_are_have_to_be_unit_rows(generator):
    features = people(generator)
    features[3] *= 1.002
    with pytest.raises(ValueError, match=r"row 3 has length 1\.002: normalise"):
        compute_jaccard_distance(features)
    with pytest.raises(TypeError, match="target_features must be a NumPy array or a tensor, got list"):
        compute_jaccard_distance(features.tolist())
    with pytest.raises(ValueError, match="features must have 2 axes"):
        compute_jaccard_distance(features[0])
    with pytest.raises(ValueError, match="metric must be 'precomputed', got 'cosine'"):
        DBSCAN(0.5, metric="cosine")
