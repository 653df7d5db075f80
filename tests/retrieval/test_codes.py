"""Codes of a large index: made when it is, read in place of its features, grown with it, and never trusted too far."""

import json
import logging

import numpy as np
import pytest
import torch

import salcr
from salcr import ops
from salcr.ops.knn import code_bytes, code_rows
from salcr.retrieval import Index, build_index, codes, kept, nearest
from salcr.retrieval.codes import keep_codes, read_codes
from salcr.retrieval.storage import Storage, locked
from tests.retrieval.indexes import add, index_of, said

ROWS, WIDTH = 600, 24


@pytest.fixture
def log(caplog, monkeypatch):
    """What is said; every index counts as large."""
    monkeypatch.setattr(codes, "LEAST_BYTES", 1)
    with caplog.at_level(logging.INFO, "salcr"):
        yield caplog


@pytest.fixture
def folder(tmp_path, log, generator):
    """An index with codes."""
    index_of(tmp_path / "index", torch.randn(ROWS, WIDTH, generator=generator))
    keep_codes(Storage(tmp_path / "index"))
    assert f"codes for the exact search: {tmp_path / 'index/codes.bin'}, 0.0 MB" in said(log)
    return tmp_path / "index"


def assert_found(folder, generator, *, by_codes):
    """A search finds what products of all features do, and whether that is by codes."""
    storage, queries = Storage(folder), torch.randn(3, WIDTH, generator=generator)
    exact = ops.knn(queries, 3, database=torch.from_numpy(storage.features(0, storage.manifest.rows)))
    whole = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest.ops, "knn", lambda *args, **options: whole.append(1) or exact)
        found = nearest.nearest(storage, queries, 3)
    assert bool(whole) is not by_codes
    assert all(torch.equal(got, expected) for got, expected in zip(found, exact, strict=True))


def test_codes_are_read_in_place_of_features(folder, log, generator):
    assert {path.name for path in folder.iterdir() if "codes" in path.name} == {"codes.bin", "codes.json"}
    assert (folder / "codes.bin").stat().st_size == ROWS * code_bytes(WIDTH)
    assert_found(folder, generator, by_codes=True)
    index = Index.open(folder, device="cpu")
    queries = torch.from_numpy(np.array(index.features[::100], np.float32))
    assert index.nearest(queries, top=1)[1].flatten().tolist() == list(range(0, ROWS, 100))
    many = ROWS // nearest.FEW + 1  # of which codes rule too few out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "knn_by_codes", None)
        assert index.nearest(queries, top=many)[1].shape == (6, many)
    index.verify()
    keep_codes(Storage(folder))
    assert said(log) == ""


def test_an_index_of_pictures_gets_codes_and_so_does_one_that_has_none(pictures, checkpoint, tmp_path, log):
    out = tmp_path / "index"
    build_index([pictures / "day"], checkpoint, out, device="cpu")
    assert read_codes(Storage(out)).shape == (len(Index.open(out)), code_bytes(Index.open(out).features.shape[1]))
    build_index([pictures], checkpoint, out, append=True, device="cpu")
    assert len(read_codes(Storage(out))) == len(Index.open(out)) == 12
    for name in ("codes.bin", "codes.json"):
        (out / name).unlink()
    build_index([pictures], checkpoint, out, append=True, device="cpu")
    assert len(read_codes(Storage(out))) == 12
    Index.open(out).verify()


def test_small_indices_and_those_of_float32_have_none(tmp_path, log, monkeypatch, generator):
    for name, dtype in (("float32", "float32"), ("small", "float16")):
        index_of(tmp_path / name, torch.randn(ROWS, WIDTH, generator=generator), dtype)
    keep_codes(Storage(tmp_path / "float32"))
    monkeypatch.setattr(codes, "LEAST_BYTES", ROWS * WIDTH * 2 + 1)
    keep_codes(Storage(tmp_path / "small"))
    assert said(log) == "" and not list(tmp_path.glob("*/codes.*"))
    monkeypatch.setattr(codes, "LEAST_BYTES", ROWS * WIDTH * 2)
    keep_codes(Storage(tmp_path / "small"))
    assert (tmp_path / "small/codes.bin").exists()


def test_without_the_backend_they_are_neither_made_nor_read(folder, log, generator):
    with salcr.use_backend("eager"):
        assert read_codes(Storage(folder)) is None
        (folder / "codes.json").unlink()
        keep_codes(Storage(folder))
    assert said(log) == "" and not (folder / "codes.json").exists()
    assert_found(folder, generator, by_codes=False)


@pytest.mark.parametrize("left", [0, 5])  # bytes that a killed process has written beyond what counts
def test_an_index_that_grows(folder, log, monkeypatch, generator, left):
    add(folder, torch.randn(50, WIDTH, generator=generator))
    assert_found(folder, generator, by_codes=False)
    text = said(log)
    assert f"{folder / 'codes.bin'} are of other features than the index has now" in text and "--append" in text
    with (folder / "codes.bin").open("ab") as file:
        file.write(bytes(left))
    read = []
    monkeypatch.setattr(codes, "code_rows", lambda rows: read.append(len(rows)) or code_rows(rows))
    keep_codes(Storage(folder))
    assert read == [50] and "codes for the exact search" in said(log)
    assert_found(folder, generator, by_codes=True)
    Index.open(folder, device="cpu").verify()
    assert said(log) == ""


