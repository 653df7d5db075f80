import resource
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import salcr
from salcr import ops, reference
from tests import forked
from tests.ops.label_problems import scikit_learn


def people(generator, rows, noise, width=64):
    """Groups of about 15 and a share of images that belong to none."""
    centres = torch.randn(max(1, rows // 15), width, generator=generator)
    features = centres[torch.randint(0, len(centres), (rows,), generator=generator)]
    features = features + 0.7 * torch.randn(rows, width, generator=generator)
    alone = torch.rand(rows, generator=generator) < noise
    return torch.where(alone[:, None], torch.randn(rows, width, generator=generator), features)


def clear_of(distances, eps):
    return ((distances - eps).abs() > 1e-5).all()


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("rows", [1, 3, 31, 200, 600])
@pytest.mark.parametrize("kind", ["plain", "duplicates", "quantised"])
def test_labels_are_those_of_scikit_learn_on_dense_distances(generator, rows, noise, kind):
    features = people(generator, rows, noise)
    if kind == "duplicates":
        features[: rows // 2] = features[rows // 2 : 2 * (rows // 2)]
    if kind == "quantised":  # entries ±1/8: inner products are exact and ties are everywhere
        features = features.sign()
    distances = reference.jaccard_distance(features)
    for eps in (0.3, 0.6):
        while not clear_of(distances, eps):
            eps += 3e-5
        labels = ops.cluster(features, eps=eps)
        assert torch.equal(labels, scikit_learn(distances, eps))
        assert torch.equal(labels, ops.cluster(features, eps=eps, impl="reference"))
        if (rows, noise, kind) == (600, 0.1, "plain"):
            assert labels.max() > 20 and (labels < 0).any()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 40).flatmap(lambda n: st.lists(st.integers(0, 255), min_size=n, max_size=n)),
    st.integers(1, 45),
    st.integers(1, 8),
    st.integers(1, 5),
    st.sampled_from([0.1, 0.3, 0.6, 0.9]),
)
def test_labels_of_any_small_set(codes, k1, k2, min_samples, eps):
    """Rows of ±1 spelled by bits, with many equal ones: every tie is decided by index."""
    features = (torch.tensor(codes)[:, None] >> torch.arange(8) & 1).float() * 2 - 1
    features = torch.cat([features, torch.ones(len(features), 8)], 1)  # norm 4
    distances = reference.jaccard_distance(features, k1=k1, k2=k2)
    assume(clear_of(distances, eps))
    got = ops.cluster(features, eps=eps, min_samples=min_samples, k1=k1, k2=k2, impl="cpp")
    assert torch.equal(got, scikit_learn(distances, eps, min_samples))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(2, 120), st.integers(1, 130), st.integers(1, 9), st.integers(0, 2**31))
def test_distances_are_a_symmetric_measure(rows, k1, k2, seed):
    features = torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))
    distances = ops.jaccard_distance(features, k1=k1, k2=k2, impl="cpp")
    assert torch.equal(distances, distances.T) and not distances.diagonal().any()
    assert distances.min() >= 0 and distances.max() <= 1
    graph = ops.jaccard_graph(features, k1=k1, k2=k2, max_distance=0.8, impl="cpp")
    assert graph.values().max() <= np.float32(0.8)
    pointers, columns = graph.crow_indices(), graph.col_indices()
    assert all((columns[a:b].diff() > 0).all() for a, b in pairwise(pointers.tolist()))


def test_an_order_of_the_images_only_renames_them(generator):
    features = people(generator, 300, 0.1).double()
    order = torch.randperm(300, generator=generator)
    a, b = ops.cluster(features, eps=0.6)[order], ops.cluster(features[order], eps=0.6)
    assert torch.equal(a < 0, b < 0)
    assert torch.equal(a[:, None] == a, b[:, None] == b)


@pytest.mark.parametrize("impl", ["reference", "cpp"])
def test_degenerate_features(impl):
    assert ops.cluster(torch.ones(9, 4), eps=0.6, impl=impl).tolist() == [0] * 9
    assert ops.cluster(torch.ones(70, 4), eps=0.6, impl=impl).max() <= 1  # each ranks itself and the first 29
    assert ops.cluster(torch.zeros(5, 4), eps=0.6, impl=impl).tolist() == [0] * 5
    assert ops.cluster(torch.ones(1, 4), eps=0.6, impl=impl).tolist() == [-1]
    assert ops.cluster(torch.ones(1, 4), eps=0.6, min_samples=1, impl=impl).tolist() == [0]
    assert ops.cluster(torch.ones(3, 4).half(), eps=0.6, impl=impl).tolist() == [-1] * 3
    assert ops.cluster(torch.eye(4), eps=1.0, impl=impl).tolist() == [0] * 4  # all pairs are near


