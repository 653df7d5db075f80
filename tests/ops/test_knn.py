import pytest
import torch
import torch.nn.functional as F

from salcr import _C, ops, reference
from salcr.ops.backends.cpp import _tiles
from salcr.ops.backends.eager import knn as _eager_knn
from tests.ops.contract import assert_compiles, assert_operator_contract, assert_within_budget


@pytest.fixture(params=["reference", "eager", "cpp"])
def impl(request):
    return request.param


def by_hand(queries, k, database, metric):
    """Pair by pair in float64, sorted by (not itself, distance, index)."""
    own, database = database is None, queries if database is None else database
    values, indices = [], []
    for i, q in enumerate(queries.double()):
        if metric == "cosine":
            scores = [-float((q / q.norm()) @ (x / x.norm())) for x in database.double()]
        else:
            scores = [float(((q - x) ** 2).sum()) for x in database.double()]
        order = sorted(range(len(scores)), key=lambda j: (not (own and j == i), scores[j], j))[:k]
        indices.append(order)
        values.append([abs(scores[j]) if metric == "sqeuclidean" else -scores[j] for j in order])
    return torch.tensor(values), torch.tensor(indices)


def on_a_grid(generator, rows, width=16):
    """Entries ±1, so that norms (4), inner products and distances are exact in float32 and full of ties."""
    return torch.randint(0, 2, (rows, width), generator=generator).float() * 2 - 1


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("own", [True, False])
def test_neighbours_are_those_of_a_sort(generator, metric, own, impl):
    queries = torch.randn(31, 8, generator=generator, dtype=torch.float64)
    database = None if own else torch.randn(17, 8, generator=generator, dtype=torch.float64)
    values, indices = by_hand(queries, 5, database, metric)
    got = ops.knn(queries, 5, database=database, metric=metric, impl=impl)
    assert torch.equal(got[1], indices)
    torch.testing.assert_close(got[0], values.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_ties_come_by_index_and_self_first(generator, monkeypatch, metric, own, k, impl):
    monkeypatch.setattr(_eager_knn, "BLOCK_BYTES", 7 * 40 * 4)  # seven rows a block
    monkeypatch.setattr(_tiles, "TILE_ROWS", 7)
    monkeypatch.setattr(_tiles, "TILE_BYTES", 7 * 12 * 4)
    queries = on_a_grid(generator, 40, width=4)  # 16 different rows: every one has duplicates
    database = None if own else on_a_grid(generator, 40, width=4)
    values, indices = by_hand(queries, k, database, metric)
    got = ops.knn(queries, k, database=database, metric=metric, impl=impl)
    assert torch.equal(got[1], indices)
    torch.testing.assert_close(got[0], values, rtol=0, atol=1e-6)
    if metric == "sqeuclidean":
        assert not got[0].signbit().any(), "a distance of -0"
    if own:
        assert torch.equal(got[1][:, 0], torch.arange(40))


@pytest.mark.parametrize("width", [64, 2048])
def test_error_budget(generator, impl, width):
    x = torch.randn(50, width, generator=generator)
    values, indices = ops.knn(x, 9, impl=impl)
    exact, eager = (torch.nn.functional.normalize(y, dim=1) for y in (x.double(), x))
    exact, eager = ((y @ y.T).gather(1, indices) for y in (exact, eager))
    assert_within_budget(values, exact, eager, terms=x.shape[1], magnitude=1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(generator, dtype, impl):
    x = torch.randn(20, 8, generator=generator).to(dtype)
    for got, expected in zip(ops.knn(x, 4, impl=impl), ops.knn(x.float(), 4, impl=impl), strict=True):
        assert torch.equal(got, expected)


def test_edge_cases(impl):
    values, indices = ops.knn(torch.ones(1, 3), 1, impl=impl)
    assert indices.tolist() == [[0]] and values.item() == pytest.approx(1)
    assert ops.knn(torch.ones(1, 3), 1, metric="sqeuclidean", impl=impl)[0].item() == 0
    assert ops.knn(torch.zeros(5, 3), 5, impl=impl)[1][3].tolist() == [3, 0, 1, 2, 4]
    far = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    values, indices = ops.knn(torch.tensor([[1.0, 0.0]]), 3, database=far, metric="sqeuclidean", impl=impl)
    assert indices.tolist() == [[1, 0, 2]] and values.tolist() == [[0, 4, 5]]
    assert not ops.knn(far.requires_grad_(), 2, impl=impl)[0].requires_grad


def test_no_squared_distance_is_negative(generator, impl):
    """Of rows that are equal, and long against their distances, the rounded products say anything."""
    x = (100 + torch.randn(40, 16, generator=generator)).repeat(2, 1)
    for database in (None, x.flip(0)):
        assert (ops.knn(x, 3, database=database, metric="sqeuclidean", impl=impl)[0] >= 0).all()


def near_ties(generator, rows=300, width=64):
    """Rows at cosines to the first that step by 1e-7 to 1e-5, and duplicates among them."""
    steps = 10 ** (-7 + 2 * torch.rand(rows, generator=generator, dtype=torch.float64))
    cosines = (0.9 - steps.cumsum(0))[:, None]
    aside = torch.nn.functional.normalize(
        torch.randn(rows, width - 1, generator=generator, dtype=torch.float64) + 3, dim=1
    )
    x = torch.cat([cosines, (1 - cosines.square()).sqrt() * aside], 1)
    x = torch.cat([torch.eye(width, dtype=torch.float64)[:1], x, x[: rows // 3]])
    return x[torch.randperm(len(x), generator=generator)].float()


def few_large_entries(generator):
    """Queries that look past the entries of a float16 database beside which most others round to 0 in a code."""
    database = torch.randn(700, 96, generator=generator)
    database[:, 5] *= 1000
    queries = torch.randn(35, 96, generator=generator).index_fill(1, torch.tensor([5]), 0)
    queries[20:, 7] = 1e4
    return queries, database.half()


def rows_of_any_length(generator):
    """Zeros, which have all cosines 0, subnormal numbers, and the largest of float16, the database's type."""
    queries, database = torch.randn(3, 6, generator=generator), torch.randn(60, 6, generator=generator)
    queries[1] = 0
    queries[2] *= 1e-33
    database[::4] = 0
    database[1::4] *= 2.0**-24 / database[1::4].abs().amin(1, keepdim=True)
    database[2::4] *= 65504 / database[2::4].abs().amax(1, keepdim=True)
    return queries, database.half()


def lost_by_rounding(case, count=30, width=65_536):
    """A query, and a database of which the last row is the nearest.

    In units of a row's largest entry, 127, all others become 0 or 1. What that takes from the query, or from the last
    row, has the direction of the other: no product in bytes is further below its cosine, and below the other rows'.
    """

    def row(first, entry, flipped=0):
        x = torch.full((width,), float(entry))
        x[1 : 1 + flipped] *= -1
        x[0] = first
        return x

    query, others, nearest = {
        "of the row": (row(0, 1), row(268, 1), row(127, 0.4995)),
        "of the query": (row(127, 0.4995), row(0, 1, flipped=width // 100), row(0, 1)),
        "of both": (row(127, 0.5005), row(127, -0.55), row(127, -0.5005)),
    }[case]
    return query[None], torch.cat([others.expand(count - 1, width), nearest[None]])


LOST = ["of the row", "of the query", "of both"]


@pytest.mark.parametrize("k", [2, 30, 200])
def test_neighbours_are_right_outside_the_tie_margin(generator, impl, k):
    x = near_ties(generator)
    values, indices = ops.knn(x, k, impl=impl)
    exact = torch.nn.functional.normalize(x.double(), dim=1)
    exact = (exact @ exact.T).fill_diagonal_(2)
    found = exact.gather(1, indices)
    assert (indices.sort(1).values.diff() > 0).all() and torch.equal(indices[:, 0], torch.arange(len(x)))
    assert (found.diff() < 1e-5).all()  # in order
    missed = exact.scatter(1, indices, -2).amax(1)
    assert (missed < found[:, -1] + 1e-5).all()
    torch.testing.assert_close(values[:, 1:], found[:, 1:].float())


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 50), (16, 16), (17, 40), (1000, 1000)])
def test_tiles_do_not_matter(generator, monkeypatch, rows, columns):
    monkeypatch.setattr(_tiles, "TILE_ROWS", rows)
    monkeypatch.setattr(_tiles, "TILE_BYTES", 4 * min(rows, 90) * columns)
    x = on_a_grid(generator, 90, width=4)
    y = on_a_grid(generator, 70, width=4)
    for metric in ("cosine", "sqeuclidean"):
        for database, k in ((None, 1), (None, 20), (None, 90), (y, 20), (y, 70)):
            got = ops.knn(x, k, database=database, metric=metric, impl="cpp")
            expected = ops.knn(x, k, database=database, metric=metric, impl="reference")
            assert torch.equal(got[1], expected[1])
            torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_rows_too_long_to_square_are_refused(generator, metric, impl):
    """Their distances are no numbers in float32, their norms infinite, so that a unit row would come out as zeros."""
    x = torch.randn(9, 6, generator=generator)
    near_the_bound = x / x.norm(dim=1).max() * 9.03e18
    values, indices = ops.knn(near_the_bound, 9, metric=metric, impl=impl)
    assert values.isfinite().all() and torch.equal(indices[:, 0], torch.arange(9))
    direction = F.normalize(torch.randn(500, generator=generator), dim=0)
    opposite = 9.038e18 * torch.stack([direction, -direction]).repeat(9, 1)
    for database in (None, opposite.flip(0).contiguous()):
        values, indices = ops.knn(opposite, 17, database=database, metric=metric, impl=impl)
        assert values.isfinite().all() and indices.max() < 18
        with pytest.raises(ValueError, match="queries has a norm above"):  # sums that round up would be infinite
            ops.knn(1.02 * opposite, 17, database=database, metric=metric, impl=impl)
    for others in (None, torch.ones(3, 6)):
        with pytest.raises(ValueError, match=r"queries has a norm above 9.04e.18, .* first in row 4"):
            ops.knn(x.index_fill(0, torch.tensor([4]), 1e30), 2, database=others, metric=metric, impl=impl)
    with pytest.raises(ValueError, match="database has a norm above"):
        ops.knn(x, 2, database=1e30 * x, metric=metric, impl=impl)
    assert ops.knn(1e30 * x.double(), 2, metric=metric, impl=impl)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lists_hold_numbers_alone(dtype):
    """Neither NaN nor -Inf, be it in a whole vector of scores or behind the last."""
    best = (_C.TopKFloat64 if dtype == torch.float64 else _C.TopKFloat32)(2, 3)
    tile = torch.full((2, 20), -torch.inf, dtype=dtype)
    tile[:, 1::2] = torch.nan
    tile[0, [4, 19]] = torch.tensor([1.0, torch.finfo(dtype).min], dtype=dtype)
    scores, indices = torch.empty(2, 3, dtype=dtype), torch.empty(2, 3, dtype=torch.int64)
    best.add(tile.numpy(), 0, 0, False, None, None, 1)
    best.write(scores.numpy(), indices.numpy(), False, 1)
    assert scores.tolist() == [[1, torch.finfo(dtype).min, -torch.inf], [-torch.inf] * 3]
    assert indices[0, :2].tolist() == [4, 19] and (indices.flatten()[2:] > 2**61).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_matter(generator, monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # of the C++; PyTorch's products stay as they are
    x = torch.randn(3000, 8, generator=generator)
    got = ops.knn(x, 10, impl="cpp")
    monkeypatch.undo()
    for a, b in zip(got, ops.knn(x, 10, impl="cpp"), strict=True):
        assert torch.equal(a, b)


def test_contract(generator):
    x, y = (torch.randn(n, 6, generator=generator) for n in (9, 12))
    assert_operator_contract(
        torch.ops.salcr.knn,
        (x, 3, None, "cosine", "exact", "auto"),
        (x.double(), 4, y.double(), "sqeuclidean", "exact", "auto"),
    )
    assert_compiles(lambda x: ops.knn(x, 3), (x,), (y,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(k=6), ValueError, "k must be between 1 and 5, got 6"),
        (dict(k=9, database=torch.zeros(8, 3)), ValueError, "between 1 and 8"),
        (dict(database=torch.zeros(8, 4)), ValueError, "rows of width 4, queries of width 3"),
        (dict(database=torch.zeros(8, 3).double()), TypeError, "database is torch.float64"),
        (dict(queries=torch.zeros(0, 3)), ValueError, "queries is empty"),
        (dict(queries=torch.zeros(5, 3).long()), TypeError, "queries must be floating"),
        (dict(queries=torch.tensor([[0.0], [1.0], [torch.nan], [torch.inf]])), ValueError, "queries has NaN.*row 2"),
        (dict(database=torch.full((8, 3), torch.inf)), ValueError, "database has NaN or Inf, first in row 0"),
        (dict(metric="l1"), ValueError, "metric must be one of"),
        (dict(method="hnsw"), ValueError, "method must be one of exact, faiss-ivf, got 'hnsw'"),
        (dict(method="faiss-ivf", impl="cpp"), ValueError, "has the backend faiss, got impl='cpp'"),
        (dict(impl="cuda"), ValueError, "has the backends"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.knn(**(dict(queries=torch.ones(5, 3), k=2) | arguments))


def assert_right_outside_the_tie_margin(got, queries, k, database, metric):
    """Indices in the order of exact scores, none left out that is nearer, but for 1e-5 of the largest score."""
    own, database = database is None, queries if database is None else database
    queries, database = queries.double(), database.double()
    if metric == "cosine":
        exact = F.normalize(queries, dim=1) @ F.normalize(database, dim=1).T
    else:
        exact = -torch.cdist(queries, database, compute_mode="donot_use_mm_for_euclid_dist").square()
    margin = 1e-5 * exact.abs().max().clamp_min(1)
    if own:
        exact.fill_diagonal_(torch.inf)
        assert torch.equal(got[1][:, 0], torch.arange(len(queries), device=queries.device))
    assert (got[1].sort(1).values.diff() > 0).all()
    found = exact.gather(1, got[1])
    assert (found[:, own:].diff() <= margin).all()
    assert (exact.scatter(1, got[1], -torch.inf).amax(1) <= found[:, -1] + margin).all()
    values = got[0] if metric == "cosine" else -got[0]
    torch.testing.assert_close(values[:, own:].double(), found[:, own:], rtol=1e-5, atol=margin.item())


@pytest.mark.cuda
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize(
    ("rows", "size", "width", "k", "dtype"),
    [
        (9001, None, 2048, 30, torch.float32),
        (1000, 30_000, 384, 20, torch.float32),
        (131, 70, 100, 70, torch.float32),
        (300, None, 7, 2, torch.float32),
        (2000, 9000, 64, 1024, torch.float32),
        (1000, 30_000, 384, 20, torch.bfloat16),
        (1000, 30_000, 384, 20, torch.float16),
    ],
)
def test_neighbours(generator, rows, size, width, k, dtype, metric):
    queries = (torch.randn(rows, width, generator=generator) + 0.5).to("cuda", dtype)
    database = None if size is None else (torch.randn(size, width, generator=generator) + 0.5).to("cuda", dtype)
    got, again = (ops.knn(queries, k, database=database, metric=metric, impl="triton") for _ in range(2))
    for x, same in zip(got, again, strict=True):
        assert torch.equal(x, same)
    assert_right_outside_the_tie_margin(got, queries, k, database, metric)


@pytest.mark.cuda
@pytest.mark.parametrize("k", [2, 30, 200])
def test_near_ties(generator, k):
    x = near_ties(generator, rows=9000, width=64).cuda()
    assert_right_outside_the_tie_margin(ops.knn(x, k, impl="triton"), x, k, None, "cosine")


@pytest.mark.cuda
@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("width", [4, 16])  # hundreds of duplicates, whose lists overflow, and few
def test_ties_come_by_index_and_self_first_on_a_gpu(generator, width, metric):
    queries, database = (on_a_grid(generator, rows, width=width).cuda() for rows in (5000, 9000))
    for k in (1, 30):
        for given in (None, database):
            got = ops.knn(queries, k, database=given, metric=metric, impl="triton")
            expected = reference.knn(queries, k, database=given, metric=metric)
            assert torch.equal(got[1], expected[1])
            torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-6)


@pytest.mark.cuda
def test_few_rows_are_left_to_plain_products(generator):
    """On features of a network's kind the certificate holds for nearly every row, or the search would be slow."""
    from benchmarks.features import pedestrians
    from salcr.kernels import knn as kernels

    x = pedestrians(12_000, 2048).cuda()
    scores, indices = x.new_empty(len(x), 29), torch.empty(len(x), 29, dtype=torch.int64, device="cuda")
    assert kernels.search(x, x, 29, scores, indices, exclude_self=True, sqeuclidean=False).sum() <= 12


@pytest.mark.cuda
def test_strides_beyond_31_bits(generator):
    """Rows that start past element 2^31 of the database (8 GB); the nearest of each is its copy there."""
    database = torch.randn(2**20 + 300, 2048, device="cuda")
    index = torch.arange(len(database) - 40, len(database), device="cuda")
    queries = database[index].clone()
    _, indices = ops.knn(queries, 1, database=database, impl="triton")
    assert torch.equal(indices[:, 0], index)


@pytest.mark.cuda
def test_error_budget_on_a_gpu(generator):
    x = torch.randn(500, 2048, generator=generator).cuda()
    values, indices = ops.knn(x, 9, impl="triton")
    exact, eager = (F.normalize(y, dim=1) for y in (x.double(), x))
    exact, eager = ((y @ y.T).gather(1, indices) for y in (exact, eager))
    assert_within_budget(values, exact, eager, terms=x.shape[1], magnitude=1.0)
