"""The approximate search of an index: cells are made once, kept, and taken or made anew when the index changes."""

import json
import logging
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from salcr.retrieval import Index, cells
from salcr.retrieval.cells import open_cells
from salcr.retrieval.storage import Storage, locked
from tests import faiss_stand_in
from tests.retrieval.indexes import add, index_of, said

WIDTH = 8
needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")


@pytest.fixture(params=[pytest.param("faiss", marks=needs_faiss), "stand-in"])
def build(request, monkeypatch):
    """The tests run with faiss, where it is installed, and with what stands in for it everywhere."""
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "faiss", faiss_stand_in.make())
    return request.param


@pytest.fixture
def folder(tmp_path, build, generator):
    """An index of 20 groups of 20 features."""
    return index_of(tmp_path / "index", groups(generator))


def groups(generator, count=20):
    centres = torch.randn(count, WIDTH, generator=generator).repeat_interleave(20, 0)
    return F.normalize(centres + 0.1 * torch.randn(20 * count, WIDTH, generator=generator)).numpy()


@pytest.fixture
def log(caplog):
    with caplog.at_level(logging.INFO, "salcr"):
        yield caplog


def test_cells_are_made_once_and_read_as_they_lie(folder, build, log):
    first = open_cells(Storage(folder))
    text = said(log)
    assert f"cells for the approximate search of {folder} are made, once: 20 for 400 features" in text
    assert f"cells: {folder / 'cells.faiss'}, " in text
    assert {path.name for path in folder.iterdir() if "cells" in path.name} == {"cells.faiss", "cells.json"}
    again = open_cells(Storage(folder))
    assert said(log) == "" and again.recall == first.recall
    if build == "stand-in":
        assert faiss_stand_in.reads == [3]
    else:
        import faiss

        assert isinstance(faiss.downcast_InvertedLists(again._index.invlists), faiss.OnDiskInvertedLists)
    asked = torch.from_numpy(Storage(folder).features(0, 400)[::50].astype(np.float32))
    for one, other in zip(first.nearest(asked, 5)[0], again.nearest(asked, 5)[0], strict=True):
        assert torch.equal(one, other)


def test_what_is_found_has_its_exact_score(folder, generator):
    index = Index.open(folder, device="cpu")
    queries = torch.from_numpy(groups(generator, 2))
    scores, rows = index.nearest(queries, top=10, approximate=True)
    recall = index.recall
    exact_scores, exact = index.nearest(queries, top=10)
    assert index.recall is None and rows.dtype == torch.int64
    assert (scores.diff() <= 0).all() and (rows.sort(1).values.diff() > 0).all()
    unit = F.normalize(torch.from_numpy(np.array(index.features)).double(), dim=1)
    expected = (F.normalize(queries.double(), dim=1)[:, None] * unit[rows]).sum(2)
    torch.testing.assert_close(scores, expected.float(), rtol=0, atol=1e-6)
    assert (scores[:, 0] <= exact_scores[:, 0] + 1e-6).all()
    assert recall == pytest.approx(float((exact[:32, :, None] == rows[:32, None]).any(2).float().mean()))


def test_few_queries_are_told_the_recall_on_images_of_the_index(folder, monkeypatch):
    kept, storage = open_cells(Storage(folder)), Storage(folder)
    chosen = np.linspace(0, 399, 32).astype(np.int64)
    queries = torch.from_numpy(storage.features(0, 400)[chosen].astype(np.float32))
    _, found = kept.nearest(queries, 21)[0]
    hits = []
    for row, mine, exact in zip(chosen, found, cells.nearest(storage, queries, 21)[1], strict=True):
        others = set(exact.tolist()) - {int(row)}
        hits.append(len(others & set(mine.tolist())) / len(others))
    assert kept.recall == pytest.approx(np.mean(hits)) and 0.5 < kept.recall <= 1
    assert (kept._index.nlist, kept._index.nprobe) == (20, 2)  # a sixteenth, rounded up
    monkeypatch.setattr(cells, "nearest", None)  # a search of few queries makes no exact one beside it
    assert kept.nearest(queries[:3], 5)[1] == kept.recall


