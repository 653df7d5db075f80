import numpy as np
import pytest
import torch

from salcr import _C, ops, reference
from salcr.ops.reranking import _rerank_k_reciprocal
from tests.ops.contract import LargestTensor

OPERATORS = [ops.rerank_k_reciprocal, ops.rerank_gnn, ops.rerank_cross_modality, ops.affinity_inference]


def two_modalities(generator, queries=22, images=17, people=5, width=10, shift=1.0, noise=0.5):
    """Features of the same people, with one offset for all features of the second modality; and who is who."""
    centres = torch.randn(people, width, generator=generator, dtype=torch.float64)
    offset = shift * torch.randn(width, generator=generator, dtype=torch.float64)
    sides, ids = [], []
    for count, moved in ((queries, 0), (images, 1)):
        who = torch.arange(count) % people
        sides.append(centres[who] + moved * offset + noise * torch.randn(count, width, generator=generator).double())
        ids.append(who)
    return sides, ids


def order(scores, first=None):
    """Indices by ascending score, equal ones by index, ``first`` before all."""
    return sorted(range(len(scores)), key=lambda j: (j != first, scores[j], j))


def unit(x):
    return (x / x.norm(dim=1, keepdim=True)).numpy()


def jaccard(left, right):
    shared = np.array([[np.minimum(v, w).sum() for w in right] for v in left])
    return 1 - shared / (2 - shared)


def encodings_by_hand(distances, ranks, limits, half, k2):
    """``limits``: how many ranks the sets of full and of half size use."""
    count = len(distances)

    def reciprocal(i, limit):
        return {j for j in ranks[i][:limit] if i in ranks[j][:limit]}

    encodings = np.zeros((count, count))
    for i in range(count):
        base = reciprocal(i, limits)
        chosen = set(base)
        for c in base:
            if len(reciprocal(c, half) & base) / len(reciprocal(c, half)) > 2 / 3 + 1e-9:
                chosen |= reciprocal(c, half)
        for j in chosen:
            encodings[i, j] = np.exp(-distances[i, j])
        encodings[i] /= encodings[i].sum()
    return np.stack([encodings[ranks[i][:k2]].mean(0) for i in range(count)])


@pytest.mark.parametrize(("k1", "k2", "share"), [(20, 6, 0.3), (7, 3, 0.0), (5, 1, 1.0), (2, 9, 0.5), (100, 6, 0.3)])
def test_k_reciprocal_is_the_formula(generator, k1, k2, share):
    (query, gallery), _ = two_modalities(generator)
    x = unit(torch.cat([query, gallery]))
    distances = 2 - 2 * x @ x.T
    distances /= distances.max(1, keepdims=True)
    ranks = [order(row, first=i) for i, row in enumerate(distances)]
    encodings = encodings_by_hand(distances, ranks, k1 + 1, int(np.round(k1 / 2)) + 1, min(k2, k1 + 1))
    expected = (1 - share) * jaccard(encodings, encodings) + share * distances
    got = ops.rerank_k_reciprocal(query, gallery, k1=k1, k2=k2, lambda_value=share)
    torch.testing.assert_close(got, torch.from_numpy(expected)[:22, 22:])


def test_k_reciprocal_holds_no_array_of_all_pairs(generator):
    """Of 10 queries and 3,000 images: 30,000 distances, where all pairs would be nine million."""
    query, gallery = torch.randn(10, 8, generator=generator), torch.randn(3000, 8, generator=generator)
    with LargestTensor() as largest:
        got = _rerank_k_reciprocal(query, gallery, 20, 6, 0.3, 2.0, "auto")
    assert largest.elements <= 3010 * 1024  # the search takes as many rows at a time
    torch.testing.assert_close(got, ops.rerank_k_reciprocal(query, gallery, impl="reference"))


@pytest.mark.parametrize(
    ("operator", "options"),
    [
        (ops.rerank_k_reciprocal, dict(k1=20, k2=6, lambda_value=0.3)),
        (ops.rerank_cross_modality, dict(k=15, eta=0.1)),
        (ops.affinity_inference, dict(k1=4, k2=1)),
    ],
)
def test_the_papers_parameters_are_the_defaults(generator, operator, options):
    (query, gallery), _ = two_modalities(generator, images=24)
    assert torch.equal(operator(query, gallery), operator(query, gallery, **options))


