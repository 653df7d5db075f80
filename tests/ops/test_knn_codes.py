"""Search in a database in float16 by codes of its rows: what the search without them finds, to the bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from salcr import _C, ops
from salcr.ops.knn import code_bytes, code_rows, knn_by_codes
from tests.ops.test_knn import LOST, few_large_entries, lost_by_rounding, near_ties, on_a_grid, rows_of_any_length

HELD = 4096  # rows that wait for a query's score, at most


def assert_same(queries, k, database, codes=None):
    found = knn_by_codes(queries, k, database, code_rows(database) if codes is None else codes)
    for got, expected in zip(found, ops.knn(queries, k, database=database, impl="cpp"), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("count", [1, 33, 70])  # queries in one panel of 32, in two, in three
@pytest.mark.parametrize(("rows", "k"), [(1, 1), (12, 7), (23, 4), (40, 40), (1500, 20), (1500, 700)])  # strips of 12
def test_ties(generator, screen, count, rows, k):
    assert_same(on_a_grid(generator, count, width=4), k, on_a_grid(generator, rows, width=4).half())


@pytest.mark.parametrize("width", [1, 7, 63, 65, 130, 2048])
def test_any_width(generator, screen, width):
    queries, database = (torch.randn(n, width, generator=generator) + 0.5 for n in (40, 900))
    assert_same(queries, 9, database.half())


@pytest.mark.parametrize("k", [1, 30, 200])
def test_near_ties(generator, screen, k):
    """Cosines that differ by less than what rounding to bytes takes from them."""
    database = near_ties(generator, rows=900).half()
    assert_same(torch.cat([torch.eye(64)[:1], near_ties(generator, rows=9)]), k, database)


def test_more_near_ties_than_can_wait(generator, screen):
    """No bound leaves any row out: whatever waits is scored before the end, the best rows last of all."""
    database = torch.ones(3 * HELD, 8) + 1e-3 * torch.randn(3 * HELD, 8, generator=generator)
    database[::2] = 1
    assert_same(torch.ones(2, 8), 50, database.half())


def test_the_last_row_that_can_wait_is_scored(generator, screen):
    database = torch.ones(3 * HELD, 8) + 1e-2 * torch.randn(3 * HELD, 8, generator=generator)
    nearest = torch.arange(HELD - 1, 3 * HELD, HELD)
    database[nearest] = 1
    assert_same(torch.ones(1, 8), 3, database.half())
    assert torch.equal(ops.knn(torch.ones(1, 8), 3, database=database.half(), impl="cpp")[1][0], nearest)


def test_few_large_entries_hide_nothing(generator, screen):
    queries, database = few_large_entries(generator)
    assert_same(queries, 12, database)


def test_threads_change_nothing(generator, screen, monkeypatch):
    queries, database = torch.randn(37, 100, generator=generator), torch.randn(3000, 100, generator=generator).half()
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert_same(queries, 15, database)


def test_any_length(generator, screen):
    queries, database = rows_of_any_length(generator)
    assert_same(queries, 60, database)


@pytest.mark.parametrize("view", [lambda x: x[:, 3:40], lambda x: x[1::2], lambda x: x.T, lambda x: torch._neg_view(x)])
def test_strides(generator, screen, view):
    database = view(torch.randn(50, 50, generator=generator).half())
    assert torch.equal(code_rows(database), code_rows(database.contiguous()))
    assert_same(torch.randn(4, database.shape[1], generator=generator), 5, database)


def test_codes_bound_what_they_take(generator):
    """The norm of what is not in a code is at most what the code says, and not much less."""
    rows = (torch.randn(50, 37, generator=generator) * 10 ** torch.randn(50, 1, generator=generator)).half()
    codes = code_rows(rows)
    unit, lost = codes[:, 40:].contiguous().view(torch.float32).double().unbind(1)
    exact = torch.nn.functional.normalize(rows.double(), dim=1)
    left = torch.linalg.vector_norm(exact - (codes[:, :37].double() - 128) * unit[:, None], dim=1)
    assert codes.shape == (50, code_bytes(37)) and (codes[:, 37:40] == 128).all()
    assert (left <= lost).all() and (lost <= left * 1.001 + 2e-5).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 13, 4999])  # a thread rounds 4096 at a time
def test_the_first_bad_row_is_named(generator, bad, row):
    rows = torch.randn(5000, 9, generator=generator).half()
    rows[row, 8] = rows[-1, 0] = bad
    with pytest.raises(ValueError, match=rf"rows has NaN or Inf, first in row {row}$"):
        code_rows(rows)
    with pytest.raises(ValueError, match="queries has NaN or Inf, first in row 1"):
        knn_by_codes(torch.tensor([[1.0], [bad]]), 1, torch.ones(2, 1).half(), code_rows(torch.ones(2, 1).half()))


def test_codes_of_other_rows_are_seen(generator, screen):
    queries, database = torch.randn(5, 32, generator=generator), torch.randn(600, 32, generator=generator).half()
    codes = code_rows(database)
    assert knn_by_codes(queries, 3, database, codes.flip(0)) is None
    assert knn_by_codes(queries, 3, database.flip(0), codes) is None
    assert knn_by_codes(queries, 3, -database, codes) is None
    database[7] = torch.nan  # whose cosine nothing bounds
    assert knn_by_codes(queries, 600, database, codes) is None


@pytest.mark.parametrize("unit", [1, 0.5, 2, torch.nan, torch.inf])
@pytest.mark.parametrize("lost", [0, -1, torch.nan, torch.inf])
def test_one_wrong_code_is_seen(generator, screen, unit, lost):
    """What it says of its row cannot be, or the row's score is not within its bounds."""
    database = torch.randn(40, 8, generator=generator).half()
    codes = code_rows(database)
    bounds = codes[20, -8:].clone().view(torch.float32) * unit + torch.tensor([0.0, lost])
    codes[20, -8:] = bounds.view(torch.uint8)
    found = knn_by_codes(database[19:21].float(), 40, database, codes)
    assert (found is None) == ((unit, lost) != (1, 0))


