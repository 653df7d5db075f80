import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salcr import ops

BACKENDS = ["numba", "reference"]
PROTOCOLS = ["sysu", "regdb", "llcm", "market1501", "cuhk03"]


def by_hand(distances, query_ids, gallery_ids, query_cams, gallery_cams, protocol, max_rank):
    """docs/method.md, "Ranking metrics", with lists, one query after the other."""
    curves, precisions, penalties, shares = [], [], [], []
    for q, row in enumerate(np.asarray(distances).tolist()):
        ranking = []
        for g in sorted(range(len(row)), key=lambda g: (row[g], g)):
            if protocol == "sysu" and query_cams[q] == 3 and gallery_cams[g] == 2:
                continue
            if (
                protocol in ("llcm", "market1501", "cuhk03")
                and query_cams[q] == gallery_cams[g]
                and query_ids[q] == gallery_ids[g]
            ):
                continue
            ranking.append(int(gallery_ids[g]))
        wanted = int(query_ids[q])
        if wanted not in ranking:
            precisions.append(np.nan)
            penalties.append(np.nan)
            continue
        if protocol == "cuhk03":  # every gallery of one image of each identity, as often as the others
            places = [[n for n, one in enumerate(ranking) if one == identity] for identity in dict.fromkeys(ranking)]
            listings = [[ranking[n] for n in sorted(gallery)] for gallery in itertools.product(*places)]
        else:
            listings = [ranking if protocol in ("regdb", "market1501") else list(dict.fromkeys(ranking))]
        curves.append([np.mean([wanted in listed[: r + 1] for listed in listings]) for r in range(max_rank)])
        shares.append([ranking[: r + 1].count(wanted) / (r + 1) for r in range(max_rank)])
        hits = [rank for rank, identity in enumerate(ranking, 1) if identity == wanted]
        precisions.append(sum(n / rank for n, rank in enumerate(hits, 1)) / len(hits))
        penalties.append(len(hits) / hits[-1])
    means = (float(np.nanmean(x)) for x in (precisions, penalties))
    each = dict(precision=np.mean(shares, 0), query_ap=precisions, query_inp=penalties)
    return np.mean(curves, 0), *means, len(curves), each


def assert_result(result, cmc, mean_precision, mean_penalty, valid, each=None):
    for name, expected in (each or {}).items():
        np.testing.assert_allclose(getattr(result, name), expected, rtol=0, atol=1e-12, err_msg=name)
    assert result.cmc.dtype == np.float64
    np.testing.assert_allclose(result.cmc, cmc, rtol=0, atol=1e-12)
    assert result.mAP == pytest.approx(mean_precision, abs=1e-12)
    assert result.mINP == pytest.approx(mean_penalty, abs=1e-12)
    assert result.valid_queries == valid


@pytest.mark.parametrize("impl", BACKENDS)
def test_sysu_worked_by_hand(impl):
    """Gallery in order of distance: identities 7 8 7 9 8 7, cameras 2 1 1 4 2 5."""
    distances = torch.arange(6.0).repeat(3, 1)
    gallery = [7, 8, 7, 9, 8, 7], [2, 1, 1, 4, 2, 5]
    # Camera 3 loses the camera-2 images: 8 7 9 7, reduced 8 7 9; matches at ranks 2 and 4.
    one = ops.evaluate_ranking(distances[:1], [7], gallery[0], [3], gallery[1], max_rank=3, impl=impl)
    assert_result(one, [0, 1, 1], (1 / 2 + 2 / 4) / 2, 2 / 4, 1)
    # Camera 6 keeps all six: identity 9 is at rank 4 of 6 and third of the reduced 7 8 9.
    one = ops.evaluate_ranking(distances[:1], [9], gallery[0], [6], gallery[1], max_rank=5, impl=impl)
    assert_result(one, [0, 0, 1, 1, 1], 1 / 4, 1 / 4, 1)
    # Together with a query (identity 5) that has no match: it is in no mean.
    result = ops.evaluate_ranking(distances, [7, 5, 9], gallery[0], [3, 3, 6], gallery[1], max_rank=4, impl=impl)
    assert_result(result, [0, 0.5, 1, 1], (1 / 2 + 1 / 4) / 2, (1 / 2 + 1 / 4) / 2, 2)


@pytest.mark.parametrize("impl", BACKENDS)
def test_regdb_worked_by_hand(impl):
    """Identities 1 1 2 3 2 by distance: images are counted, not identities, and cameras are not needed."""
    distances = np.array([[0.1, 0.2, 0.3, 0.4, 0.5]] * 2)
    result = ops.evaluate_ranking(distances, [2, 3], [1, 1, 2, 3, 2], protocol="regdb", max_rank=6, impl=impl)
    assert_result(result, [0, 0, 0.5, 1, 1, 1], ((1 / 3 + 2 / 5) / 2 + 1 / 4) / 2, (2 / 5 + 1 / 4) / 2, 2)


