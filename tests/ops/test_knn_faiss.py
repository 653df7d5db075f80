"""Approximate neighbours by faiss: what is returned holds, and most of it is what the exact search returns."""

import sys
from importlib.util import find_spec

import pytest
import torch

from benchmarks.features import pedestrians
from salcr import ops
from salcr.ops._dispatch import missing
from tests.ops.test_knn import on_a_grid

installed = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")


@installed
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_most_neighbours_are_found(metric, own, dtype):
    x = pedestrians(2300, 32).to(dtype)
    queries, database = (x, None) if own else (x[2000:], x[:2000])
    got = ops.knn(queries, 10, database=database, metric=metric, method="faiss-ivf")
    exact = ops.knn(queries, 10, database=database, metric=metric)
    assert got[0].dtype == exact[0].dtype and got[0].shape == exact[0].shape
    found = (got[1][:, :, None] == exact[1][:, None, :]).any(2).double().mean().item()
    assert found > 0.75, found
    if own:
        assert torch.equal(got[1][:, 0], torch.arange(len(x)))
    assert (got[1].sort(1).values.diff() > 0).all()
    sign = 1 if metric == "sqeuclidean" else -1
    assert (got[0][:, own:].diff() * sign >= 0).all()
    assert (got[0] * sign >= exact[0] * sign - 1e-5).all()  # no nearer than the nearest
    rows, ranks = (got[1][:, :, None] == exact[1][:, None, :]).any(2), (got[1][:, :, None] == exact[1][:, None, :])
    torch.testing.assert_close(got[0][rows], (exact[0][:, None, :] * ranks).sum(2)[rows], rtol=1e-5, atol=1e-5)


@installed
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_where_cells_hold_too_few_rows_are_compared_with_all(generator, metric):
    x = on_a_grid(generator, 60, width=5)
    for database, k in ((None, 60), (None, 1), (x[:40], 40)):
        got, exact = (ops.knn(x, k, database=database, metric=metric, method=m) for m in ("faiss-ivf", "exact"))
        assert torch.equal(got[1], exact[1])
        torch.testing.assert_close(got[0], exact[0], rtol=0, atol=1e-6)


def test_missing_faiss_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    missing.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"faiss is not installed \(pip install 'salcr\[faiss\]'\)"):
            ops.knn(torch.eye(3), 2, method="faiss-ivf")
    finally:
        missing.cache_clear()


def test_bad_rows_are_named():
    with pytest.raises(ValueError, match="queries has NaN or Inf, first in row 1"):
        ops.knn(torch.tensor([[1.0], [torch.nan]]), 1, method="faiss-ivf")
