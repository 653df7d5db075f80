"""The kernels of :mod:`salcr.kernels.knn` on a GPU; the same without one: tests/kernels."""

import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from tests.ops.contract import assert_within_budget
from tests.ops.test_neighbors import near_ties, on_a_grid

pytestmark = pytest.mark.cuda


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


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("rows", "size", "width", "k"),
    [(9001, None, 2048, 30), (1000, 30_000, 384, 20), (131, 70, 100, 70), (300, None, 7, 2), (2000, 9000, 64, 1024)],
)
def test_neighbours(generator, rows, size, width, k, dtype, metric):
    queries = (torch.randn(rows, width, generator=generator) + 0.5).to("cuda", dtype)
    database = None if size is None else (torch.randn(size, width, generator=generator) + 0.5).to("cuda", dtype)
    got, again = (ops.knn(queries, k, database=database, metric=metric, impl="triton") for _ in range(2))
    for x, same in zip(got, again, strict=True):
        assert torch.equal(x, same)
    assert_right_outside_the_tie_margin(got, queries, k, database, metric)


@pytest.mark.parametrize("k", [2, 30, 200])
def test_near_ties(generator, k):
    x = near_ties(generator, rows=9000, width=64).cuda()
    assert_right_outside_the_tie_margin(ops.knn(x, k, impl="triton"), x, k, None, "cosine")


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("width", [4, 16])  # hundreds of duplicates, whose lists overflow, and few
def test_ties_come_by_index_and_self_first(generator, width, metric):
    queries, database = (on_a_grid(generator, rows, width=width).cuda() for rows in (5000, 9000))
    for k in (1, 30):
        for given in (None, database):
            got = ops.knn(queries, k, database=given, metric=metric, impl="triton")
            expected = reference.knn(queries, k, database=given, metric=metric)
            assert torch.equal(got[1], expected[1])
            torch.testing.assert_close(got[0], expected[0], rtol=0, atol=1e-6)


def test_few_rows_are_left_to_plain_products(generator):
    """On features of a network's kind the certificate holds for nearly every row, or the search would be slow."""
    from benchmarks.features import pedestrians
    from salcr.kernels import knn as kernels

    x = pedestrians(12_000, 2048).cuda()
    scores, indices = x.new_empty(len(x), 29), torch.empty(len(x), 29, dtype=torch.int64, device="cuda")
    assert kernels.search(x, x, 29, scores, indices, own=True, near=False).sum() <= 12


def test_strides_beyond_31_bits(generator):
    """Rows that start past element 2^31 of the database (8 GB); the nearest of each is its copy there."""
    database = torch.randn(2**20 + 300, 2048, device="cuda")
    index = torch.arange(len(database) - 40, len(database), device="cuda")
    queries = database[index].clone()
    _, indices = ops.knn(queries, 1, database=database, impl="triton")
    assert torch.equal(indices[:, 0], index)


def test_error_budget(generator):
    x = torch.randn(500, 2048, generator=generator).cuda()
    values, indices = ops.knn(x, 9, impl="triton")
    exact, eager = (F.normalize(y, dim=1) for y in (x.double(), x))
    assert_within_budget(values, (exact @ exact.T).gather(1, indices), (eager @ eager.T).gather(1, indices))
