"""Search in a database in float16, which C++ reads once, from where it lies."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from salcr.ops.backends.cpp import knn as _cpp_knn
from tests.ops.contract import assert_within_budget
from tests.ops.test_knn import (
    LOST,
    assert_right_outside_the_tie_margin,
    few_large_entries,
    lost_by_rounding,
    near_ties,
    on_a_grid,
    rows_of_any_length,
)


@pytest.mark.parametrize("count", [1, 33, 70])  # queries in one panel of 32, in two, in three
@pytest.mark.parametrize(("rows", "k"), [(1, 1), (40, 7), (40, 40), (1500, 20), (1500, 700)])
def test_ties_come_by_index(generator, screen, count, rows, k):
    queries, database = on_a_grid(generator, count, width=4), on_a_grid(generator, rows, width=4)  # exact cosines
    got = ops.knn(queries, k, database=database.half(), impl="cpp")
    expected = reference.knn(queries, k, database=database)
    assert torch.equal(got[1], expected[1])
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [1, 7, 63, 65, 130, 2048])
def test_neighbours_are_right_outside_the_tie_margin(generator, screen, width):
    queries, database = (torch.randn(n, width, generator=generator) + 0.5 for n in (40, 900))
    database[100:200] = database[:100]
    got = ops.knn(queries, 9, database=database.half(), impl="cpp")
    assert_right_outside_the_tie_margin(got, queries, 9, database.half(), "cosine")


@pytest.mark.parametrize("k", [1, 30, 200])
def test_near_ties(generator, screen, k):
    """Cosines that differ by less than what rounding to bytes takes from them."""
    database = near_ties(generator, rows=900).half()
    queries = torch.cat([torch.eye(64)[:1], near_ties(generator, rows=9)])
    got = ops.knn(queries, k, database=database, impl="cpp")
    assert_right_outside_the_tie_margin(got, queries, k, database, "cosine")


def test_few_large_entries_hide_nothing(generator, screen):
    queries, database = few_large_entries(generator)
    got = ops.knn(queries, 12, database=database, impl="cpp")
    assert_right_outside_the_tie_margin(got, queries, 12, database, "cosine")


@pytest.mark.parametrize("lost", LOST)
def test_rounding_may_take_all_that_a_bound_allows(screen, lost):
    query, database = lost_by_rounding(lost)  # of which 17 are scored before one can be left out
    for length in (1, 2**-10, 2**6):
        assert ops.knn(query, 1, database=length * database.half(), impl="cpp")[1].tolist() == [[29]]


def test_the_sum_of_a_bound_may_be_rounded_one_way_all_along(generator, screen):
    """A float32 sum of 40,000 equal products lacks 5e-4, of unequal ones hardly any; the others' cosines are 0.9999."""
    others = 1 + 0.014 * torch.randn(29, 40_000, generator=generator)
    database = torch.cat([others, torch.ones(1, 40_000)]).half()
    assert ops.knn(torch.ones(1, 40_000), 1, database=database, impl="cpp")[1].tolist() == [[29]]


def test_what_a_search_leaves_out_is_not_among_the_nearest_by_a_bit(generator, screen):
    """A search for all rows leaves none out; cosines are closer here than sums of 2,048 terms are exact."""
    centre = torch.randn(2048, generator=generator)
    queries, database = (centre + 0.01 * torch.randn(n, 2048, generator=generator) for n in (40, 700))
    everything = ops.knn(queries, 700, database=database.half(), impl="cpp")
    for k in (1, 9):
        for got, expected in zip(ops.knn(queries, k, database=database.half(), impl="cpp"), everything, strict=True):
            assert torch.equal(got, expected[:, :k])


def test_neither_screen_nor_threads_change_a_bit(generator, screen, monkeypatch):
    queries = torch.randn(37, 100, generator=generator)
    database = torch.randn(3000, 100, generator=generator).half()
    expected = ops.knn(queries, 15, database=database, impl="cpp")
    monkeypatch.setattr(_cpp_knn, "SCREEN", "fastest")
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for got, same in zip(ops.knn(queries, 15, database=database, impl="cpp"), expected, strict=True):
            assert torch.equal(got, same)


