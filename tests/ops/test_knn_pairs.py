"""Search among float32 rows by products of bytes: what a bound leaves out is never a neighbour."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.features import pedestrians
from salcr import _C, ops, reference
from salcr.ops.backends.cpp import _tiles
from salcr.ops.backends.cpp import knn as _cpp_knn
from tests.ops.test_knn import LOST, assert_right_outside_the_tie_margin, lost_by_rounding, near_ties, on_a_grid

multiplies_bytes = pytest.mark.skipif(not _C.screens_in_bytes(64), reason="this processor has no AVX-512 VNNI")


@pytest.fixture
def calls(monkeypatch):
    """What searches by bytes returned: whether they were made to the end."""
    made, search = [], _C.nearest_pairs

    def spied(*arguments):
        made.append(search(*arguments))
        return made[-1]

    monkeypatch.setattr(_C, "nearest_pairs", spied)
    return made


@pytest.fixture
def in_bytes(calls, monkeypatch):
    """All searches by bytes, however many pairs they leave; each test has to have made one."""
    monkeypatch.setattr(_cpp_knn, "SCREEN", "bytes")
    yield
    assert calls and all(calls)


@multiplies_bytes
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("rows", [2, 13, 95, 97, 500])  # strips of 12, panels of 32, blocks of up to 480
def test_ties_come_by_index_and_self_first(generator, in_bytes, own, rows):
    queries, others = on_a_grid(generator, rows, width=4), on_a_grid(generator, rows + 40, width=4)
    database, size = (None, rows) if own else (others, rows + 40)
    for k in (2, min(30, size), size):
        got = ops.knn(queries, k, database=database, impl="cpp")
        expected = reference.knn(queries, k, database=database)
        assert torch.equal(got[1], expected[1])
        torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-6)


@multiplies_bytes
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("width", [1, 3, 63, 64, 65, 257, 2048])
def test_neighbours_are_right_outside_the_tie_margin(generator, in_bytes, own, width):
    queries, database = (torch.randn(n, width, generator=generator) + 0.5 for n in (530, 300))
    queries[100:200] = queries[:100]
    database = None if own else database
    for k in (2, 9):
        got = ops.knn(queries, k, database=database, impl="cpp")
        assert_right_outside_the_tie_margin(got, queries, k, database, "cosine")


@multiplies_bytes
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("k", [2, 30, 200])
def test_near_ties(generator, in_bytes, own, k):
    """Cosines that differ by less than what rounding to bytes takes from them."""
    x = near_ties(generator, rows=900)
    database = None if own else near_ties(generator, rows=600)
    got = ops.knn(x, k, database=database, impl="cpp")
    assert_right_outside_the_tie_margin(got, x, k, database, "cosine")


@multiplies_bytes
@pytest.mark.parametrize("lost", LOST)
def test_rounding_may_take_all_that_a_bound_allows(in_bytes, lost):
    query, database = lost_by_rounding(lost, count=132)  # one more than can wait to be scored
    assert ops.knn(query, 1, database=database, impl="cpp")[1].tolist() == [[131]]


@multiplies_bytes
@pytest.mark.parametrize("rounded", ["the query", "the others"])
def test_rounding_may_add_all_that_a_bound_allows(in_bytes, rounded):
    """Products of the others are as far above their cosines as they can be; the last row has the largest cosine."""
    raised, even, alone = torch.full((65_536,), 0.51), torch.ones(65_536), torch.zeros(65_536)
    raised[0], even[0], alone[0] = 127, 0, 1  # in units of 127 / 127 all of `raised` becomes 1
    if rounded == "the query":
        even[:3000] *= -1
        query, others, nearest = raised, even, alone
    else:
        query, others, nearest = even, raised, even + 124 * alone
    database = torch.cat([others.expand(131, -1), nearest[None]])
    assert ops.knn(query[None], 1, database=database, impl="cpp")[1].tolist() == [[131]]


def few_large_entries(x):
    """In units of a row's largest entry all others round to 0."""
    x[::2, 5] *= 10_000
    x[1::4, 7] *= 300
    return x