@pytest.mark.parametrize("impl", ["cpp", "eager", "reference"])
@pytest.mark.parametrize(
    ("k1", "k2", "power"),
    [(26, 7, 2.0), (6, 3, 2.0), (3, 3, 1.0), (5, 9, 2.5), (4, 1, 2.0), (1, 1, 2.0), (100, 2, 2.0)],
)
def test_gnn_is_the_formula(generator, monkeypatch, impl, k1, k2, power):
    """Messages from image to image along the edges, a dictionary an image."""
    monkeypatch.setattr("salcr.ops.backends.eager.reranking.BLOCK_ENTRIES", 39 * 7)  # blocks of 7 columns
    (query, gallery), _ = two_modalities(generator)
    x = unit(torch.cat([query, gallery]))
    similarity = x @ x.T
    ranks = [order(-row, first=i)[:k1] for i, row in enumerate(similarity)]
    rows = [{} for _ in x]
    for i, near in enumerate(ranks):
        for j in near:
            rows[i][j] = rows[i].get(j, 0) + 0.5
            rows[j][i] = rows[j].get(i, 0) + 0.5
    for _ in range(2):
        heard = []
        for i, near in enumerate(ranks):
            message = {}
            for j in near[:k2]:
                for column, value in rows[j].items():
                    message[column] = message.get(column, 0) + max(similarity[i, j], 0) ** power * value
            length = sum(value**2 for value in message.values()) ** 0.5
            heard.append({column: value / length for column, value in message.items()})
        rows = heard
    expected = [[1 - sum(v * w.get(c, 0) for c, v in r.items()) for w in rows[22:]] for r in rows[:22]]
    got = ops.rerank_gnn(query, gallery, k1=k1, k2=k2, power=power, impl=impl)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    single = ops.rerank_gnn(query.float(), gallery.float(), k1=k1, k2=k2, power=power, impl=impl)
    torch.testing.assert_close(single.double(), got, rtol=0, atol=1e-5)
    formula = reference.rerank_gnn(query, gallery, k1=k1, k2=k2, power=power)
    torch.testing.assert_close(formula, got, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [("rank", "rank out of range"), ("shape", "shapes do not fit"), ("weights", "shapes do not fit")],
)
def test_the_extension_reads_nothing_out_of_range(spoilt, message):
    ranks = np.tile(np.arange(3, dtype=np.int32), (5, 1))
    ranks[4, 2] = 5 if spoilt == "rank" else 3
    weights = np.ones((5, 4 if spoilt == "weights" else 2), np.float32)
    with pytest.raises(ValueError, match=message):
        _C.graph_cosines(ranks, weights, np.empty((2, 4 if spoilt == "shape" else 3), np.float32), 1)


def blocks(distances, queries):
    """Between queries and gallery, among queries, among gallery images."""
    return distances[:queries, queries:], distances[:queries, :queries], distances[queries:, queries:]


