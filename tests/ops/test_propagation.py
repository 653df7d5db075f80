import numpy as np
import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from salcr.ops.backends.eager import propagation as _eager
from salcr.ops.backends.eager.propagation import propagate_rows
from salcr.reference.published.propagation import propagate_features as published
from tests.ops.contract import LargestTensor, assert_compiles, assert_operator_contract, assert_within_budget


@pytest.fixture(params=["reference", "cpp"])
def impl(request):
    return request.param


def features(generator, visible=23, infrared=17, width=8, dtype=torch.float64):
    shared = torch.randn(width, generator=generator, dtype=torch.float64)
    return tuple(
        (torch.randn(n, width, generator=generator, dtype=torch.float64) + 0.5 * shared).to(dtype)
        for n in (visible, infrared)
    )


def signs(generator, count):
    """Rows of ±1: 16 of them are of norm 4, so cosines are multiples of 1/8 without rounding, full of ties."""
    return torch.randint(0, 2, (count, 16), generator=generator).double() * 2 - 1


def by_hand(visible, infrared, k):
    """Image by image and neighbour by neighbour, as the page reads."""
    v, r = (np.asarray([x / np.linalg.norm(x) if x.any() else x for x in side.numpy()]) for side in (visible, infrared))
    return tuple(torch.from_numpy(np.asarray([one_by_hand(x, (a, b), k) for x in a])) for a, b in ((v, r), (r, v)))


def one_by_hand(x, sides, k):
    total = np.zeros_like(x)
    for side in sides:
        similarity = [float(x @ y) for y in side]
        threshold = sorted(similarity, reverse=True)[min(k, len(side)) - 1]
        kept = [(s, y) for s, y in zip(similarity, side, strict=True) if s >= threshold and s > 0]
        if kept:
            total = total + sum(s * y for s, y in kept) / sum(s for s, _ in kept)
    if not total.any():
        return x
    return total / np.linalg.norm(total)


def assert_equal_pairs(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 8, 17, 20, 23, 1000, 2**62])
def test_propagation_is_the_loop(generator, k, impl):
    visible, infrared = features(generator)
    assert_equal_pairs(ops.propagate_features(visible, infrared, k=k, impl=impl), by_hand(visible, infrared, k))


@pytest.mark.parametrize("k", [1, 4, 9])
def test_ties_at_the_kth_value_are_all_kept(generator, k, impl):
    visible, infrared = signs(generator, 40), signs(generator, 30)
    similarity = (visible @ infrared.T).sort(descending=True).values
    tied = similarity[:, k - 1] == similarity[:, k]
    assert tied.any() and not tied.all()
    assert_equal_pairs(ops.propagate_features(visible, infrared, k=k, impl=impl), by_hand(visible, infrared, k))


def test_negative_similarities_get_no_weight(generator, impl):
    visible = features(generator)[0].abs()
    cones = visible[:20], -visible[3:]
    got = ops.propagate_features(*cones, k=6, impl=impl)
    assert_equal_pairs(got, by_hand(*cones, 6))
    alone, _ = ops.propagate_features(cones[0], torch.zeros_like(cones[1]), k=6, impl=impl)
    torch.testing.assert_close(got[0], alone)


@pytest.mark.parametrize("sides", [(1, 1), (1, 9), (9, 1)])
def test_a_single_image_on_a_side(generator, sides, impl):
    visible, infrared = features(generator, *sides)
    assert_equal_pairs(ops.propagate_features(visible, infrared, impl=impl), by_hand(visible, infrared, 30))


def test_features_that_point_nowhere_are_kept(generator, impl):
    visible, infrared = features(generator)
    visible[4] = 0
    got, other = ops.propagate_features(visible, infrared, k=5, impl=impl)
    assert not got[4].any() and torch.isfinite(got).all() and torch.isfinite(other).all()
    assert_equal_pairs((got, other), by_hand(visible, infrared, 5))
    zeros = torch.zeros(3, 4)
    assert all(not side.any() for side in ops.propagate_features(zeros, zeros[:2], impl=impl))