def zeros_and_short_rows(x):
    """Some shorter than the length at which a row is taken for zeros, down to the smallest number there is."""
    x[::5] = 0
    x[1::5] *= 1e-14
    x[2::5] *= 1e-30
    x[3::10] *= 1e-44
    return x


def all_nearly_equal(x):
    return 1 + 1e-3 * x


def all_equal(x):
    return torch.ones_like(x)


@multiplies_bytes
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("change", [few_large_entries, zeros_and_short_rows, all_nearly_equal, all_equal])
def test_rows_that_bytes_say_little_of(generator, in_bytes, monkeypatch, own, change):
    queries, database = (change(torch.randn(n, 96, generator=generator)) for n in (400, 610))
    database = None if own else database
    got = ops.knn(queries, 12, database=database, impl="cpp")
    monkeypatch.setattr(_cpp_knn, "SCREEN", "floats")
    plain = ops.knn(queries, 12, database=database, impl="cpp")
    torch.testing.assert_close(got[0], plain[0], rtol=0, atol=1e-5)
    unit = [F.normalize(x, dim=1).double() for x in (queries, queries if own else database)]
    torch.testing.assert_close(got[0].double(), (unit[0] @ unit[1].T).gather(1, got[1]), rtol=0, atol=1e-6)
    assert (got[1].sort(1).values.diff() > 0).all()


@multiplies_bytes
@pytest.mark.parametrize("own", [True, False])
def test_neither_screen_nor_threads_change_a_neighbour(generator, calls, monkeypatch, own):
    queries, database = torch.randn(1300, 70, generator=generator), torch.randn(900, 70, generator=generator)
    database = None if own else database
    monkeypatch.setattr(_cpp_knn, "SCREEN", "floats")
    plain = ops.knn(queries, 15, database=database, impl="cpp")
    assert not calls
    monkeypatch.setattr(_cpp_knn, "SCREEN", "bytes")
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(ops.knn(queries, 15, database=database, impl="cpp"))
        assert torch.equal(found[-1][0], found[0][0]) and torch.equal(found[-1][1], found[0][1])
    assert calls == [True] * 3
    torch.testing.assert_close(found[0][0], plain[0], rtol=0, atol=1e-6)
    apart = (plain[0][:, 1:] - plain[0][:, :-1]).abs() > 1e-5
    apart = F.pad(apart, (1, 0), value=True) & F.pad(apart, (0, 1), value=False)
    assert torch.equal(found[0][1][apart], plain[1][apart])


