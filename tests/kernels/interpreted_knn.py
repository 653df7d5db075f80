"""Neighbour search by the Triton backend under the interpreter; run by test_interpreter.py."""

import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from salcr.kernels import knn as kernels
from tests.ops.contract import assert_within_budget
from tests.ops.test_knn import near_ties, on_a_grid


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("rows", "width", "k"), [(40, 7, 3), (33, 24, 9), (20, 40, 1), (20, 5, 20)])
def test_neighbours_are_those_of_a_sort(generator, metric, own, rows, width, k):
    queries = torch.randn(rows, width, generator=generator)
    database = None if own else torch.randn(rows + 9, width, generator=generator)
    got = ops.knn(queries, k, database=database, metric=metric, impl="triton")
    exact = reference.knn(queries.double(), k, database=None if own else database.double(), metric=metric)
    assert torch.equal(got[1], exact[1])
    torch.testing.assert_close(got[0], exact[0].float(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("entries", [512, 16])
@pytest.mark.parametrize("own", [True, False])
def test_ties_come_by_index_and_self_first(generator, monkeypatch, own, entries):
    """Lists of 16 overflow in most rows, which then take the other way."""
    monkeypatch.setattr(kernels, "LIST", entries)
    queries = on_a_grid(generator, 36 if own else 20, width=4)
    database = None if own else on_a_grid(generator, 40, width=4)
    for metric, k in (("cosine", 1), ("sqeuclidean", 7), ("cosine", 35)):
        got = ops.knn(queries, k, database=database, metric=metric, impl="triton")
        expected = reference.knn(queries, k, database=database, metric=metric)
        assert torch.equal(got[1], expected[1])
        torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("chunk", "entries"), [(1, 512), (2**28, 32)])
def test_candidates_are_certain_to_hold_the_neighbours(generator, monkeypatch, chunk, entries):
    """Cosines that step by less than float16 resolves: its products rank them wrongly, the certificate knows."""
    monkeypatch.setattr(kernels, "CHUNK_BYTES", chunk)  # 1: a tile of rows at a time
    monkeypatch.setattr(kernels, "LIST", entries)  # 32: too short for the row that all others are near to
    x = F.normalize(near_ties(generator, rows=45, width=16), dim=1)
    exact = (x.double() @ x.double().T).fill_diagonal_(-2)
    half, _, bias, _ = kernels.rounded(x, x, 16, exclude_self=True, sqeuclidean=False)
    rough = (half.double() @ half.double().T - bias).fill_diagonal_(-torch.inf).topk(40).indices
    assert (exact.gather(1, rough).diff() > 1e-6).any()
    scores, indices = x.new_empty(len(x), 8), torch.empty(len(x), 8, dtype=torch.int64)
    sure = ~kernels.search(x, x, 8, scores, indices, exclude_self=True, sqeuclidean=False)
    assert sure.all() if entries == 512 else 0 < sure.sum() < len(x)
    found = exact[sure].gather(1, indices[sure])
    left_out = exact[sure].scatter(1, indices[sure], -2).amax(1)
    assert (found.diff() < 1e-6).all() and (left_out <= found[:, -1] + 1e-6).all()
    torch.testing.assert_close(scores[sure], found.float(), rtol=0, atol=1e-6)
    for k in (9, 40):
        _, indices = ops.knn(x, k, impl="triton")
        found = exact.gather(1, indices[:, 1:])
        left_out = exact.scatter(1, indices, -2).amax(1)
        assert (found.diff() < 1e-6).all() and (left_out <= found[:, -1] + 1e-6).all()


def test_a_full_list_does_not_reach_into_the_next(generator, monkeypatch):
    """The first row is as near to all others; the next ones' lists begin with their only neighbours."""
    monkeypatch.setattr(kernels, "LIST", 32)
    y = F.normalize(torch.randn(90, 16, generator=generator), dim=1)
    x = torch.cat([torch.zeros(1, 16), y[:15]])
    scores, indices = x.new_empty(len(x), 1), torch.empty(len(x), 1, dtype=torch.int64)
    overflowed = kernels.search(x, y, 1, scores, indices, exclude_self=False, sqeuclidean=False)
    assert overflowed.tolist() == [True] + 15 * [False]
    assert indices[1:, 0].tolist() == list(range(15))


def test_a_list_may_be_full(generator, monkeypatch):
    """The nearest of 32 that are as near in float16 is the last entry of a list of 32."""
    monkeypatch.setattr(kernels, "LIST", 32)
    x, other = F.normalize(torch.randn(2, 16, generator=generator), dim=1)
    y = F.normalize(torch.cat([-x.repeat(32, 1), (x + 1e-3 * other).repeat(31, 1), -x.repeat(26, 1), x[None]]), dim=1)
    scores, indices = torch.empty(1, 1), torch.empty(1, 1, dtype=torch.int64)
    assert not kernels.search(x[None], y, 1, scores, indices, exclude_self=False, sqeuclidean=False).any()
    assert indices.item() == 89


def test_rows_of_later_chunks_have_bounds_of_their_own(generator, monkeypatch):
    """The first chunk's rows are short, and so are their errors. Cosines step by a tenth of what float16 takes."""
    monkeypatch.setattr(kernels, "CHUNK_BYTES", 1)
    along = F.normalize(torch.randn(16, generator=generator), dim=0)
    y = F.normalize(torch.randn(45, 16, generator=generator), dim=1)
    y += (1e-5 * torch.arange(45) - y @ along)[:, None] * along
    y = torch.cat([y, -y])  # around the origin, where short rows stay short
    x = torch.cat([1e-3 * along.repeat(16, 1), along[None]])
    scores, indices = torch.empty(17, 4), torch.empty(17, 4, dtype=torch.int64)
    assert not kernels.search(x, y, 4, scores, indices, exclude_self=False, sqeuclidean=False).any()
    assert indices[16].tolist() == [44, 43, 42, 41]


def test_more_rows_than_share_the_columns_in_the_cache(generator):
    x, y = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (150, 40))
    got = ops.knn(x, 2, database=y, impl="triton")
    assert torch.equal(got[1], reference.knn(x.double(), 2, database=y.double())[1])


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_scores_of_rounded_rows_are_within_their_bound(generator, own, near):
    """Up to one number a row, which changes no order; rows of very different lengths, far from the origin."""
    x, y = (torch.randn(n, 48, generator=generator) * torch.logspace(-5, 0, n)[:, None] + 5 for n in (30, 40))
    x = y if own else x
    half_x, half_y, bias, errors = kernels.rounded(x, y, 16, exclude_self=own, sqeuclidean=near)
    rough = half_x.double() @ half_y.double().T - bias.double()
    exact = -torch.cdist(x.double(), y.double()).square() / 2 if near else x.double() @ y.double().T
    off = rough - exact / torch.maximum(x.max(), y.max()).square()
    assert (off.amax(1) - off.amin(1) <= 2 * errors).all()


