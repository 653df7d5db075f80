import errno
import os
import re
import resource
import time

import numpy as np
import pytest
from PIL import Image

from salcr.data import Records, load_sysu, open_store
from salcr.data import store as store_module
from tests import forked
from tests.data.trees import make_sysu, write_image, write_text


@pytest.fixture
def table(tmp_path):
    return load_sysu(make_sysu(tmp_path / "data", images=1)).test


def decode(root, path, height, width):
    with Image.open(root / path) as image:
        return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))


def files(cache):
    return sorted(path.name for path in cache.iterdir())


def count_reads(monkeypatch):
    reads = []
    real = store_module.read_resized
    monkeypatch.setattr(store_module, "read_resized", lambda path, *size: reads.append(path) or real(path, *size))
    return reads


def test_rows_are_what_pillow_decodes(tmp_path, table):
    seen = []
    store = open_store(
        table, height=6, width=4, cache=tmp_path / "a/b", progress=lambda done, total: seen.append((done, total))
    )
    assert isinstance(store, np.memmap) and store.dtype == np.uint8 and store.shape == (len(table), 6, 4, 3)
    for row, path in zip(store, table.paths, strict=True):
        np.testing.assert_array_equal(row, decode(table.root, path, 6, 4))
    assert len(np.unique(store.reshape(len(store), -1), axis=0)) > 1
    assert seen == [(done, len(table)) for done in range(1, len(table) + 1)]
    (name,) = files(tmp_path / "a/b")
    assert re.fullmatch(r"[0-9a-f]{32}\.npy", name)
    np.testing.assert_array_equal(np.load(tmp_path / "a/b" / name), store)
    with pytest.raises(ValueError, match="read-only"):
        store[0] = 0