@pytest.mark.parametrize("full", [False, True])
def test_a_build_for_gpus_is_given_the_cells_once(folder, log, monkeypatch, full):
    """The GPU is the host's memory."""
    module = faiss_stand_in.make(gpus=1)
    monkeypatch.setitem(sys.modules, "faiss", module)
    kept = open_cells(Storage(folder))
    expected = kept.nearest(torch.eye(WIDTH), 5)
    monkeypatch.setattr(cells, "searches_on", lambda device, k: k <= 40)
    copies = []

    def copy(resources, device, index):
        copies.append(device)
        if full:
            raise RuntimeError("Error in faiss:\n out of memory")
        return faiss_stand_in.index_cpu_to_gpu(resources, device, index)

    monkeypatch.setattr(module, "index_cpu_to_gpu", copy)
    said(log)
    for _ in range(2):
        found = kept.nearest(torch.eye(WIDTH), 5)
        assert torch.equal(found[0][1], expected[0][1]) and found[1] == expected[1]
    assert kept.nearest(torch.eye(WIDTH), 11)[0][1].shape == (WIDTH, 11)  # too many for a GPU
    assert copies == [-1] and len(faiss_stand_in.calls) == (0 if full else 1)
    assert said(log).count("cells are searched on the CPU: Error in faiss: out of memory") == full


def test_where_cells_hold_too_few_all_features_are_searched(folder):
    index = Index.open(folder, device="cpu")
    queries = torch.eye(WIDTH)[:2]
    found, exact = (index.nearest(queries, top=400, approximate=some) for some in (True, False))
    assert torch.equal(found[1], exact[1])


def test_an_index_that_grows(folder, log, generator):
    open_cells(Storage(folder))
    add(folder, groups(generator, 5))
    said(log)
    grown = open_cells(Storage(folder))
    text = said(log)
    assert f"{folder} has grown from 400 to 500 features: its cells take the new ones" in text and "made" not in text
    about = json.loads((folder / "cells.json").read_text())
    assert (about["rows"], about["trained_rows"]) == (500, 400)
    new = torch.from_numpy(Storage(folder).features(499, 500).astype(np.float32))
    assert 499 in grown.nearest(new, 20)[0][1]
    assert 499 in open_cells(Storage(folder)).nearest(new, 20)[0][1] and said(log) == ""
    add(folder, groups(generator, 20))
    open_cells(Storage(folder))
    assert "has grown from 500 to 900 features: cells are made anew: 30 for 900 features" in said(log)
    assert json.loads((folder / "cells.json").read_text())["trained_rows"] == 900


def test_other_features_in_the_same_place(folder, tmp_path, log, generator):
    open_cells(Storage(folder))
    for count, moved in ((20, "same"), (10, "fewer"), (25, "more")):
        other = index_of(tmp_path / moved, groups(generator, count))
        for name in ("cells.faiss", "cells.json"):
            (other / name).write_bytes((folder / name).read_bytes())
        said(log)
        open_cells(Storage(other))
        assert f"the features of {other} are not those its cells are of: cells are made anew" in said(log)


def test_an_index_put_back_to_what_it_was(folder, log, generator):
    """Its files still hold the features that do not count any more."""
    manifest = folder / "manifest.json"
    before = manifest.read_bytes()
    add(folder, groups(generator, 5))
    open_cells(Storage(folder))
    manifest.write_bytes(before)
    said(log)
    open_cells(Storage(folder))
    assert "are not those its cells are of: cells are made anew: 20 for 400 features" in said(log)


def test_cells_are_opened_once(folder, monkeypatch):
    index, opened = Index.open(folder, device="cpu"), []
    monkeypatch.setattr("salcr.retrieval.index.open_cells", lambda of: opened.append(of) or open_cells(of))
    for _ in range(2):
        index.nearest(torch.eye(WIDTH), top=3, approximate=True)
    assert len(opened) == 1


