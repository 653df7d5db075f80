from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from salcr import _C, ops, reference
from tests.ops.contract import assert_within_budget
from tests.ops.label_problems import KINDS, check_graph, images


@pytest.fixture(params=["reference", "cpp"])
def impl(request):
    return request.param


def jaccard_by_hand(features, k1, k2, scale="none", include_self=True):
    """docs/method.md, "Pseudo labels", up to the distances, image by image with Python sets."""
    x = features.double() / features.double().norm(dim=1, keepdim=True).clamp_min(1e-12)
    products, count = (x @ x.T).tolist(), len(x)
    others = 0 if include_self else 1
    ranks = [sorted(range(count), key=lambda j: (j != i, -products[i][j], j))[: k1 + others] for i in range(count)]
    k1 = min(k1, count - others)
    farthest = [max(2 - 2 * product for product in row) if scale == "farthest" else 1 for row in products]

    @cache
    def first(i, k):
        return set(ranks[i][: min(k + 1, k1 + others)])

    @cache
    def reciprocal(i, k):
        return {j for j in first(i, k) if i in first(j, k)}

    halved = {12: 6, 25: 12, 35: 18}.get(k1, round(k1 / 2))
    encodings = np.zeros((count, count))
    for i in range(count):
        base = reciprocal(i, k1)
        expanded = set(base)
        for c in base:
            candidates = reciprocal(c, halved)
            if 3 * len(candidates & base) > 2 * len(candidates):
                expanded |= candidates
        for j in expanded:
            encodings[i, j] = np.exp(-(2 - 2 * products[i][j]) / farthest[i])
        encodings[i] /= encodings[i].sum()
    encodings = np.stack([encodings[ranks[i][:k2]].mean(0) for i in range(count)])
    distances = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            if i != j:
                shared = np.minimum(encodings[i], encodings[j]).sum()
                distances[i, j] = max(0.0, 1 - shared / (2 - shared))
    return torch.from_numpy(distances).float()


def clustered(generator, rows=60, width=12, groups=6):
    centres = torch.randn(groups, width, generator=generator)
    which = torch.randint(0, groups, (rows,), generator=generator)
    return centres[which] + 0.7 * torch.randn(rows, width, generator=generator)


@pytest.mark.parametrize(("k1", "k2"), [(12, 3), (25, 6), (35, 1), (1, 1), (30, 6), (60, 4), (1000, 6), (4, 9)])
def test_distance_is_the_formula(generator, k1, k2, impl):
    features = clustered(generator)
    expected = jaccard_by_hand(features, k1, min(k1, k2))
    torch.testing.assert_close(ops.jaccard_distance(features, k1=k1, k2=k2, impl=impl), expected, rtol=1e-5, atol=2e-6)
    got = ops.jaccard_distance(features.double(), k1=k1, k2=k2, impl=impl)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=2e-7)
    assert torch.equal(got, got.T) and not got.diagonal().any()


FORMS = [("farthest", False), ("farthest", True), ("none", False)]


@pytest.mark.parametrize(("scale", "include_self"), FORMS)
@pytest.mark.parametrize(("k1", "k2"), [(12, 3), (25, 1), (1, 2), (59, 6), (60, 4), (1000, 6)])
def test_other_published_forms(generator, k1, k2, scale, include_self, impl):
    features = clustered(generator)
    options = dict(k1=k1, k2=k2, scale=scale, include_self=include_self)
    expected = jaccard_by_hand(features, **options)
    got = ops.jaccard_distance(features, **options, impl=impl)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-6)
    if k1 in (12, 25):  # with few or all ranks the forms may agree
        assert not torch.allclose(got, ops.jaccard_distance(features, k1=k1, k2=k2, impl=impl), atol=1e-4)
    graph, near = ops.jaccard_graph(features, **options, max_distance=0.7, impl=impl), got <= np.float32(0.7)
    assert torch.equal(graph.col_indices(), near.nonzero()[:, 1]) and torch.equal(graph.values(), got[near])
    neighbors = ops.knn(features, min(k1 + 1, len(features)))
    torch.testing.assert_close(ops.jaccard_distance(features, **options, neighbors=neighbors, impl=impl), got)