@pytest.mark.parametrize(("k1", "k2", "share"), [(20, 6, 0.3), (5, 1, 1.0), (3, 9, 0.3), (100, 6, 0.0)])
def test_distances_of_unit_rows_are_re_ranked_as_the_rows_are(generator, k1, k2, share):
    (query, gallery), _ = two_modalities(generator)
    x = torch.nn.functional.normalize(torch.cat([query, gallery]), dim=1)
    distances = (x[:, None] - x).norm(dim=2)
    options = dict(k1=k1, k2=k2, lambda_value=share)
    expected = ops.rerank_k_reciprocal(query, gallery, **options)
    torch.testing.assert_close(ops.rerank_distances(*blocks(distances, len(query)), **options), expected)
    squared = ops.rerank_distances(*blocks(distances**2, len(query)), **options, power=1)
    torch.testing.assert_close(squared, expected)
    for power in (1, 3.5):
        expected = ops.rerank_k_reciprocal(query, gallery, **options, power=power)
        assert not torch.allclose(expected, squared)
        parts = blocks(distances, len(query))
        torch.testing.assert_close(ops.rerank_distances(*parts, **options, power=power), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_rows_that_are_one_are_at_distance_0_whatever_the_power(generator, power):
    """Half of their squared distances round to less than 0, of which a root would be NaN."""
    row = torch.randn(1, 40, generator=generator)
    query, gallery = row.repeat(5, 1) * torch.rand(5, 1, generator=generator), torch.cat([row, -row, row.roll(1, 1)])
    got = ops.rerank_k_reciprocal(query, gallery, k1=5, k2=1, power=power)
    assert got.isfinite().all() and got[:, 0].max() < 0.1 < got[:, 1:].min()


def test_distances_need_not_be_a_metrics(generator):
    """Random ones, an image that is far from itself, one that is at 0 from all."""
    distances = torch.rand(30, 30, generator=generator, dtype=torch.float64)
    distances[:, 5], distances[3, 3] = 0, 2
    parts = blocks(distances, 12)
    whole = torch.cat([torch.cat([parts[1], parts[0]], 1), torch.cat([parts[0].T, parts[2]], 1)]).numpy() ** 3
    scaled = (whole / np.maximum(whole.max(0), 1e-300)).T
    ranks = [order(row, first=i) for i, row in enumerate(scaled)]
    encodings = encodings_by_hand(scaled, ranks, 7, 4, 2)
    expected = 0.8 * jaccard(encodings, encodings) + 0.2 * scaled
    got = ops.rerank_distances(*parts, k1=6, k2=2, lambda_value=0.2, power=3)
    torch.testing.assert_close(got, torch.from_numpy(expected)[:12, 12:])


def test_images_that_are_all_in_one_place_stay_there():
    assert not ops.rerank_distances(torch.zeros(2, 3), torch.zeros(2, 2), torch.zeros(3, 3)).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(query_query=torch.zeros(3, 3)), ValueError, r"query_query must be \(2, 2\) to fit query_gallery"),
        (dict(gallery_gallery=torch.zeros(3, 4)), ValueError, r"gallery_gallery must be \(3, 3\) to fit"),
        (dict(query_gallery=-torch.ones(2, 3)), ValueError, r"query_gallery has a negative distance: -1\.0"),
        (dict(query_query=torch.full((2, 2), torch.inf)), ValueError, "query_query has NaN or Inf"),
        (dict(gallery_gallery=torch.zeros(3, 3).double()), TypeError, r"gallery_gallery is torch\.float64"),
        (dict(power=0.0), ValueError, "power must be positive"),
        (dict(lambda_value=2.0), ValueError, "lambda_value must be in"),
    ],
)
def test_bad_distances_are_named(arguments, error, message):
    given = dict(query_gallery=torch.ones(2, 3), query_query=torch.zeros(2, 2), gallery_gallery=torch.zeros(3, 3))
    with pytest.raises(error, match=message):
        ops.rerank_distances(**(given | arguments))


@pytest.mark.parametrize(("k", "eta"), [(15, 0.1), (8, 0.1), (5, 0.0), (3, 0.7), (1, 0.1), (50, 0.1)])
def test_cross_modality_is_the_formula(generator, k, eta):
    """Steps 1 to 5 of the docstring with sets and loops."""
    (query, gallery), _ = two_modalities(generator)
    x = [unit(query), unit(gallery)]
    k2 = max(1, int(np.round(k / 5)))
    near, across = [], []
    for s in (0, 1):
        count, plain = len(x[s]), 2 - 2 * x[s] @ x[s].T
        limit = min(k, count)
        first = [order(row, first=i)[:limit] for i, row in enumerate(plain)]
        encodings = encodings_by_hand(plain, first, limit, min(int(np.round(limit / 2)) + 1, limit), k2)
        mixed = (1 - eta) * jaccard(encodings, encodings) + eta * plain
        near.append([order(row.round(7), first=i)[:k] for i, row in enumerate(mixed)])
        across.append([order(row)[:k] for row in 2 - 2 * x[s] @ x[1 - s].T])
    joint = []
    for s in (0, 1):
        rows = []
        for i, v in enumerate(x[s]):
            parts = [np.zeros(len(x[0])), np.zeros(len(x[1]))]
            for j in near[s][i]:
                if i in near[s][j]:
                    parts[s][j] = np.exp(-(2 - 2 * v @ x[s][j]))
            for j in across[s][i]:
                if set(near[s][i]) & set(across[1 - s][j]):
                    parts[1 - s][j] = np.exp(-(2 - 2 * v @ x[1 - s][j]))
            row = np.concatenate([part / part.sum() if part.any() else part for part in parts])
            rows.append(row / row.sum())
        joint.append([np.mean([rows[j] for j in near[s][i][:k2]], 0) for i in range(len(rows))])
    expected = (1 - eta) * jaccard(*joint) + eta * (2 - 2 * x[0] @ x[1].T)
    got = ops.rerank_cross_modality(query, gallery, k=k, eta=eta)
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("k1", "k2"), [(4, 1), (8, 2), (1, 3), (100, 100)])
def test_affinity_inference_is_the_formula(generator, k1, k2):
    (query, gallery), _ = two_modalities(generator)
    x, y = unit(query), unit(gallery)

    def cut(row, first=None):
        kept = np.zeros(len(row))
        for j in order(-row, first)[:k1]:
            kept[j] = row[j]
        return kept

    images = [cut(row, i) for i, row in enumerate(y @ y.T)]
    images = [np.mean([images[j] for j in order(-(y @ v), i)[:k2]], 0) for i, v in enumerate(y)]
    expected = np.zeros((len(x), len(y)))
    for q, v in enumerate(x):
        affinity = cut(y @ v)
        for g, w in enumerate(images):
            cosine = affinity @ w / np.linalg.norm(affinity) / np.linalg.norm(w)
            expected[q, g] = 2 - v @ y[g] - cosine
    got = ops.affinity_inference(query, gallery, k1=k1, k2=k2)
    torch.testing.assert_close(got, torch.from_numpy(expected))