def test_a_code_that_would_hide_its_row_is_seen(generator, screen):
    """Rounding cannot take less than nothing; were that believed, the nearest row would never be scored."""
    database = torch.randn(40, 8, generator=generator).half()
    codes = code_rows(database)
    codes[20, -4:] = torch.tensor([-1.0]).view(torch.uint8)
    assert knn_by_codes(database[20:21].float(), 1, database, codes) is None


@pytest.mark.parametrize("lost", LOST)
def test_rounding_may_take_all_that_a_bound_allows(screen, lost):
    """Codes of all rows say so, of the nearest too, or they would be taken for another database's."""
    query, database = lost_by_rounding(lost)
    for queries in (query, query.expand(33, -1)):
        assert_same(queries, 1, database.half())


def test_codes_whose_bounds_are_no_numbers_are_seen(screen):
    """Products and errors overflow, and of their sum nothing is known."""
    codes = torch.zeros(40, code_bytes(8), dtype=torch.uint8)  # entries of -128
    codes[:, -8:] = torch.tensor([3e38, torch.finfo(torch.float32).max]).view(torch.uint8)
    assert knn_by_codes(torch.ones(1, 8), 3, torch.ones(40, 8).half(), codes) is None


@pytest.mark.parametrize("lost", [0, 0.1, 3e38, -0.5, torch.nan, torch.inf, None])
def test_bytes_that_are_no_codes_are_read_and_nothing_beyond(generator, screen, lost):
    """Of any bytes comes a list of rows that the database has, with their cosines, or none."""
    queries, database = torch.randn(33, 10, generator=generator), torch.randn(5000, 10, generator=generator).half()
    codes = torch.randint(256, (5000, code_bytes(10)), generator=generator, dtype=torch.uint8)
    if lost is not None:
        codes[::3, -4:] = torch.tensor([float(lost)]).view(torch.uint8)
    assert knn_by_codes(queries, 4, database, codes) is None
    codes[:, -8:] = torch.tensor([0, 3.0]).view(torch.uint8)  # bounds that say nothing, and are right
    codes[::3, -8:-4] = torch.tensor([torch.nan if lost is None else float(lost)]).view(torch.uint8)
    found = knn_by_codes(queries, 4, database, codes)
    if found is not None:
        exact = ops.knn(queries, 5000, database=database, impl="cpp")
        assert all(len(set(rows)) == 4 for rows in found[1].tolist())
        assert torch.equal(found[0], torch.zeros(33, 5000).scatter(1, exact[1], exact[0]).gather(1, found[1]))