@pytest.mark.parametrize("impl", BACKENDS)
def test_llcm_worked_by_hand(impl):
    """Identities 4 5 4 6 4, cameras 1 1 2 1 1: from camera 1, identity 4 keeps only its third image."""
    distances = torch.arange(5.0).unsqueeze(0)
    arguments = [4, 5, 4, 6, 4], [1], [1, 1, 2, 1, 1]
    result = ops.evaluate_ranking(distances, [4], *arguments, protocol="llcm", max_rank=3, impl=impl)
    assert_result(result, [0, 1, 1], 1 / 2, 1 / 2, 1)
    result = ops.evaluate_ranking(distances, [6], [4, 5, 4, 6, 4], [9], arguments[2], protocol="llcm", impl=impl)
    assert_result(result, [0, 0] + [1] * 18, 1 / 4, 1 / 4, 1)


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_distances_are_ordered_by_gallery_index(impl, protocol):
    distances = torch.zeros(1, 4)
    result = ops.evaluate_ranking(
        distances, [1], [0, 2, 1, 1], [5], [1, 1, 1, 4], protocol=protocol, max_rank=4, impl=impl
    )
    assert_result(result, [0, 0, 1, 1], (1 / 3 + 2 / 4) / 2, 1 / 2, 1)
    infinite = ops.evaluate_ranking(
        distances.fill_(torch.inf), [1], [0, 2, 1, 1], [5], [1, 1, 1, 4], protocol=protocol, max_rank=4, impl=impl
    )
    assert_result(infinite, result.cmc, result.mAP, result.mINP, 1)


@st.composite
def rankings(draw):
    queries, images = draw(st.integers(1, 6)), draw(st.integers(1, 12))

    def integers(count, low, high):
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    distances = integers(queries * images, 0, 8).reshape(queries, images) / 4
    ids = integers(queries, -2, 4), integers(images, -2, 4)
    return distances, *ids, integers(queries, 1, 4), integers(images, 1, 4)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rankings(), st.sampled_from(PROTOCOLS), st.integers(1, 14))
def test_any_ranking_is_the_formula(ranking, protocol, max_rank):
    options = dict(protocol=protocol, max_rank=max_rank)
    *expected, valid, each = by_hand(*ranking, **options) if _has_match(ranking, protocol) else (0, 0, 0, 0, {})
    for impl in BACKENDS:
        if valid == 0:
            with pytest.raises(ValueError, match="no query has a match"):
                ops.evaluate_ranking(*ranking, **options, impl=impl)
        else:
            assert_result(ops.evaluate_ranking(*ranking, **options, impl=impl), *expected, valid, each)


def _has_match(ranking, protocol):
    _, query_ids, gallery_ids, query_cams, gallery_cams = ranking
    match = query_ids[:, None] == gallery_ids
    if protocol == "sysu":
        match &= ~((query_cams[:, None] == 3) & (gallery_cams == 2))
    if protocol in ("llcm", "market1501", "cuhk03"):
        match &= query_cams[:, None] != gallery_cams
    return match.any()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("quantised", [False, True])
def test_backends_agree_on_many_queries_and_runs_to_the_last_bit(rng, protocol, quantised):
    """Enough distances that several threads share them."""
    sizes = (220, 2000) if protocol == "cuhk03" else (1500, 400)
    distances = rng.random(sizes, dtype=np.float32)
    if quantised:
        distances = np.round(distances * 20) / 20
    ids, cams = ([rng.integers(low, high, n) for n in sizes] for low, high in ((0, 40), (1, 7)))
    got, again, expected = (
        ops.evaluate_ranking(distances, *ids, *cams, protocol=protocol, impl=impl)
        for impl in ("numba", "auto", "reference")
    )
    assert np.array_equal(got.cmc, again.cmc) and (got.mAP, got.mINP) == (again.mAP, again.mINP)
    each = {name: getattr(expected, name) for name in ("precision", "query_ap", "query_inp")}
    assert_result(got, expected.cmc, expected.mAP, expected.mINP, expected.valid_queries, each)


@pytest.mark.parametrize("impl", BACKENDS)
def test_cuhk03_worked_by_hand(impl):
    """Identities 4 5 4 6 5 by distance; one image of each: 4 and 5 are drawn from two places each."""
    given = torch.arange(5.0)[None], [4], [4, 5, 4, 6, 5], [9], [1, 1, 2, 1, 1]
    result = ops.evaluate_ranking(*given, protocol="cuhk03", max_rank=4, impl=impl)
    # Its first image is always first; its second is behind 5 with the first image of that, in half of the draws.
    each = dict(precision=[1, 1 / 2, 2 / 3, 2 / 4], query_ap=[(1 + 2 / 3) / 2], query_inp=[2 / 3])
    assert_result(result, [3 / 4, 1, 1, 1], (1 + 2 / 3) / 2, 2 / 3, 1, each)
    same_camera = ops.evaluate_ranking(*given[:3], [2], given[4], protocol="cuhk03", max_rank=2, impl=impl)
    assert_result(same_camera, [1, 1], 1, 1, 1)


