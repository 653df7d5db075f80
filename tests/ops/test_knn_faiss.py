"""Approximate neighbours by faiss: what is returned holds, and most of it is what the exact search returns."""

import math
import sys
import types
from importlib.util import find_spec

import pytest
import torch

from benchmarks.features import pedestrians
from salcr import ops
from salcr.ops._dispatch import missing
from salcr.ops.backends.faiss import knn as backend
from tests import faiss_stand_in
from tests.ops.test_knn import on_a_grid

installed = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")


@pytest.fixture(params=[pytest.param("faiss", marks=installed), "stand-in", "stand-in for a GPU"])
def build(request, monkeypatch):
    """faiss, where it is installed; what stands in for it; and for a build whose GPU is the host's memory."""
    if request.param == "faiss":
        yield request.param
        return
    on_gpu = request.param == "stand-in for a GPU"
    monkeypatch.setitem(sys.modules, "faiss", faiss_stand_in.make(gpus=int(on_gpu)))
    if on_gpu:
        monkeypatch.setattr(backend, "searches_on", lambda device, k: True)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=77))
    missing.cache_clear()
    yield request.param
    missing.cache_clear()


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_most_neighbours_are_found(build, metric, own, dtype):
    x = pedestrians(1300 if own else 2300, 32).to(dtype)
    queries, database = (x, None) if own else (x[2000:], x[:2000])
    got = ops.knn(queries, 10, database=database, metric=metric, method="faiss-ivf")
    exact = ops.knn(queries, 10, database=database, metric=metric)
    assert got[0].dtype == exact[0].dtype and got[0].shape == exact[0].shape
    found = (got[1][:, :, None] == exact[1][:, None, :]).any(2).double().mean().item()
    assert found > (0.75 if build == "faiss" else 0.3), found  # the cells of the others are around any rows
    if own:
        assert torch.equal(got[1][:, 0], torch.arange(len(x)))
    assert (got[1].sort(1).values.diff() > 0).all()
    assert not got[0][:, 0].signbit().any(), "a distance of -0"
    sign = 1 if metric == "sqeuclidean" else -1
    assert (got[0][:, own:].diff() * sign >= 0).all()
    assert (got[0] * sign >= exact[0] * sign - 1e-5).all()  # no nearer than the nearest
    rows, ranks = (got[1][:, :, None] == exact[1][:, None, :]).any(2), (got[1][:, :, None] == exact[1][:, None, :])
    torch.testing.assert_close(got[0][rows], (exact[0][:, None, :] * ranks).sum(2)[rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_where_cells_hold_too_few_rows_are_compared_with_all(build, generator, metric):
    x = on_a_grid(generator, 60, width=5)
    for database, k in ((None, 60), (None, 1), (x[:40], 40)):
        got, exact = (ops.knn(x, k, database=database, metric=metric, method=m) for m in ("faiss-ivf", "exact"))
        assert torch.equal(got[1], exact[1])
        torch.testing.assert_close(got[0], exact[0], rtol=0, atol=1e-6)


def test_a_gpu_is_given_the_addresses_of_what_lies_there(monkeypatch, generator):
    monkeypatch.setitem(sys.modules, "faiss", faiss_stand_in.make(gpus=1))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=77))
    database, queries = torch.randn(50, 8, generator=generator), torch.randn(3, 8, generator=generator)
    scores, indices = backend._search_on_device(queries, database, 4, "cosine")
    (index,) = faiss_stand_in.calls
    rows, asked = ("float", database.data_ptr()), ("float", queries.data_ptr())
    assert index.told[:2] == [("stream", -1, ("stream", 77)), ("device", -1)]  # before anything is computed
    assert index.told[2:4] == [("train", 50, rows), ("add", 50, rows)]
    assert index.told[4][:4] == ("search", 3, asked, 4) and index.told[4][5] == ("idx_t", indices.data_ptr())
    assert (index.d, index.nlist, index.nprobe, index.cp.min_points_per_centroid) == (8, math.isqrt(50), 1, 1)
    products = queries @ database.T
    there = indices >= 0
    torch.testing.assert_close(scores[there], products.gather(1, indices.clamp(min=0))[there])
    assert (scores[~there] == -torch.inf).all()


@pytest.mark.parametrize(
    ("gpus", "device", "k", "on_device"),
    [
        (1, "cuda:1", 2048, True),
        (1, "cuda:1", 2049, False),  # more than it selects
        (1, "cpu", 1, False),
        (0, "cuda:1", 1, False),  # faiss-cpu
    ],
)
def test_features_stay_on_a_gpu_that_faiss_reaches(monkeypatch, gpus, device, k, on_device):
    monkeypatch.setitem(sys.modules, "faiss", faiss_stand_in.make(gpus=gpus))
    assert backend.searches_on(torch.device(device), k) == on_device
    monkeypatch.setattr(sys.modules["faiss"], "get_num_gpus", lambda: 0, raising=False)  # that it sees
    assert not backend.searches_on(torch.device(device), k)


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