@pytest.mark.parametrize("damage", ["short", "head", "gone", "about", "keys", "recall"])
def test_damaged_files_are_made_anew(folder, log, damage):
    whole = open_cells(Storage(folder))
    path, about = folder / "cells.faiss", folder / "cells.json"
    content = bytearray(path.read_bytes())
    if damage == "short":
        path.write_bytes(content[:-1])
    elif damage == "head":
        content[-400 * (WIDTH + 8) - 1] ^= 1  # its last byte
        path.write_bytes(content)
    elif damage == "gone":
        path.unlink()
    elif damage == "about":
        about.write_text("[" * 50_000)
    else:
        wrong = {"rows": "400"} if damage == "keys" else {"recall": 1.5}
        about.write_text(json.dumps(json.loads(about.read_text()) | wrong))
    said(log)
    again = open_cells(Storage(folder))
    assert "are made" in said(log) and again.recall == whole.recall
    open_cells(Storage(folder))
    assert said(log) == ""


@needs_faiss
def test_rows_that_a_damaged_file_names_and_the_index_has_not_are_left_out(tmp_path, generator):
    folder = index_of(tmp_path / "index", groups(generator))
    open_cells(Storage(folder))
    content = bytearray((folder / "cells.faiss").read_bytes())
    data = 400 * (WIDTH + 8)
    for largest in (255, 0):  # the other names the first row again and again
        some = torch.randint(0, largest + 1, (data,), generator=generator, dtype=torch.uint8)
        content[-data:] = some.numpy().tobytes()
        (folder / "cells.faiss").write_bytes(content)
        index = Index.open(folder, device="cpu")
        queries = torch.eye(WIDTH)
        assert torch.equal(index.nearest(queries, top=5, approximate=True)[1], index.nearest(queries, top=5)[1])


def test_equal_scores_come_in_the_order_of_their_rows(tmp_path, build, generator):
    features = np.concatenate([groups(generator, 4)] * 3)
    index = Index.open(index_of(tmp_path / "index", features), device="cpu")
    rows = index.nearest(torch.from_numpy(features[:40:9]), top=9, approximate=True)[1]
    assert (rows[:, [1, 2, 4, 5, 7, 8]] - rows[:, [0, 1, 3, 4, 6, 7]] == 80).all()


def test_cells_that_cannot_be_kept_serve_once(folder, log, monkeypatch):
    def full(index, path):
        with open(path, "wb") as file:
            file.write(b"half")
        raise RuntimeError("Error in faiss:\n no space left")

    monkeypatch.setattr(sys.modules.get("faiss") or __import__("faiss"), "write_index", full)
    found = open_cells(Storage(folder)).nearest(torch.eye(WIDTH), 3)[0]
    assert "the cells are not kept, the next search makes them again: Error in faiss: no space left" in said(log)
    assert found[1].shape == (WIDTH, 3) and not [path for path in folder.iterdir() if "cells" in path.name]


def test_cells_are_not_kept_while_another_process_writes(folder, log):
    with locked(folder):
        open_cells(Storage(folder))
    assert "are not kept, the next search makes them again: another process writes to the index" in said(log)
    open_cells(Storage(folder))
    assert (folder / "cells.faiss").exists()


def test_one_feature_and_a_wrong_one(tmp_path, build):
    folder = index_of(tmp_path / "index", np.eye(1, WIDTH), "float32")
    index = Index.open(folder, device="cpu")
    assert index.nearest(torch.ones(2, WIDTH), approximate=True)[1].tolist() == [[0], [0]] and index.recall == 1
    with pytest.raises(ValueError, match=r"features must be \[Q, 8\], got \[2, 9\]"):
        index.nearest(torch.ones(2, 9), approximate=True)
    with pytest.raises(ValueError, match="queries has NaN or Inf, first in row 0"):
        index.nearest(torch.full((1, WIDTH), torch.nan), approximate=True)
    wrong = np.ones((2, WIDTH))
    wrong[1, 3] = np.inf
    add(folder, wrong)
    with pytest.raises(ValueError, match="has features with NaN or Inf"):
        Index.open(folder, device="cpu").nearest(torch.ones(2, WIDTH), approximate=True)


def test_without_faiss_it_says_how_to_get_it(tmp_path, monkeypatch):
    folder = index_of(tmp_path / "index", np.eye(3, WIDTH), "float32")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'salcr\[faiss\]'"):
        Index.open(folder, device="cpu").nearest(torch.ones(1, WIDTH), approximate=True)