def test_it_is_the_operators_one_after_the_other(generator):
    features = people(generator, 400, 0.2)
    graph = ops.jaccard_graph(features, k1=20, k2=4, max_distance=0.5)
    expected = ops.dbscan(graph, eps=0.5, min_samples=3)
    assert torch.equal(salcr.cluster(features, eps=0.5, min_samples=3, k1=20, k2=4), expected)
    assert torch.equal(salcr.cluster(features, eps=0.5, min_samples=3, k1=20, k2=4), expected)  # the same bits again


def test_nothing_quadratic_is_held(tmp_path):
    """N×N of 14,000 images would be 784 MB in float32, and 196 MB a byte each."""
    clustering = forked.start(print_megabytes_of_clustering, log=tmp_path / "log")
    clustering.join()
    assert float((tmp_path / "log").read_text()) < 150


def print_megabytes_of_clustering():
    features = torch.randn(14000, 8)
    salcr.cluster(features[:2000], eps=0.6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    salcr.cluster(features, eps=0.6, impl="cpp")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, flush=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            dict(features=torch.tensor([[1.0], [2.0], [torch.nan]])),
            ValueError,
            "features has NaN or Inf, first in row 2",
        ),
        (dict(features=torch.full((3, 2), torch.inf)), ValueError, "features has NaN or Inf, first in row 0"),
        (dict(features=torch.zeros(0, 3)), ValueError, "features is empty"),
        (dict(features=torch.ones(3, 2).long()), TypeError, "features must be floating"),
        (dict(impl="cuda"), ValueError, "has the backends"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        salcr.cluster(**(dict(features=torch.ones(5, 3), eps=0.5) | arguments))


def test_large_finite_features_are_an_error_where_their_squares_are_not_finite():
    assert salcr.cluster(torch.full((6, 8), 3e18), eps=0.5).shape == (6,)
    with pytest.raises(ValueError, match="features has a norm above"):
        salcr.cluster(torch.full((6, 8), 3e38), eps=0.5)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_labels_of_the_kernels(generator, noise, dtype):
    """From features to labels on the device. Inner products are exact, so that no search can order them otherwise."""
    features = people(generator, 3000, noise).sign().to(dtype)
    distances, eps = reference.jaccard_distance(features), 0.6
    while not clear_of(distances, eps):
        eps += 3e-5
    for _ in range(2):
        got = ops.cluster(features.cuda(), eps=eps, impl="triton")
        assert torch.equal(got.cpu(), scikit_learn(distances, eps))


@pytest.mark.parametrize("impl", ["reference", "eager", "cpp"])
def test_neighbours_found_elsewhere_give_the_same_labels_and_graph(generator, impl):
    group = torch.randn(1, 16, generator=generator) + 0.4 * torch.randn(9, 16, generator=generator)
    features = torch.cat([group, torch.randn(60, 16, generator=generator)])
    found = ops.knn(features, 12)
    for k1 in (9, 12):
        options = dict(k1=k1, k2=3, impl=impl)
        expected = ops.jaccard_graph(features, max_distance=0.7, **options)
        graph = ops.jaccard_graph(features, max_distance=0.7, neighbors=found, **options)
        assert torch.equal(graph.col_indices(), expected.col_indices())
        torch.testing.assert_close(graph.values(), expected.values())
        distances = ops.jaccard_distance(features, neighbors=found, **options)
        torch.testing.assert_close(distances, ops.jaccard_distance(features, **options))
        labels = ops.cluster(features, eps=0.7, neighbors=found, **options)
        assert torch.equal(labels, ops.cluster(features, eps=0.7, **options))


def test_approximate_neighbours_are_clustered(generator):
    pytest.importorskip("faiss")
    centres = torch.randn(30, 32, generator=generator)
    features = centres.repeat_interleave(10, 0) + 0.1 * torch.randn(300, 32, generator=generator)
    found = ops.knn(features, 10, method="faiss-ivf")
    labels = ops.cluster(features, eps=0.6, k1=10, k2=3, neighbors=found)
    assert labels.max() == 29 and (labels.view(30, 10) == labels[::10, None]).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v, i: (v[:, :4], i[:, :4]), ValueError, r"neighbors must be two of \[40, 5 or more\]"),
        (lambda v, i: (v[:9], i[:9]), ValueError, "neighbors must be two of"),
        (lambda v, i: (v, i.int()), TypeError, r"neighbors\[1\] must be int64"),
        (lambda v, i: (v, i + 1), ValueError, "start with the image itself"),
        (lambda v, i: (v, i.flip(1)), ValueError, "start with the image itself"),
        (lambda v, i: (v, i.where(i == i[:, :1], -1)), ValueError, "must be rows below 40"),
        (lambda v, i: (v * float("nan"), i), ValueError, r"neighbors\[0\] has NaN or Inf"),
        (lambda v, i: (v, i.index_fill(1, torch.tensor(4), 7)), ValueError, r"neighbors\[1\] names an image twice"),
        (lambda v, i: (2 - 2 * v, i), ValueError, r"neighbors\[0\] must be inner products .* in descending order"),
        (lambda v, i: (v / 2, i), ValueError, r"neighbors\[0\] does not belong to features: row 0 "),
        (lambda v, i: (v.index_fill(0, torch.tensor(39), 1.0), i), ValueError, "not belong to features: row 39 "),
        (lambda v, i: ops.knn(torch.randn(40, 6, generator=torch.manual_seed(1)), 5), ValueError, "not belong"),
    ],
)
def test_neighbours_that_do_not_fit_are_named(generator, change, error, message):
    features = torch.randn(40, 6, generator=generator)
    with pytest.raises(error, match=message):
        ops.cluster(features, eps=0.5, k1=5, neighbors=change(*ops.knn(features, 5)))