def test_many_rows_keep_their_order(tmp_path):
    paths = tuple(f"{i}.png" for i in range(300))
    for i, path in enumerate(paths):
        Image.new("RGB", (2, 3), (i % 256, i // 256, 7)).save(tmp_path / path)
    zeros = np.zeros(300, np.int64)
    store = open_store(Records(tmp_path, paths, zeros, zeros, zeros > 0), height=3, width=2, cache=tmp_path / "cache")
    assert (store[:, 0, 0, :2].astype(int) @ [1, 256]).tolist() == list(range(300))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "1"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    path = "a.tif"
    Image.effect_noise((8, 12), 50).convert("RGB").convert(mode).save(tmp_path / path)
    one = np.zeros(1, np.int64)
    store = open_store(Records(tmp_path, (path,), one, one, one > 0), height=4, width=3, cache=tmp_path / "cache")
    np.testing.assert_array_equal(store[0], decode(tmp_path, path, 4, 3))


def test_images_are_decoded_once(tmp_path, table, monkeypatch):
    first = open_store(table, height=6, width=4, cache=tmp_path / "cache")
    reads = count_reads(monkeypatch)
    again = open_store(table, height=6, width=4, cache=tmp_path / "cache")
    assert not reads
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("change", ["content", "time", "height", "order", "one less"])
def test_a_change_means_a_new_store(tmp_path, table, monkeypatch, change):
    cache = tmp_path / "cache"
    before = np.array(open_store(table, height=6, width=4, cache=cache))
    reads = count_reads(monkeypatch)
    source = table.root / table.paths[2]
    height = 6
    if change == "content":
        write_image(source, seed=99, size=(12, 20))
    if change == "time":
        os.utime(source, ns=(1, 1))
    if change == "height":
        height = 7
    if change == "order":
        table = table.subset(np.arange(len(table))[::-1])
    if change == "one less":
        table = table.subset(np.arange(len(table) - 1))
    after = open_store(table, height=height, width=4, cache=cache)
    assert len(reads) == len(table) and len(files(cache)) == 2
    for row, path in zip(after, table.paths, strict=True):
        np.testing.assert_array_equal(row, decode(table.root, path, height, 4))
    if change == "content":
        assert (after[2] != before[2]).any() and (after[:2] == before[:2]).all()


@pytest.mark.parametrize("damage", ["empty", "short", "long", "header", "first pixel", "last pixel", "checksum"])
def test_a_damaged_store_is_built_again(tmp_path, table, damage):
    cache = tmp_path / "cache"
    expected = np.array(open_store(table, height=6, width=4, cache=cache))
    path = cache / files(cache)[0]
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "short": content[:-1],
        "long": content + b"x",
        "header": b"x" * 64 + content[64:],
        "first pixel": flipped(content, len(content) - 4 - expected.size),
        "last pixel": flipped(content, -5),
        "checksum": flipped(content, -1),
    }
    path.write_bytes(damaged[damage])
    np.testing.assert_array_equal(open_store(table, height=6, width=4, cache=cache), expected)
    assert path.read_bytes() == content and len(files(cache)) == 1


def flipped(content, at):
    at %= len(content)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_pixels_beyond_the_first_chunk_are_checked(tmp_path, table, monkeypatch):
    monkeypatch.setattr(store_module, "CHUNK", 100)
    cache = tmp_path / "cache"
    expected = np.array(open_store(table, height=6, width=4, cache=cache))
    reads = count_reads(monkeypatch)
    path = cache / files(cache)[0]
    for at in (-5, -105, -205):
        open_store(table, height=6, width=4, cache=cache)
        assert not reads
        path.write_bytes(flipped(path.read_bytes(), at))
        np.testing.assert_array_equal(open_store(table, height=6, width=4, cache=cache), expected)
        assert len(reads) == len(table)
        reads.clear()


def test_a_store_in_use_outlives_its_replacement(tmp_path, table):
    cache = tmp_path / "cache"
    first = open_store(table, height=6, width=4, cache=cache)
    copy = np.array(first)
    path = cache / files(cache)[0]
    os.rename(path, tmp_path / "kept")  # the file stays open under another name, as after a rename over it
    open_store(table, height=6, width=4, cache=cache)
    np.testing.assert_array_equal(first, copy)


def _open_at_once(barrier, queue, root, cache):
    real = store_module._build

    def build(*arguments):
        barrier.wait(30)  # both have seen that there is no store
        real(*arguments)

    store_module._build = build
    queue.put(open_store(load_sysu(root).test, height=6, width=4, cache=cache).tobytes())


def test_two_processes_at_once(tmp_path, table):
    context = forked.context()
    barrier, queue = context.Barrier(2), context.Queue()
    arguments = (barrier, queue, table.root, tmp_path / "cache")
    processes = [context.Process(target=_open_at_once, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    stores = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert stores[0] == stores[1] == b"".join(decode(table.root, p, 6, 4).tobytes() for p in table.paths)
    assert len(files(tmp_path / "cache")) == 1


def test_images_that_do_not_decode_are_named(tmp_path, table):
    for i in (3, 1):
        write_text(table.root / table.paths[i], "no picture")
    whole = (table.root / table.paths[4]).read_bytes()
    (table.root / table.paths[4]).write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="3 of 12 images") as caught:
        open_store(table, height=6, width=4, cache=tmp_path / "cache")
    message = str(caught.value)
    assert all((path in message) == (i in (1, 3, 4)) for i, path in enumerate(table.paths))
    assert (
        str(table.root) in message
        and "salcr check-data" in message
        and "not an image" in message
        and "runcated" in message
    )
    assert files(tmp_path / "cache") == []


def test_of_many_bad_images_ten_are_named(tmp_path, table):
    for path in table.paths:
        write_text(table.root / path, "")
    with pytest.raises(ValueError, match=r"12 of 12 images.*do not decode: .*, and 2 more") as caught:
        open_store(table, height=6, width=4, cache=tmp_path / "cache")
    assert [path in str(caught.value) for path in table.paths] == [True] * 10 + [False] * 2


def test_missing_images_are_named(tmp_path, table):
    (table.root / table.paths[7]).unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 12 images .* are missing: {table.paths[7]}"):
        open_store(table, height=6, width=4, cache=tmp_path / "cache")


def test_a_disk_that_is_full_at_the_end(tmp_path, table, monkeypatch, full_disk):
    full_disk()
    with pytest.raises(OSError, match="cannot write the image store: No space") as caught:
        open_store(table, height=6, width=4, cache=tmp_path / "cache")
    assert caught.value.errno == errno.ENOSPC and files(tmp_path / "cache") == []
    monkeypatch.undo()
    assert len(open_store(table, height=6, width=4, cache=tmp_path / "cache")) == 12


def test_a_disk_that_is_full_half_way(tmp_path, table):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write the image store"):
            open_store(table, height=300, width=200, cache=tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path / "cache") == []


def test_an_interrupted_build_leaves_nothing(tmp_path, table):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(table, height=6, width=4, cache=tmp_path / "cache", progress=interrupt)
    assert files(tmp_path / "cache") == []


def test_only_old_temporaries_of_the_store_itself_are_removed(tmp_path, table):
    cache = tmp_path / "cache"
    old, fresh = (f"{letter * 32}.{letter * 16}.tmp" for letter in "ab")
    strangers = ["thesis.tmp", f"{'a' * 32}.tmp", f"{'A' * 32}.{'a' * 16}.tmp"]
    for name in (old, fresh, *strangers):
        write_text(cache / name, "")
        if name != fresh:
            os.utime(cache / name, (time.time() - 7200,) * 2)
    open_store(table, height=6, width=4, cache=cache)
    assert {name for name in files(cache) if name.endswith(".tmp")} == {fresh, *strangers}


def test_an_old_temporary_may_be_removed_by_another_process_at_the_same_time(tmp_path, table, monkeypatch):
    left = tmp_path / f"cache/{'a' * 32}.{'b' * 16}.tmp"
    write_text(left, "")
    os.utime(left, (0, 0))
    status_of = store_module._status

    def status_before_it_is_gone(path):
        found = status_of(path)
        if path == left:
            path.unlink()
        return found

    monkeypatch.setattr(store_module, "_status", status_before_it_is_gone)
    assert len(open_store(table, height=6, width=4, cache=tmp_path / "cache")) == 12


def test_bad_arguments_are_named(tmp_path, table):
    with pytest.raises(ValueError, match="records is empty"):
        open_store(table.subset([]), height=6, width=4, cache=tmp_path)
    for size in ({"height": 0, "width": 4}, {"height": 6, "width": -1}, {"height": 6.0, "width": 4}):
        with pytest.raises(ValueError, match=r"(height|width) must be a positive whole number, got (0|-1|6\.0)"):
            open_store(table, **size, cache=tmp_path)