@pytest.mark.parametrize("impl", BACKENDS)
def test_figures_of_each_query_and_the_three_that_are_unpacked(impl):
    distances = torch.arange(3.0).repeat(3, 1)
    result = ops.evaluate_ranking(distances, [1, 9, 2], [1, 2, 2], protocol="regdb", max_rank=5, impl=impl)
    np.testing.assert_array_equal(result.query_ap, [1, np.nan, (1 / 2 + 2 / 3) / 2])
    np.testing.assert_array_equal(result.query_inp, [1, np.nan, 2 / 3])
    np.testing.assert_allclose(result.precision, [1 / 2, 1 / 2, 1 / 2, 3 / 8, 3 / 10])
    cmc, mean_precision, mean_penalty = result
    assert cmc is result.cmc and (mean_precision, mean_penalty) == (result.mAP, result.mINP)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_layouts(generator, dtype):
    distances = torch.rand(30, 20, generator=generator).to(dtype)
    ids = [torch.randint(0, 5, (n,), generator=generator) for n in (30, 20)]
    expected = ops.evaluate_ranking(distances.double(), *ids, protocol="regdb", impl="reference")
    turned = distances.mT.contiguous().mT.requires_grad_()
    for got in (turned, distances.double().numpy()[:, ::-1][:, ::-1]):
        result = ops.evaluate_ranking(got, *ids, protocol="regdb")
        assert_result(result, expected.cmc, expected.mAP, expected.mINP, expected.valid_queries)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_distances_in_float64_are_ranked_by_all_their_digits(kind):
    distances = kind([[1 + 2**-40, 1.0]], dtype=torch.float64 if kind is torch.tensor else np.float64)
    assert ops.evaluate_ranking(distances, [5], [4, 5], protocol="regdb", max_rank=1).cmc.tolist() == [1]


def test_the_largest_identity_and_the_longest_curve():
    ids = np.array([2**63 - 1], np.uint64)
    result = ops.evaluate_ranking(torch.zeros(1, 1), ids, ids, protocol="regdb", max_rank=2**20)
    assert result.cmc.shape == (2**20,) and result.mAP == 1
    assert "mAP=1.0" in repr(result) and "query_ap" not in repr(result)


def test_read_only_arrays_are_taken():
    distances = np.eye(3)
    distances.setflags(write=False)
    result = ops.evaluate_ranking(1 - distances, [0, 1, 2], [0, 1, 2], protocol="regdb")
    assert result.mAP == 1 and result.cmc.tolist() == [1] * 20
    assert ops.evaluate_ranking(distances, [0, 1, 2], [0, 1, 2], protocol="regdb").mAP == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(distances=torch.zeros(0, 3)), ValueError, "distances is empty"),
        (dict(distances=torch.zeros(3)), ValueError, "distances must have 2 axes"),
        (dict(distances=[[0.0]]), TypeError, "distances must be a torch.Tensor"),
        (dict(distances=torch.zeros(2, 3, dtype=torch.int64)), TypeError, "distances must be floating"),
        (dict(distances=torch.tensor([[0.0] * 3, [0, torch.nan, 0]])), ValueError, "distances has NaN, first in row 1"),
        (dict(query_ids=[0, 1, 2]), ValueError, r"query_ids must have shape \(2,\)"),
        (dict(gallery_ids=torch.zeros(3)), TypeError, "gallery_ids must be integers, got torch.float32"),
        (dict(gallery_ids=[0.0, 1.0, 1.0]), TypeError, "gallery_ids must be integers, got float64"),
        (dict(query_ids=np.array([0, 2**63], np.uint64)), ValueError, r"query_ids must be below 2\*\*63, got 92233"),
        (dict(max_rank=2**20 + 1), ValueError, "max_rank must be between 1 and 1048576"),
        (dict(query_cams=None), ValueError, "query_cams is None: without cameras pass protocol='regdb'"),
        (dict(gallery_cams=[1]), ValueError, "gallery_cams must have shape"),
        (dict(query_ids=[7, 8]), ValueError, "no query has a match"),
        (
            dict(protocol="market"),
            ValueError,
            "protocol must be one of sysu, regdb, llcm, market1501, cuhk03, got 'market'",
        ),
        (dict(impl="cuda"), ValueError, "has the backends numba, reference"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    good = dict(
        distances=torch.zeros(2, 3), query_ids=[0, 1], gallery_ids=[0, 1, 1], query_cams=[3, 6], gallery_cams=[1, 4, 5]
    )
    with pytest.raises(error, match=message):
        ops.evaluate_ranking(**(good | arguments))