@multiplies_bytes
@pytest.mark.parametrize("own", [True, False])
def test_what_is_fastest(calls, monkeypatch, own):
    """Features of a network's kind are searched by bytes, unless the processor does not multiply them."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    x = pedestrians(1800, 256)
    queries, database = (x, None) if own else (x[1300:], x[:1300])
    got = ops.knn(queries, 10, database=database, impl="cpp")
    assert calls == [True]
    monkeypatch.setattr(_C, "screens_in_bytes", lambda width: False)
    plain = ops.knn(queries, 10, database=database, impl="cpp")
    assert calls == [True]
    assert (got[1] == plain[1]).float().mean() > 0.999
    torch.testing.assert_close(got[0], plain[0], rtol=0, atol=1e-6)


@multiplies_bytes
@pytest.mark.parametrize("own", [True, False])
def test_where_bounds_leave_too_much_products_are_made_in_float32(generator, calls, monkeypatch, own):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    x = 1 + 1e-3 * torch.randn(1800, 256, generator=generator)
    queries, database = (x, None) if own else (x[1300:], x[:1300])
    got = ops.knn(queries, 10, database=database, impl="cpp")
    assert calls == [False]
    assert_right_outside_the_tie_margin(got, queries, 10, database, "cosine")


def check_both(x, y, k):
    expected = [reference.knn(q, min(k, len(d)), database=d) for q, d in ((x, y), (y, x))]
    floors = [scores.new_full((len(scores),), -torch.inf) for scores, _ in expected]
    whole = _cpp_knn.nearest_of_both(x, y, k, floors)
    for got, wanted in zip(whole, expected, strict=True):
        assert torch.equal(got[1], wanted[1])
        torch.testing.assert_close(got[0], wanted[0], rtol=0, atol=1e-6)
    for floor, (scores, _) in zip(floors, whole, strict=True):
        floor[::2] = scores[::2, scores.shape[1] // 2]  # equal scores are wanted
        floor[::5] = 2  # nothing is
    for got, wanted, floor in zip(_cpp_knn.nearest_of_both(x, y, k, floors), whole, floors, strict=True):
        there = wanted[0] >= floor[:, None]
        assert torch.equal(got[0][there], wanted[0][there]) and torch.equal(got[1][there], wanted[1][there])
        assert (got[0][:, 1:] <= got[0][:, :-1]).all() and (got[0].isneginf() == (got[1] > 2**60)).all()


@multiplies_bytes
@pytest.mark.parametrize("rows", [2, 13, 96, 97, 500])  # strips, panels and blocks that have rows of both sets
def test_two_sets_see_one_another_alone(generator, in_bytes, rows):
    x, y = (F.normalize(on_a_grid(generator, n, width=4), dim=1) for n in (rows, 530))
    for k in (1, 2, min(rows, 30)):
        check_both(x, y, k)
        check_both(y, x, k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_sets_see_one_another_by_products_in_floats(generator, monkeypatch, dtype):
    monkeypatch.setattr(_cpp_knn, "SCREEN", "floats")
    monkeypatch.setattr(_tiles, "TILE_ROWS", 64)
    monkeypatch.setattr(_tiles, "TILE_BYTES", 64 * 50 * dtype.itemsize)
    x, y = (F.normalize(on_a_grid(generator, n, width=4).to(dtype), dim=1) for n in (150, 130))
    for k in (1, 30, 130, 140):
        check_both(x, y, k)


@multiplies_bytes
def test_labels_are_those_of_products_in_float32(calls, monkeypatch):
    x, labels = pedestrians(1500, 256), {}
    for screen in ("bytes", "floats"):
        monkeypatch.setattr(_cpp_knn, "SCREEN", screen)
        labels[screen] = ops.cluster(x, eps=0.6, impl="cpp")
    assert calls == [True] and labels["bytes"].max() > 10
    assert torch.equal(labels["bytes"], labels["floats"])


@pytest.mark.parametrize(
    ("rows", "columns", "k", "message"),
    [
        ((4, 3), (5, 2), 1, "shapes do not fit"),
        ((4, 3), (5, 3), 6, "shapes do not fit"),
        ((4, 3), None, 1, "shapes do not fit"),
        ((4, 70_000), None, 2, "cannot screen in bytes"),
    ],
)
def test_arguments_that_do_not_fit(rows, columns, k, message):
    columns = None if columns is None else torch.ones(columns).numpy()
    lists = torch.empty(rows[0], k).numpy(), torch.empty(rows[0], k, dtype=torch.int64).numpy()
    with pytest.raises(ValueError, match=message):
        _C.nearest_pairs(torch.ones(rows).numpy(), columns, *lists, 0, None, 1.0, 1)


@pytest.mark.parametrize(("columns", "split"), [((4, 3), 2), (None, 1), (None, 3), (None, 5), (None, -1)])
def test_sides_that_do_not_fit(columns, split):
    columns = None if columns is None else torch.ones(columns).numpy()
    lists = torch.empty(4, 2).numpy(), torch.empty(4, 2, dtype=torch.int64).numpy()
    with pytest.raises(ValueError, match="a side has too few rows"):
        _C.nearest_pairs(torch.ones(4, 3).numpy(), columns, *lists, split, None, 1.0, 1)


def test_floors_that_do_not_fit():
    lists = torch.empty(4, 2).numpy(), torch.empty(4, 2, dtype=torch.int64).numpy()
    with pytest.raises(ValueError, match="floors do not fit"):
        _C.nearest_pairs(torch.ones(4, 3).numpy(), None, *lists, 2, torch.ones(3).numpy(), 1.0, 1)