@pytest.mark.parametrize(
    "change",
    [
        dict(queries=np.ones((2, 7), np.float32)),
        dict(queries=np.ones((0, 8), np.float32)),
        dict(database=np.ones((30, 8), np.int16)),
        dict(database=np.ones((29, 8), np.uint16)),
        dict(database=np.ones((30, 16), np.uint16)[:, ::2]),
        dict(database=np.ones((30, 8), np.uint16)[:, ::-1]),
        dict(database=np.broadcast_to(np.ones((1, 8), np.uint16), (30, 8))),
        dict(codes=np.ones((30, 15), np.uint8)),
        dict(codes=np.ones((29, 16), np.uint8)),
        dict(codes=np.ones((30, 16), np.int8)),
        dict(codes=np.ones((30, 32), np.uint8)[:, ::2]),
        dict(codes=np.ones(480, np.uint8)),
        dict(scores=np.ones((2, 31), np.float32), indices=np.ones((2, 31), np.int64)),
        dict(scores=np.ones((2, 0), np.float32), indices=np.ones((2, 0), np.int64)),
        dict(indices=np.ones((2, 4), np.int64)),
        dict(indices=np.ones((2, 3), np.int32)),
        dict(screen="magic"),
        dict(threads=0),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change):
    arguments = dict(
        queries=np.ones((2, 8), np.float32),
        database=np.ones((30, 8), np.uint16),
        codes=np.ones((30, 16), np.uint8),
        scores=np.ones((2, 3), np.float32),
        indices=np.ones((2, 3), np.int64),
        screen="fastest",
        threads=1,
    )
    _C.nearest_coded(**arguments)
    with pytest.raises((TypeError, ValueError)):
        _C.nearest_coded(**arguments | change)
    rows = {name: (arguments | change)[name] for name in ("database", "codes", "threads")}
    if change.keys() & rows.keys():
        with pytest.raises((TypeError, ValueError)):
            _C.round_rows(rows["database"], rows["codes"], rows["threads"])


def test_codes_that_cannot_be_written_are_refused():
    codes = np.ones((30, 16), np.uint8)
    codes.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        _C.round_rows(np.ones((30, 8), np.uint16), codes, 1)


def test_mapped_files_are_as_they_were(tmp_path, generator, screen):
    """Pages of both files are let go of as they have been read, those around them too, and come back."""
    rows, width = 40_000, 2048  # whose codes are large enough for that
    files = {}
    for name, dtype, columns in (("rows", np.float16, width), ("codes", np.uint8, code_bytes(width))):
        with (tmp_path / name).open("wb") as file:
            file.truncate(rows * columns * np.dtype(dtype).itemsize)  # holes, which take nothing on the disk
        files[name] = np.memmap(tmp_path / name, dtype, "r+", shape=(rows, columns))
    near = torch.tensor([7, 20_000, rows - 1])
    some = torch.randn(3, width, generator=generator).half()
    files["rows"][near.numpy()] = some.numpy()
    files["codes"][near.numpy()] = code_rows(some).numpy()
    database, codes = torch.from_numpy(files["rows"]), torch.from_numpy(files["codes"])
    for _ in range(2):
        assert knn_by_codes(some.float(), 1, database, codes)[1].flatten().tolist() == near.tolist()
        assert resident(tmp_path) < 3 << 20
    assert torch.equal(database[near], some) and not codes[8:20_000].any()


def resident(folder):
    """Bytes of this process's memory that are mapped pages of files in ``folder``."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.partition(" ")[0].endswith(":"):
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total