def test_error_budget(generator, screen):
    queries, database = torch.randn(40, 2048, generator=generator), torch.randn(300, 2048, generator=generator).half()
    values, indices = ops.knn(queries, 9, database=database, impl="cpp")
    exact = (F.normalize(queries.double(), dim=1) @ F.normalize(database.double(), dim=1).T).gather(1, indices)
    eager = (F.normalize(queries, dim=1) @ F.normalize(database.float(), dim=1).T).gather(1, indices)
    assert_within_budget(values, exact, eager, terms=2048, magnitude=1.0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 13, 1999])
def test_the_first_bad_row_is_named(generator, screen, bad, row):
    database = torch.randn(2000, 9, generator=generator).half()
    database[row, 8] = database[-1, 0] = bad
    apart = torch.zeros(2000, 12).half()[:, :9].copy_(database)
    for given in (database, apart):
        with pytest.raises(ValueError, match=rf"database has NaN or Inf, first in row {row}$"):
            ops.knn(torch.ones(2, 9), 3, database=given, impl="cpp")
    with pytest.raises(ValueError, match="queries has NaN or Inf, first in row 1"):
        ops.knn(torch.tensor([[1.0], [bad]]), 1, database=torch.ones(2, 1).half(), impl="cpp")


def test_any_length(generator, screen):
    queries, database = rows_of_any_length(generator)
    got = ops.knn(queries, 60, database=database, impl="cpp")
    assert_right_outside_the_tie_margin(got, queries, 60, database, "cosine")
    assert torch.equal(got[1][1], torch.arange(60)) and not got[0][1].any()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 3:40],
        lambda x: x[1::2],
        lambda x: x.T,
        lambda x: x.flip(0),
        lambda x: x[:1].expand(50, -1),
        lambda x: x.flatten()[1:].unfold(0, 40, 7),  # rows that overlap, at odd addresses
        lambda x: torch._neg_view(x),
    ],
)
def test_strides(generator, screen, view):
    database = view(torch.randn(50, 50, generator=generator).half())
    queries = torch.randn(4, database.shape[1], generator=generator)
    before = database.clone()
    got = ops.knn(queries, 5, database=database, impl="cpp")
    for x, y in zip(got, ops.knn(queries, 5, database=before.contiguous(), impl="cpp"), strict=True):
        assert torch.equal(x, y)
    assert torch.equal(database, before)


@pytest.mark.parametrize("impl", ["reference", "eager", "cpp"])
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_queries_may_be_wider_than_the_database(generator, impl, metric, half, dtype):
    queries, database = (
        torch.randn(5, 8, generator=generator).to(dtype),
        torch.randn(30, 8, generator=generator).to(half),
    )
    got = ops.knn(queries, 30, database=database, metric=metric, impl=impl)
    assert got[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_right_outside_the_tie_margin(got, queries, 30, database, metric)


def test_a_wider_database_is_refused():
    with pytest.raises(TypeError, match=r"database is torch.float32, queries torch.float16"):
        ops.knn(torch.ones(2, 3).half(), 1, database=torch.ones(2, 3))


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_mapped_file_is_as_it_was(tmp_path, mode):
    """Pages that are let go of come back; what was written to a private mapping would not, and is kept."""
    rows, width = 20_000, 2048
    with (tmp_path / "rows").open("wb") as file:
        file.truncate(rows * width * 2)  # holes, which take nothing on the disk
    mapped = np.memmap(tmp_path / "rows", np.float16, "r+", shape=(rows, width))
    mapped[7], mapped[-1] = 1, -1
    mapped.flush()
    mapped = np.memmap(tmp_path / "rows", np.float16, mode, shape=(rows, width))
    if mode != "r":
        mapped[9000, 3] = 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        database = torch.from_numpy(mapped)
    for _ in range(2):
        _, indices = ops.knn(torch.ones(1, width), 3, database=database, impl="cpp")
        assert indices.tolist() == ([[7, 0, 1]] if mode == "r" else [[7, 9000, 0]])
    assert mapped[7, 0] == 1 and mapped[-1, -1] == -1 and mapped[9000, 3] == (0 if mode == "r" else 2)