def test_what_a_reader_has_mapped_stays_as_it_was(folder, generator):
    """Codes that are made anew are another file; those that grow are the same one, of which it has a part."""
    before = read_codes(Storage(folder))
    content = before.copy()
    add(folder, torch.randn(50, WIDTH, generator=generator))
    keep_codes(Storage(folder))
    assert np.array_equal(before, content)
    (folder / "codes.json").unlink()
    keep_codes(Storage(folder))
    assert np.array_equal(before, content)


def test_codes_of_another_index_are_made_anew(folder, tmp_path, log, generator):
    for name, count in (("same", ROWS), ("fewer", ROWS // 2), ("more", 2 * ROWS)):
        other = index_of(tmp_path / name, torch.randn(count, WIDTH, generator=generator))
        for file in ("codes.bin", "codes.json"):
            (other / file).write_bytes((folder / file).read_bytes())
        assert_found(other, generator, by_codes=False)
        assert "of other features" in said(log)
        keep_codes(Storage(other))
        assert_found(other, generator, by_codes=True)


@pytest.mark.parametrize("damage", ["short", "gone", "about", "keys", "negative", "format"])
def test_damaged_codes_are_not_read_and_made_anew(folder, log, generator, damage):
    path, about = folder / "codes.bin", folder / "codes.json"
    said_before = json.loads(about.read_text())
    if damage == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "gone":
        path.unlink()
    elif damage == "about":
        about.write_text("[" * 100_000)
    else:
        wrong = {"keys": {"rows": "600"}, "negative": {"rows": -600}, "format": {"format": 2}}[damage]
        about.write_text(json.dumps(said_before | wrong))
    assert_found(folder, generator, by_codes=False)
    assert ("is damaged and not read" in said(log)) == (damage in ("short", "gone"))
    if damage in ("short", "gone"):
        with pytest.raises(ValueError, match=r"codes\.bin is damaged: its checksum is not the one in codes\.json"):
            Index.open(folder, device="cpu").verify()
    keep_codes(Storage(folder))
    assert json.loads(about.read_text()) == said_before
    assert_found(folder, generator, by_codes=True)


def test_wrong_bytes_are_seen_by_their_checksum_or_by_what_they_find(folder, log, generator):
    path = folder / "codes.bin"
    content = np.frombuffer(path.read_bytes(), np.uint8).reshape(ROWS, -1).copy()
    content[5, 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"codes\.bin is damaged"):
        Index.open(folder, device="cpu").verify()
    path.write_bytes(np.roll(content, 1, 0))
    assert_found(folder, generator, by_codes=False)
    assert "is damaged and not read: features that it picks are not those it is of" in said(log)
    keep_codes(Storage(folder))
    Index.open(folder, device="cpu").verify()


def test_a_feature_that_is_no_number_has_no_code(tmp_path, log):
    features = torch.ones(ROWS, WIDTH)
    features[3, 1] = torch.nan
    index_of(tmp_path / "index", features)
    keep_codes(Storage(tmp_path / "index"))
    assert "codes are not kept, which makes a search slower: rows has NaN or Inf" in said(log)
    assert not list((tmp_path / "index").glob("*codes*"))
    with pytest.raises(ValueError, match="database has NaN or Inf, first in row 3"):
        nearest.nearest(Storage(tmp_path / "index"), torch.ones(1, WIDTH), 2)


def test_codes_that_cannot_be_kept(folder, log, monkeypatch, generator):
    (folder / "codes.json").unlink()
    with locked(folder):
        keep_codes(Storage(folder))
    assert "another process writes to the index" in said(log)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(codes, "sync", full)
    keep_codes(Storage(folder))
    assert "codes are not kept, which makes a search slower: [Errno 28] No space left" in said(log)
    assert {path.name for path in folder.iterdir() if "codes" in path.name} == {"codes.bin"}
    assert_found(folder, generator, by_codes=False)


def test_blocks_of_rows_give_the_same_codes(folder, monkeypatch):
    content = (folder / "codes.bin").read_bytes()
    about = kept.read_about(folder / "codes.json", codes.About)
    for rows in (0, 1, 7, ROWS - 1):
        (folder / "codes.json").unlink()
        monkeypatch.setattr(codes, "BLOCK_BYTES", rows * WIDTH * 4)
        keep_codes(Storage(folder))
        assert (folder / "codes.bin").read_bytes() == content
        assert kept.read_about(folder / "codes.json", codes.About) == about


def test_what_takes_the_place_of_a_file_is_on_the_disk_first(tmp_path, monkeypatch):
    path, seen = tmp_path / "codes.bin", []
    path.write_bytes(b"old")
    monkeypatch.setattr(kept, "sync", lambda file: seen.append((file.read(), path.read_bytes())))
    with kept.replaced(path) as temporary:
        temporary.write_bytes(b"new")
    assert seen == [(b"new", b"old")] and path.read_bytes() == b"new"
