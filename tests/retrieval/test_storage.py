import json
import os
import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest

from salcr.retrieval import storage
from salcr.retrieval.storage import FEATURES, INFRARED, MANIFEST, PATHS, Manifest, Storage
from tests.retrieval.indexes import add, index_of

EMPTY = Manifest("a" * 64, "/nets/c.pt", 32, 16, "auto", "float16", 3)


def rows(start, end):
    """Paths, modalities and features of images ``start`` to ``end``."""
    features = np.arange(3 * start, 3 * end).reshape(-1, 3)
    return [f"/images/{i}\n\udce9.png" for i in range(start, end)], np.arange(start, end) % 2 == 0, features


def filled(folder):
    folder.mkdir()
    with Storage.create(folder, EMPTY).writing() as writer:
        writer.add(*rows(0, 2))
        writer.commit(complete=False)
        writer.add(*rows(2, 5))
        writer.commit(complete=True)
    return Storage(folder)


def assert_holds(index, count):
    paths, infrared, features = rows(0, count)
    assert index.manifest.rows == count
    assert list(index.paths()) == paths and index.infrared().tolist() == infrared.tolist()
    assert np.array_equal(index.features(0, count), features)
    index.verify()


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PIECE", 7)  # paths are read in several
    index = filled(tmp_path / "index")
    assert_holds(index, 5)
    assert index.path(3) == "/images/3\n\udce9.png"
    assert np.array_equal(index.features(1, 3), rows(1, 3)[2])
    loaded = np.load(tmp_path / "index" / FEATURES, mmap_mode="r")
    assert loaded.dtype == np.float16 and np.array_equal(loaded, rows(0, 5)[2])
    assert np.load(tmp_path / "index" / INFRARED).tolist() == rows(0, 5)[1].tolist()


def test_an_empty_index(tmp_path):
    tmp_path.joinpath("index").mkdir()
    assert_holds(Storage.create(tmp_path / "index", EMPTY), 0)


def test_what_was_not_committed_does_not_count_and_is_cut_off(tmp_path):
    index = filled(tmp_path / "index")
    for garbage in (b"\x00" * 4, b"\xff" * 1000):
        for name in (FEATURES, INFRARED, PATHS):
            with (tmp_path / "index" / name).open("ab") as file:
                file.write(garbage)
        with Storage(tmp_path / "index").writing() as writer:
            writer.add(*rows(5, 7))
            writer.close()
        assert_holds(Storage(tmp_path / "index"), 5)
    with Storage(tmp_path / "index").writing() as writer:
        writer.add(*rows(5, 7))
        writer.commit(complete=True)
    assert_holds(Storage(tmp_path / "index"), 7)
    assert_holds(index, 5)  # one that was opened before


def test_temporary_files_of_killed_processes_go_with_the_next_writing(tmp_path):
    filled(tmp_path / "index")
    for name in (".manifest.json.123.part", ".cells.faiss.part"):
        (tmp_path / "index" / name).write_bytes(b"half")
    assert_holds(Storage(tmp_path / "index"), 5)
    assert len(list((tmp_path / "index").glob(".*.part"))) == 2  # a reader removes nothing
    with Storage(tmp_path / "index").writing():
        assert not list((tmp_path / "index").glob(".*.part"))


@pytest.mark.parametrize("step", range(1, 7))  # two headers, three files flushed, the manifest
def test_a_process_killed_in_a_commit_leaves_what_was_there(tmp_path, step, monkeypatch):
    filled(tmp_path / "index")
    calls = []

    def killing(function):
        def call(*arguments):
            calls.append(function)
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return call

    def commit():
        for name in ("_rewrite_header", "sync", "write_atomically"):
            monkeypatch.setattr(storage, name, killing(getattr(storage, name)))
        with Storage(tmp_path / "index").writing() as writer:
            writer.add(*rows(5, 9))
            writer.commit(complete=True)

    assert exit_status_of_child(commit) == -signal.SIGKILL
    assert_holds(Storage(tmp_path / "index"), 5)
    with Storage(tmp_path / "index").writing() as writer:
        writer.add(*rows(5, 6))
        writer.commit(complete=True)
    assert_holds(Storage(tmp_path / "index"), 6)