def test_rows_of_a_narrow_cone_are_scaled_too(generator, impl):
    features = 1 + 0.1 * torch.randn(40, 12, generator=generator).double()
    expected = jaccard_by_hand(features, 12, 3, scale="farthest")
    got = ops.jaccard_distance(features, k1=12, k2=3, scale="farthest", impl=impl)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=2e-7)


def test_mutual_mean_teaching_s_form_is_that_of_k_reciprocal_re_ranking(generator, impl):
    features = clustered(generator)
    whole = ops.jaccard_distance(features, k1=20, k2=6, scale="farthest", include_self=False, impl=impl)
    expected = ops.rerank_k_reciprocal(features[:20], features[20:], k1=20, k2=6, lambda_value=0.0)
    torch.testing.assert_close(whole[:20, 20:], expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("scale", "include_self"), FORMS)
def test_one_image_or_one_direction_in_other_forms(scale, include_self, impl):
    options = dict(k1=4, k2=2, scale=scale, include_self=include_self, impl=impl)
    assert torch.equal(ops.jaccard_distance(torch.ones(1, 4), **options), torch.zeros(1, 1))
    same = torch.tensor([[0.71875, -1.015625, 2.109375]]) * torch.arange(1.0, 5).view(-1, 1)
    assert not ops.jaccard_distance(same, **options).any()


def test_ties_and_duplicates(generator, impl):
    """Unit rows with entries ±1/4 have exact inner products, so that order among equals matters."""
    features = torch.randint(0, 2, (48, 16), generator=generator).float() * 2 - 1
    features[:, 4:] = 1
    got = ops.jaccard_distance(features, k1=9, k2=3, impl=impl)
    torch.testing.assert_close(got, jaccard_by_hand(features, 9, 3), rtol=1e-5, atol=2e-6)


def test_a_feature_too_short_to_normalise_is_normalised_once(impl):
    features = torch.tensor([[0.8, -0.1, 1.1], [1e-30, 1e-30, 1e-30]], dtype=torch.float64)
    distances = ops.jaccard_distance(features, k1=2, k2=1, impl=impl)
    torch.testing.assert_close(distances, jaccard_by_hand(features, 2, 1), rtol=0, atol=2e-7)


