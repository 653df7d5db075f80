import re
from pathlib import Path

import numpy as np
import pytest
import torch

import salcr
from salcr import ops
from salcr.retrieval import nearest
from salcr.retrieval.storage import Storage
from tests.retrieval.indexes import index_of


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("top", [1, 7, 40])
@pytest.mark.parametrize("backend", ["auto", "eager"])  # of which the first reads float16 in one search
def test_blocks_together_give_what_one_search_gives(tmp_path, monkeypatch, generator, dtype, top, backend):
    features = torch.randn(40, 8, generator=generator)
    storage = Storage(index_of(tmp_path / "index", features.numpy(), dtype))
    stored = features.to(getattr(torch, dtype)).float()
    queries = torch.randn(3, 8, generator=generator)
    values, rows = ops.knn(queries, top, database=stored)
    for blocks in (1, 7, 13, 40):
        monkeypatch.setattr(nearest, "BLOCK_BYTES", blocks * 8 * 4)
        with salcr.use_backend(backend):
            found, at = nearest.nearest(storage, queries, top)
        torch.testing.assert_close(found, values)
        assert torch.equal(at, rows)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_equal_scores_come_in_the_order_of_their_rows(tmp_path, monkeypatch, dtype):
    features = torch.eye(4).repeat(5, 1)  # every product is exactly 0 or 1, in blocks of any size
    storage = Storage(index_of(tmp_path / "index", features.numpy(), dtype))
    for blocks in (1, 3, 20):
        monkeypatch.setattr(nearest, "BLOCK_BYTES", blocks * 4 * 4)
        values, rows = nearest.nearest(storage, torch.eye(4)[1:2], 8)
        assert rows.tolist() == [[1, 5, 9, 13, 17, 0, 2, 3]]
        assert values.tolist() == [[1.0] * 5 + [0.0] * 3]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_feature_that_is_no_number_is_an_error(tmp_path, dtype):
    features = np.ones((5, 4), np.float32)
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match="has NaN or Inf, first in row 3"):
        nearest.nearest(Storage(index_of(tmp_path / "index", features, dtype)), torch.ones(1, 4), 2)


def test_memory_does_not_grow_with_the_index(tmp_path, monkeypatch):
    """The file has holes in place of features, 80 MB of them, so that it takes nothing on the disk."""
    rows, width, block = 40_000, 1024, 1 << 22
    storage = Storage(index_of(tmp_path / "index", np.empty((0, width)), "float16"))
    path = tmp_path / "index/features.npy"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + rows * width * 2)
    monkeypatch.setattr(storage, "manifest", storage.manifest.__class__(**vars(storage.manifest) | {"rows": rows}))
    monkeypatch.setattr(nearest, "BLOCK_BYTES", block)
    queries = torch.ones(2, width)
    nearest.nearest(storage, queries, 5)  # what a first call loads
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _resident("VmRSS")
    _, found = nearest.nearest(storage, queries, 5)
    assert found.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert _resident("VmHWM") - before < 8 * block < rows * width * 2 / 2


def _resident(what):
    return int(re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