@pytest.mark.parametrize("queries_are_rounded", [True, False])
def test_the_bound_holds_where_all_rounding_goes_one_way(queries_are_rounded):
    """Every number of one side loses half a step of float16, along long rows among short ones of the other."""
    rows = torch.full((1, 32), 2.0), torch.full((1, 32), 1 + 0.49 * 2**-10)
    x, long = reversed(rows) if queries_are_rounded else rows
    y = torch.cat([long, -long, torch.zeros(6, 32)])
    half_x, half_y, _, errors = kernels.rounded(x, y, 16, exclude_self=False, sqeuclidean=False)
    off = half_x.double() @ half_y.double().T - x.double() @ y.double().T / 4
    assert 2 * errors >= off.max() - off.min() > errors > 0


def test_a_bound_comes_from_every_eighth_column(generator):
    """Columns enough for a sample in groups; lists hold many more than k and far fewer than all."""
    x, y = (F.normalize(torch.randn(n, 16, generator=generator), dim=1) for n in (20, 200))
    assert kernels.sampling(200, 2, 32) == (8, 2)
    got = ops.knn(x, 2, database=y, impl="triton")
    assert torch.equal(got[1], reference.knn(x.double(), 2, database=y.double())[1])


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_long_rows_and_zeros(generator):
    x = torch.randn(40, 6, generator=generator)
    x[::3] *= 1e18  # the longest have squares near the largest number
    x[1] = 0
    _, indices = ops.knn(x, 20, metric="sqeuclidean", impl="triton")
    assert torch.equal(indices[:, 0], torch.arange(40))
    assert (indices.sort(1).values.diff() > 0).all()
    assert torch.equal(ops.knn(torch.zeros(9, 3), 9, impl="triton")[1][3], torch.tensor([3, 0, 1, 2, 4, 5, 6, 7, 8]))
    assert torch.equal(ops.knn(torch.zeros(9, 3), 5, impl="triton")[1][3], torch.tensor([3, 0, 1, 2, 4]))
    assert ops.knn(torch.ones(1, 3), 1, impl="triton")[1].tolist() == [[0]]


@pytest.mark.parametrize(("k", "entries"), [(4, 512), (4, 16), (30, 512)])
def test_propagation(generator, monkeypatch, k, entries):
    """With ties at the k-th value, and with more neighbours than one side has images."""
    monkeypatch.setattr(kernels, "LIST", entries)
    sides = [torch.randn(count, 16, generator=generator) for count in (22, 13)]
    tied = [torch.randint(0, 2, (count, 16), generator=generator).float() * 2 - 1 for count in (24, 16)]
    tied[0][3] = 0
    for visible, infrared in (sides, tied):
        got = ops.propagate_features(visible, infrared, k=k, impl="triton")
        eager = reference.propagate_features(visible, infrared, k=k)
        exact = reference.propagate_features(visible.double(), infrared.double(), k=k)
        for x, wanted, plain in zip(got, exact, eager, strict=True):
            assert_within_budget(x, wanted, plain, terms=16 + 2 * k)