@pytest.mark.parametrize("operator", OPERATORS)
def test_refinement_helps_where_modalities_differ(generator, operator):
    """Eight images a person and modality, noisy enough that the raw ranking is far from right."""
    sides, ids = two_modalities(generator, 320, 160, people=20, width=24, shift=0.8, noise=1.0)
    raw = 2 - 2 * torch.from_numpy(unit(sides[0]) @ unit(sides[1]).T)
    before, after = (ops.evaluate_ranking(d, *ids, protocol="regdb").mAP for d in (raw, operator(*sides)))
    assert 0.1 < before < after


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", ["one each", "all equal", "one query", "one image", "zero rows"])
def test_degenerate_inputs_are_finite(generator, operator, case):
    (query, gallery), _ = two_modalities(generator)
    if case == "one each":
        query, gallery = query[:1], gallery[:1]
    if case == "one query":
        query = query[:1]
    if case == "one image":
        gallery = gallery[:1]
    if case == "all equal":
        query, gallery = torch.ones_like(query), torch.ones_like(gallery)
    if case == "zero rows":
        query, gallery = query * 0, gallery * 0
    for dtype in (torch.float64, torch.float32):
        got = operator(query.to(dtype), gallery.to(dtype))
        assert got.shape == (len(query), len(gallery)) and got.dtype == dtype
        assert torch.isfinite(got).all() and got.min() > -1e-5 and got.max() < 4


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_refinement_has_a_gradient(generator, operator):
    query, gallery = (x.requires_grad_() for x in two_modalities(generator)[0])
    assert not operator(query, gallery).requires_grad


@pytest.mark.parametrize("operator", OPERATORS)
def test_half_precision_is_computed_in_float32(generator, operator):
    query, gallery = (x.half() for x in two_modalities(generator)[0])
    assert torch.equal(operator(query, gallery), operator(query.float(), gallery.float()))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(query=torch.zeros(0, 3)), ValueError, "query is empty"),
        (dict(gallery=torch.zeros(4)), ValueError, "gallery must have 2 axes"),
        (dict(gallery=torch.zeros(4, 2)), ValueError, "gallery has rows of width 2, query of width 3"),
        (dict(gallery=torch.zeros(4, 3).double()), TypeError, "gallery is torch.float64"),
        (
            dict(query=torch.tensor([[1.0, 1, 1], [torch.nan, 1, 1]])),
            ValueError,
            "query has NaN or Inf, first in row 1",
        ),
        (dict(gallery=torch.full((4, 3), torch.inf)), ValueError, "gallery has NaN"),
        (dict(impl="cuda"), ValueError, "has the backends"),
    ],
)
def test_bad_arguments_are_named(operator, arguments, error, message):
    with pytest.raises(error, match=message):
        operator(**(dict(query=torch.ones(5, 3), gallery=torch.ones(4, 3)) | arguments))


def test_rows_of_one_direction_are_at_no_distance():
    """Their farthest is a rounding: divided by it, other roundings would be distances."""
    row = torch.tensor([[0.71875, -1.015625, 2.109375, -1.796875]])
    assert not ops.rerank_k_reciprocal(row, torch.cat([row, 3 * row]), k1=3, k2=1).any()