def test_neighbours_of_half_precision_and_among_duplicates_fit(generator):
    features = torch.randn(20, 8, generator=generator).repeat(2, 1)
    unit = F.normalize(features.bfloat16(), dim=1)
    _, indices = ops.knn(features, 6)
    neighbors = (unit @ unit.T).float().gather(1, indices), indices
    assert ops.cluster(features, eps=0.5, k1=6, neighbors=neighbors).shape == (40,)


def agreement_by_hand(labels, other):
    """With sets of images."""
    found = []
    for i in range(len(labels)):
        one, two = ({j for j in range(len(y)) if y[j] == y[i] != -1} | {i} for y in (labels, other))
        found.append(len(one & two) / len(one | two))
    return torch.tensor(found)


@pytest.mark.parametrize("impl", ["eager", "reference"])
def test_agreement_worked_by_hand(impl):
    """Images 0-3 were together and 3 has left for noise; 4 was noise and has joined 5; 6 is noise in both."""
    labels, other = torch.tensor([2, 2, 2, 2, -1, 7, -1]), torch.tensor([0, 0, 0, -1, 1, 1, -1])
    found = ops.label_agreement(labels, other, impl=impl)
    assert found.dtype == torch.float32
    assert found.tolist() == torch.tensor([3 / 4, 3 / 4, 3 / 4, 1 / 4, 1 / 2, 1 / 2, 1]).tolist()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=16))
def test_agreement_is_that_of_the_sets(pairs):
    labels, other = torch.tensor(pairs).T
    expected = agreement_by_hand(*(y.tolist() for y in (labels, other)))
    renamed = torch.where(other < 0, other, 2**62 - 3 * other)
    for impl in ("eager", "reference"):
        assert torch.equal(ops.label_agreement(labels, other, impl=impl), expected)
        assert torch.equal(ops.label_agreement(renamed, labels, impl=impl), expected)


def test_agreement_of_many_images_holds_no_pairs():
    count = 1_000_000
    labels = torch.arange(count) // 10
    found = ops.label_agreement(labels, labels // 2)
    assert found.shape == (count,) and (found == 0.5).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(labels=torch.zeros(3)), TypeError, "labels must be int64, got torch.float32"),
        (dict(other=[0, 1, 2]), TypeError, "other must be a torch.Tensor, got list"),
        (dict(labels=torch.zeros(0, dtype=torch.int64)), ValueError, "labels is empty"),
        (dict(other=torch.tensor([0, 1])), ValueError, "other has 2 entries, labels 3"),
        (dict(other=torch.tensor([0, -2, 1])), ValueError, "other must be at least -1, got -2"),
        (dict(other=torch.zeros(3, dtype=torch.int64, device="meta")), ValueError, "other is a meta tensor"),
        (dict(impl="cpp"), ValueError, "label_agreement has the backends eager, reference"),
    ],
)
def test_labellings_that_do_not_fit_are_named(change, error, message):
    good = dict(labels=torch.tensor([0, 0, 1]), other=torch.tensor([0, -1, 1]))
    with pytest.raises(error, match=message):
        ops.label_agreement(**(good | change))