def exit_status_of_child(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, none of which the child needs
        child = os.fork()
    if child == 0:
        try:
            function()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    filled(tmp_path / "index")

    def full(file):
        raise OSError(28, "No space left on device")

    with Storage(tmp_path / "index").writing() as writer:
        writer.add(*rows(5, 6))
        monkeypatch.setattr(storage, "sync", full)
        with pytest.raises(OSError, match=r"cannot write the file: No space left on device: '.*paths\.jsonl'"):
            writer.commit(complete=True)
    assert_holds(Storage(tmp_path / "index"), 5)


def test_one_process_writes_at_a_time(tmp_path):
    index = filled(tmp_path / "index")
    with index.writing(), pytest.raises(BlockingIOError, match="another process writes to the index"):
        index.writing().__enter__()


def test_what_another_process_wrote_since_an_index_was_opened_is_not_cut_off(tmp_path):
    opened = filled(tmp_path / "index")
    with Storage(tmp_path / "index").writing() as writer:
        writer.add(*rows(5, 8))
        writer.commit(complete=True)
    with pytest.raises(BlockingIOError, match="another process has written to the index"):
        opened.writing().__enter__()
    assert_holds(Storage(tmp_path / "index"), 8)


@pytest.mark.parametrize("name", [FEATURES, INFRARED, PATHS])
def test_files_that_are_short_or_changed_are_named(tmp_path, name):
    filled(tmp_path / "index")
    path = tmp_path / "index" / name
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(ValueError, match=f"{name} is damaged: it"):
        Storage(tmp_path / "index").verify()
    with pytest.raises(ValueError, match=f"{name} is damaged: it"):
        Storage(tmp_path / "index").writing().__enter__()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{name} is damaged: it has .* bytes, and manifest.json counts"):
        Storage(tmp_path / "index")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        Storage(tmp_path / "index")


@pytest.mark.parametrize("name", [FEATURES, INFRARED])
def test_headers_of_other_arrays_are_refused(tmp_path, name):
    filled(tmp_path / "index")
    own = np.load(tmp_path / "index" / name)
    wider, turned = np.zeros((*own.shape, 2), own.dtype), np.zeros(own.shape, own.dtype, order="F")
    for other in (np.zeros((5, 8), np.float32), wider, *([turned] if own.ndim > 1 else [])):
        np.save(tmp_path / "index" / name, other)
        with pytest.raises(ValueError, match=f"{name} is damaged: its header is not that of"):
            Storage(tmp_path / "index")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 6}, "is damaged: it has"),
        ({"rows": 4}, "paths.jsonl is damaged: it is not what manifest.json was written for"),
        ({"rows": -1}, "manifest.json is damaged: rows is no int, or out of range"),
        ({"rows": True}, "rows is no int"),
        ({"rows": 1 << 70}, "rows is no int, or out of range"),
        ({"complete": 1}, "complete is no bool"),
        ({"dtype": "object"}, "settings are none that an index is made with"),
        ({"dimension": 0}, "settings are none that an index is made with"),
        ({"height": 10**9}, "settings are none that an index is made with"),
        ({"format": 2}, "is of format '2', and this version reads 1"),
        ({"colour": 1}, "keys are not those of an index"),
    ],
)
def test_manifests_that_cannot_be(tmp_path, change, message):
    filled(tmp_path / "index")
    path = tmp_path / "index" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        Storage(tmp_path / "index")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 50_000, b" " * 100_000])
def test_manifests_that_are_none(tmp_path, content):
    filled(tmp_path / "index")
    (tmp_path / "index" / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest.json is damaged: it is no JSON object"):
        Storage(tmp_path / "index")


def test_a_folder_without_an_index(tmp_path):
    assert not Storage.exists(tmp_path)
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=f"no index in {folder}: it has no manifest.json"):
            Storage(folder)


def test_a_path_that_is_none_is_named(tmp_path):
    index = filled(tmp_path / "index")
    lines = b'1\n["x"]\nxx\n"a"\n"b"\n'
    (tmp_path / "index" / PATHS).write_bytes(lines)
    storage._write_manifest(
        tmp_path / "index", replace(index.manifest, path_bytes=len(lines), paths_crc=storage.zlib.crc32(lines))
    )
    again = Storage(tmp_path / "index")
    assert again.path(3) == "a"
    with pytest.raises(ValueError, match="line 1 is no path"):
        list(again.paths())
    for row in range(3):
        with pytest.raises(ValueError, match=rf"paths.jsonl is damaged: line {row + 1} is no path"):
            again.path(row)


def test_the_header_grows_in_place():
    lengths = {len(h) for n in (0, 1, 10**6, 10**12) for h in storage._headers(replace(EMPTY, rows=n)).values()}
    assert len(lengths) == 1


def test_what_counts_is_on_the_disk_before_the_manifest_says_so(tmp_path, monkeypatch):
    folder, synced, fsync = index_of(tmp_path / "synced", np.eye(3)), [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino) or fsync(file))
    add(folder, np.eye(3))
    *before, last = [(folder / name).stat().st_ino for name in (FEATURES, INFRARED, PATHS, MANIFEST)]
    assert sorted(synced[:-1]) == sorted(before) and synced[-1] == last