def test_an_image_without_any_positive_similarity_keeps_its_own_feature(impl):
    """Its inner product even with itself underflows to zero, so neither graph gives it a row."""
    visible = torch.tensor([[1e-38, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    got, _ = ops.propagate_features(visible, torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), k=1, impl=impl)
    assert got[0, 0] > 0 and not got[0, 1:].any() and torch.equal(got[1:], visible[1:])


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float32, 1e-40), (torch.float64, 1e-310)])
def test_the_smallest_positive_similarity_counts(dtype, tiny, impl):
    """Alone in its row it has all the weight, below the smallest normal number too."""
    sides = torch.tensor([[1.0, 0.0]], dtype=dtype), torch.tensor([[tiny, 1.0]], dtype=dtype)
    for got in ops.propagate_features(*sides, impl=impl):
        torch.testing.assert_close(got, torch.full_like(got, 0.5**0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_rows_are_of_unit_norm_and_of_the_input_dtype(generator, dtype, impl):
    visible, infrared = features(generator, dtype=dtype)
    for got, side in zip(
        ops.propagate_features(100 * visible, 0.01 * infrared, k=5, impl=impl), (visible, infrared), strict=True
    ):
        assert got.shape == side.shape and got.dtype == dtype
        torch.testing.assert_close(
            got.double().norm(dim=1), torch.ones(len(side), dtype=torch.float64), rtol=1e-2, atol=0
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_error_budget(generator, dtype, impl):
    visible, infrared = features(generator, 120, 90, 32, dtype)
    exact = reference.propagate_features(visible.double(), infrared.double(), k=9)
    eager = [x.to(dtype) for x in reference.propagate_features(visible.float(), infrared.float(), k=9)]
    for arguments in zip(ops.propagate_features(visible, infrared, k=9, impl=impl), exact, eager, strict=True):
        assert_within_budget(*arguments, terms=32 + 2 * 9)


@pytest.mark.parametrize("entries", [1, 1000, 4096])
def test_no_graph_is_held_as_a_whole(generator, monkeypatch, entries):
    visible, infrared = features(generator, 150, 100, 4)
    sides = [F.normalize(x, dim=1) for x in (visible, infrared)]
    whole = reference.propagate_features(visible, infrared, k=5)
    monkeypatch.setattr("salcr.ops.backends.eager.propagation.BLOCK_ENTRIES", entries)
    with LargestTensor() as largest:
        blocked = tuple(propagate_rows(x, x, y, 5) for x, y in (sides, sides[::-1]))
    assert largest.elements <= max(entries, visible.numel())
    assert_equal_pairs(blocked, whole)


def in_tiles(monkeypatch, rows, columns, size=8):
    monkeypatch.setattr("salcr.ops.backends.cpp._tiles.TILE_ROWS", rows)
    monkeypatch.setattr("salcr.ops.backends.cpp._tiles.TILE_BYTES", rows * columns * size)


@pytest.mark.parametrize("shape", [(1, 1), (7, 11), (16, 300), (64, 32)])
def test_tiles_of_any_shape_give_the_same(generator, monkeypatch, shape):
    sides = signs(generator, 150), signs(generator, 101)
    expected = ops.propagate_features(*sides, k=6, impl="reference")
    in_tiles(monkeypatch, *shape)
    with LargestTensor() as largest:
        got = ops.propagate_features(*sides, k=6, impl="cpp")
    assert largest.elements <= max(shape[0] * shape[1], sides[0].numel())
    assert_equal_pairs(got, expected)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_with_more_ties_than_places(generator, monkeypatch, order):
    """200 equal images on either side, met before or after those that are nearer."""
    in_tiles(monkeypatch, 16, 20)
    far, near = signs(generator, 1).expand(200, 16), signs(generator, 40)
    visible, infrared = torch.cat([far, near][::order]), torch.cat([far, near.flip(0)][::order])
    for k in (1, 5, 50):
        expected = ops.propagate_features(visible, infrared, k=k, impl="reference")
        assert_equal_pairs(ops.propagate_features(visible, infrared, k=k, impl="cpp"), expected)


def test_repeats_bit_for_bit_with_any_number_of_threads(generator):
    """Integers, so that the products do not depend on how many threads compute them."""
    sides = signs(generator, 500), signs(generator, 300)
    one = ops.propagate_features(*sides, k=7, impl="cpp")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for x, y in zip(ops.propagate_features(*sides, k=7, impl="cpp"), one, strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize("entries", [1, 700, 1 << 20])
@pytest.mark.parametrize("k", [1, 6, 39, 100])
def test_the_device_path_is_equal(generator, monkeypatch, k, entries):
    """Its tensors may as well lie on the CPU: ties, zeros, negative products, blocks of few rows or all."""
    monkeypatch.setattr("salcr.ops.backends.eager.propagation.BLOCK_ENTRIES", entries)
    zero = torch.zeros(2, 16, dtype=torch.float64)
    pairs = (
        features(generator, 60, 40),
        (signs(generator, 50), torch.cat([signs(generator, 30), zero])),
        (signs(generator, 40), -signs(generator, 30).abs()),
    )
    for pair in pairs:
        found = _eager.propagate_features(*pair, k=k)
        assert_equal_pairs(found, reference.propagate_features(*pair, k=k))


def clear_rows(own, other, k=30):
    """Rows whose k-th and next neighbour in either graph are further apart than rounding."""
    own, other = F.normalize(own.double()), F.normalize(other.double())
    gaps = [(own @ side.T).topk(k + 1).values[:, -2:].diff().abs()[:, 0] for side in (own, other)]
    return torch.stack(gaps).amin(0) > 1e-5


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(generator, dtype):
    visible, infrared = (x.cuda() for x in features(generator, 1500, 900, 256, dtype))
    got = ops.propagate_features(visible, infrared, impl="eager")
    for x, y in zip(got, ops.propagate_features(visible, infrared, impl="eager"), strict=True):
        assert torch.equal(x, y)
    exact = reference.propagate_features(visible.double(), infrared.double())
    eager = [x.to(dtype) for x in reference.propagate_features(visible.float(), infrared.float())]
    for *results, pair in zip(got, exact, eager, ((visible, infrared), (infrared, visible)), strict=True):
        rows = clear_rows(*pair)
        assert rows.double().mean() > 0.9
        assert_within_budget(*(x[rows] for x in results), terms=256 + 2 * 30)


@pytest.mark.parametrize("k", [1, 6, 100])
def test_the_published_form_is_equal(generator, k):
    visible, infrared = features(generator)
    assert_equal_pairs(published(visible, infrared, k=k), reference.propagate_features(visible, infrared, k=k))
    visible, infrared = signs(generator, 40), -signs(generator, 30).abs()
    assert_equal_pairs(published(visible, infrared, k=k), reference.propagate_features(visible, infrared, k=k))


def test_strided_features_and_no_gradient(generator, impl):
    visible, infrared = features(generator)
    got = ops.propagate_features(visible.T.contiguous().T.requires_grad_(), infrared, k=4, impl=impl)
    assert not any(x.requires_grad for x in got)
    assert_equal_pairs(got, ops.propagate_features(visible, infrared, k=4, impl=impl))


def test_contract(generator):
    for dtype in (torch.float32, torch.float16):
        pair = features(generator, dtype=dtype)
        assert_operator_contract(torch.ops.salcr.propagate_features, (*pair, 4, "auto"), (*pair, 30, "reference"))


def test_compiles(generator):
    assert_compiles(ops.propagate_features, features(generator), features(generator, 40, 31, 9))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(visible=torch.zeros(0, 4)), ValueError, "visible is empty"),
        (dict(infrared=torch.zeros(0, 4)), ValueError, "infrared is empty"),
        (dict(visible=torch.zeros(4)), ValueError, "visible must have 2 axes"),
        (dict(infrared=torch.zeros(2, 3)), ValueError, "differ in width"),
        (dict(infrared=torch.zeros(2, 4, dtype=torch.float64)), TypeError, "infrared is torch.float64"),
        (
            dict(visible=torch.tensor([[0.0] * 4, [torch.nan] * 4])),
            ValueError,
            "visible has NaN or Inf, first in row 1",
        ),
        (dict(infrared=torch.tensor([[torch.inf] * 4])), ValueError, "infrared has NaN or Inf, first in row 0"),
        (dict(impl="numba"), ValueError, "has the backends cpp, triton, eager, reference"),
        (dict(impl="scipy"), ValueError, "impl must be one of"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        ops.propagate_features(**(dict(visible=torch.ones(3, 4), infrared=torch.ones(2, 4)) | change))
