"""From features to pseudo labels by the Triton backend under the interpreter; run by test_interpreter.py."""

import pytest
import torch

from salcr import ops, reference
from salcr.kernels import knn as kernels
from tests.ops.test_neighbors import near_ties, on_a_grid


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("rows", "width", "k"), [(50, 7, 3), (33, 24, 9), (70, 40, 1), (20, 5, 20)])
def test_neighbours_are_those_of_a_sort(generator, metric, own, rows, width, k):
    queries = torch.randn(rows, width, generator=generator)
    database = None if own else torch.randn(rows + 9, width, generator=generator)
    got = ops.knn(queries, k, database=database, metric=metric, impl="triton")
    exact = reference.knn(queries.double(), k, database=None if own else database.double(), metric=metric)
    assert torch.equal(got[1], exact[1])
    torch.testing.assert_close(got[0], exact[0].float(), rtol=1e-5, atol=2e-6)
    again = ops.knn(queries, k, database=database, metric=metric, impl="triton")
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.parametrize("capacity", [64, 3])
@pytest.mark.parametrize("own", [True, False])
def test_ties_come_by_index_and_self_first(generator, monkeypatch, own, capacity):
    """With room for few candidates, nearly all rows take the other way."""
    monkeypatch.setattr(kernels, "CAPACITY", capacity)
    queries = on_a_grid(generator, 60, width=4)
    database = None if own else on_a_grid(generator, 50, width=4)
    for metric in ("cosine", "sqeuclidean"):
        for k in (1, 7, 50):
            got = ops.knn(queries, k, database=database, metric=metric, impl="triton")
            expected = reference.knn(queries, k, database=database, metric=metric)
            assert torch.equal(got[1], expected[1])
            torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2**28])
def test_candidates_are_certain_to_hold_the_neighbours(generator, monkeypatch, chunk):
    """Cosines that step by less than float16 resolves: what its products rank first is not what float32 does."""
    monkeypatch.setattr(kernels, "CHUNK_BYTES", chunk)  # 1: a tile of rows at a time
    x = torch.nn.functional.normalize(near_ties(generator, rows=120, width=16), dim=1)
    exact = (x.double() @ x.double().T).fill_diagonal_(2)
    halves = (x.half().float() @ x.half().float().T).fill_diagonal_(2)
    assert (exact.topk(9).indices.sort(1).values != halves.topk(9).indices.sort(1).values).any()
    scores, indices, missing = kernels.search(x.contiguous(), x.contiguous(), 8, own=True, near=False)
    assert not missing.all()
    found = exact.gather(1, indices)[~missing]
    left_out = exact.fill_diagonal_(-2).scatter(1, indices, -2).amax(1)[~missing]
    assert (found.diff() < 1e-6).all() and (left_out <= found[:, -1] + 1e-6).all()
    torch.testing.assert_close(scores[~missing], found.float(), rtol=0, atol=1e-6)


def test_overflow_and_zeros(generator):
    x = torch.randn(40, 6, generator=generator)
    x[::3] *= 1e30
    x[1] = 0
    values, indices = ops.knn(x, 20, metric="sqeuclidean", impl="triton")
    assert torch.equal(indices[:, 0], torch.arange(40))
    assert (indices.sort(1).values.diff() > 0).all()
    assert torch.equal(ops.knn(torch.zeros(9, 3), 9, impl="triton")[1][3], torch.tensor([3, 0, 1, 2, 4, 5, 6, 7, 8]))
    assert ops.knn(torch.ones(1, 3), 1, impl="triton")[1].tolist() == [[0]]