@pytest.mark.parametrize("max_distance", [0.0, 0.3, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("k2", [1, 6])
def test_graph_is_the_thresholded_distance(generator, max_distance, k2, impl):
    features = clustered(generator)
    features[10:14] = features[9]
    distances = ops.jaccard_distance(features, k1=15, k2=k2, impl=impl)
    graph = ops.jaccard_graph(features, k1=15, k2=k2, max_distance=max_distance, impl=impl)
    assert graph.layout == torch.sparse_csr and graph.shape == distances.shape and graph.dtype == torch.float32
    near = distances <= torch.tensor(max_distance)
    rows, columns = near.nonzero().unbind(1)  # row by row, columns ascending
    assert torch.equal(graph.crow_indices().diff(), near.sum(1))
    assert torch.equal(graph.col_indices(), columns)
    assert torch.equal(graph.values(), distances[near])
    diagonal = rows == columns
    assert diagonal.sum() == len(features) and not graph.values()[diagonal].any()


def test_a_graph_is_cut_off_in_float32(generator, impl):
    features = clustered(generator)
    distances = ops.jaccard_distance(features, k1=15, impl=impl)
    bound = distances[(distances > 0) & (distances < 1)].median()
    below = float(bound) * (1 - 1e-9)  # rounds to it
    graph = ops.jaccard_graph(features, k1=15, max_distance=below, impl=impl)
    assert (graph.values() == bound).sum() == (distances == bound).sum() > 0


@pytest.mark.parametrize(("k1", "k2"), [(15, 4), (25, 1), (100, 6)])
def test_published_form_is_the_same(generator, k1, k2):
    from salcr.reference.published.jaccard import jaccard_distance

    for features in (clustered(generator), clustered(generator).double(), torch.ones(1, 3)):
        got = jaccard_distance(features, k1=k1, k2=k2)
        torch.testing.assert_close(got, reference.jaccard_distance(features, k1=k1, k2=k2), rtol=1e-5, atol=2e-6)


def test_blocks_do_not_matter(generator, monkeypatch):
    from salcr.reference import _reciprocal

    features = clustered(generator)
    expected = ops.jaccard_distance(features, k1=15, impl="reference")
    for size in (1, 200, 5000):
        monkeypatch.setattr(_reciprocal, "BLOCK_PAIRS", size)
        assert torch.equal(ops.jaccard_distance(features, k1=15, impl="reference"), expected)


def test_degenerate_features(impl):
    for features in (torch.ones(7, 3), torch.zeros(7, 3)):
        torch.testing.assert_close(ops.jaccard_distance(features, impl=impl), torch.zeros(7, 7))
        assert ops.jaccard_graph(features, max_distance=0.5, impl=impl).values().shape == (49,)
    assert ops.jaccard_distance(torch.ones(1, 3), impl=impl).tolist() == [[0]]
    assert ops.jaccard_graph(torch.ones(1, 3), max_distance=0.5, impl=impl).to_dense().tolist() == [[0]]
    assert ops.jaccard_distance(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), k1=1, impl=impl).tolist() == [[0, 1], [1, 0]]


def test_half_precision_is_computed_in_float32(generator, impl):
    features = clustered(generator).half()
    assert torch.equal(ops.jaccard_distance(features, impl=impl), ops.jaccard_distance(features.float(), impl=impl))


def test_scale_of_the_features_does_not_matter(generator, impl):
    features = clustered(generator).double()
    scales = torch.rand(len(features), 1, generator=generator).double() + 0.1
    torch.testing.assert_close(
        ops.jaccard_distance(features * scales, impl=impl), ops.jaccard_distance(features, impl=impl)
    )


@pytest.mark.parametrize("width", [24, 2048])
def test_error_budget(generator, impl, width):
    features = clustered(generator, rows=200, width=width, groups=8)
    exact, eager = (reference.jaccard_distance(x, k1=20) for x in (features.double(), features))
    got = ops.jaccard_distance(features, k1=20, impl=impl)
    assert_within_budget(got, exact.double(), eager, terms=sum(features.shape))


def crowded(generator, rows=500):
    """Features with little structure and many images that are near many others, so that encodings are long."""
    return torch.randn(rows, 6, generator=generator).abs() + torch.rand(rows, 1, generator=generator) * 3


@pytest.mark.parametrize("make", [clustered, crowded])
@pytest.mark.parametrize(("k1", "k2"), [(30, 6), (30, 1), (7, 6), (400, 3)])
def test_no_near_pair_is_dropped(generator, make, k1, k2):
    rows = 200 if k1 == 400 else 500
    features = make(generator, rows=rows).double()
    distances = reference.jaccard_distance(features, k1=k1, k2=k2)
    for max_distance in (0.0, 0.05, 0.3, 0.6, 0.9, 0.999, 0.9999999):
        graph = ops.jaccard_graph(features, k1=k1, k2=k2, max_distance=max_distance, impl="cpp")
        i = torch.arange(rows).repeat_interleave(graph.crow_indices().diff())
        found = torch.full((rows, rows), torch.inf)
        found[i, graph.col_indices()] = graph.values()
        assert torch.equal(found, found.T)
        expected = distances.where(distances <= torch.tensor(max_distance), torch.inf)
        unsure = (torch.minimum(distances, found) - max_distance).abs() <= 1e-6
        torch.testing.assert_close(found.masked_fill(unsure, 0), expected.masked_fill(unsure, 0), rtol=1e-6, atol=2e-7)


def near_pairs(weights, max_distance, dtype):
    """Pairs ``[P, 2]`` of rows of an array of encodings that C++ finds near."""
    rows, columns = weights.nonzero()
    entries = np.zeros(len(rows), np.dtype([("column", np.int32), ("value", dtype)], align=True))
    entries["column"], entries["value"] = columns, weights[rows, columns]
    pointers, entries = np.searchsorted(rows, np.arange(len(weights) + 1)), entries.view(np.uint8)
    uses = np.bincount(columns, minlength=weights.shape[1]).astype(np.int32)
    getattr(_C, f"jaccard_rarest_first_{dtype}")(pointers, entries, uses, 1)
    search = getattr(_C, f"jaccard_near_pairs_{dtype}")
    return np.stack(search(pointers, entries, pointers, entries, 0, len(uses), max_distance, 1), 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("max_distance", "parts", "least"), [(0.6, 70, 40), (0.7, 130, 60)])
def test_pairs_at_the_largest_distance_are_near(rng, dtype, max_distance, parts, least):
    """In float32 the one is above 0.6, the other below 0.7. Two rows are near by one column, and all its weight."""
    shares = np.pad(rng.multinomial(parts, rng.dirichlet(np.full(12, 0.4), 400)), [(2, 0), (2, 0)])
    shares[:2, 2], shares[0, 0], shares[1, 1] = least, parts - least, parts - least
    shared = np.triu(np.minimum(shares[:, None], shares).sum(2), 1)
    assert (shared == least).sum() > 100
    assert np.array_equal(near_pairs(shares / parts, max_distance, dtype), np.argwhere(shared >= least))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pairs_may_share_nearly_all_that_they_may_behind_their_bodies(dtype):
    """Bodies end where a row weighs less than 0.4, 0.7 of the 4/7 that it shares; there these two share 0.39995."""
    weights = np.array([[0.42855, 0, 0.1715, 0.39995], [0, 0.42855, 0.1715, 0.39995]])
    assert near_pairs(weights, 0.6, dtype).tolist() == [[0, 1]]


def test_no_distance_is_negative(generator, impl):
    """Rounded weights of equal rows share more than 1."""
    x = clustered(generator).repeat(2, 1)
    assert (ops.jaccard_distance(x, k1=20, k2=5, impl=impl) >= 0).all()


@pytest.mark.parametrize("k2", [1, 6])
def test_weights_that_underflow(generator, k2):
    """Given cosines are off by half precision's rounding, and images so near each other that this is much to them."""
    rows = 80
    features = F.pad(1e-3 * torch.randn(rows, 15, generator=generator), (1, 0), value=1)
    cosines, ranks = ops.knn(features, rows)
    cosines[:, 1:] -= 0.004
    form = dict(k1=rows, k2=k2, scale="farthest", neighbors=(cosines, ranks), impl="cpp")
    means = torch.zeros(rows, rows).scatter_(1, ranks[:, :k2], 1 / k2)  # of encodings that are the image alone
    shared = torch.minimum(means[:, None], means).sum(2)
    expected = 1 - shared / (2 - shared)
    torch.testing.assert_close(ops.jaccard_distance(features, **form), expected, rtol=1e-6, atol=1e-6)
    graph = ops.jaccard_graph(features, **form, max_distance=0.7)
    assert torch.equal(graph.crow_indices().diff(), (expected <= 0.7).sum(1))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_matter(generator, monkeypatch, threads):
    from salcr.ops.backends.cpp.jaccard import jaccard_distance, jaccard_graph

    features = F.normalize(clustered(generator, rows=900, groups=40), dim=1)
    found, sizes = (features, *ops.knn(features, 30)), dict(half=16, k2=6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # of the C++; PyTorch's products stay as they are
    graph, distances = jaccard_graph(*found, **sizes, max_distance=0.7), jaccard_distance(*found, **sizes)
    monkeypatch.undo()
    expected = jaccard_graph(*found, **sizes, max_distance=0.7)
    assert torch.equal(graph.col_indices(), expected.col_indices())
    assert torch.equal(graph.values(), expected.values())
    assert torch.equal(distances, jaccard_distance(*found, **sizes))


@pytest.mark.parametrize("change", ["rank", "negative", "half", "k2", "features", "factors", "distance"])
def test_the_extension_refuses_what_it_would_read_out_of_bounds(change):
    from salcr import _C

    ranks, products, features = np.zeros((4, 2), np.int32), np.ones((4, 2), np.float32), np.ones((4, 3), np.float32)
    ranks[:, 0] = range(4)
    arguments = [ranks, products, features, None, 2, 1, 0.5, 1]
    assert len(_C.jaccard_graph(*arguments)) == 3
    if change in ("rank", "negative"):
        ranks[3, 1] = 4 if change == "rank" else -1
    if change == "features":
        arguments[2] = features[:3]
    if change in ("half", "k2"):
        arguments[4 if change == "half" else 5] = 3
    if change == "factors":
        arguments[3] = np.ones(3, np.float32)
    if change == "distance":
        arguments[6] = 1.0
    with pytest.raises(ValueError, match="jaccard"):
        _C.jaccard_graph(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(features=torch.zeros(0, 3)), ValueError, "features is empty"),
        (dict(features=torch.zeros(5)), ValueError, "features must have 2 axes"),
        (dict(features=torch.tensor([[1.0], [torch.nan]])), ValueError, "features has NaN or Inf, first in row 1"),
        (dict(scale="largest"), ValueError, "scale must be one of none, farthest, got 'largest'"),
        (dict(include_self=1), TypeError, "include_self must be True or False, got 1"),
        (
            dict(k1=3, include_self=False, neighbors=ops.knn(torch.ones(5, 3), 3)),
            ValueError,
            r"two of \[5, 4 or more\]",
        ),
        (dict(impl="cuda"), ValueError, "has the backends"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    arguments = dict(features=torch.ones(5, 3), max_distance=0.6) | arguments
    with pytest.raises(error, match=message):
        ops.jaccard_graph(**arguments)
    if arguments.pop("max_distance") == 0.6:
        with pytest.raises(error, match=message):
            ops.jaccard_distance(**arguments)


def test_no_row_behind_the_last_is_looked_at_where_the_default_dtype_rounds_up(generator):
    """In bfloat16 the last of these rows, 598, would be 600."""
    features = torch.randn(599, 8, generator=generator)
    found = ops.knn(features, 5)
    expected = ops.jaccard_graph(features, k1=5, max_distance=0.5)
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = ops.jaccard_graph(features, k1=5, max_distance=0.5, neighbors=found)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got.values(), expected.values())


@pytest.mark.cuda
@pytest.mark.parametrize("max_distance", [0.0, 0.3, 0.6, 0.999, 0.999999, 0.9999999])
@pytest.mark.parametrize("kind", KINDS)
def test_graph_of_the_kernels(generator, kind, max_distance):
    for rows, k1, k2 in ((900, 30, 6), (400, 35, 1), (300, 250, 3), (7, 30, 6), (1, 30, 6)):
        check_graph(images(generator, kind, rows).cuda(), k1, k2, max_distance)


@pytest.mark.cuda
def test_kernels_that_count_first_or_have_little_scratch(generator, monkeypatch):
    from salcr.kernels import jaccard, launch

    features = images(generator, "hubs", 500).cuda()
    check_graph(features, 20, 6, 0.6)
    monkeypatch.setattr(jaccard, "ROOM", 0)
    monkeypatch.setattr(launch, "SCRATCH_SHARE", 0)
    check_graph(features, 20, 6, 0.6)
