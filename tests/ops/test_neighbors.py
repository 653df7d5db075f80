import pytest
import torch

from salcr import ops
from salcr.reference import neighbors
from tests.ops.contract import assert_compiles, assert_operator_contract, assert_within_budget


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
def test_neighbours_are_those_of_a_sort(generator, metric, own):
    queries = torch.randn(31, 8, generator=generator, dtype=torch.float64)
    database = None if own else torch.randn(17, 8, generator=generator, dtype=torch.float64)
    values, indices = by_hand(queries, 5, database, metric)
    got = ops.knn(queries, 5, database=database, metric=metric)
    assert torch.equal(got[1], indices)
    torch.testing.assert_close(got[0], values.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_ties_come_by_index_and_self_first(generator, monkeypatch, metric, own, k):
    monkeypatch.setattr(neighbors, "BLOCK_BYTES", 7 * 40 * 4)  # seven rows a block
    queries = on_a_grid(generator, 40, width=4)  # 16 different rows: every one has duplicates
    database = None if own else on_a_grid(generator, 40, width=4)
    values, indices = by_hand(queries, k, database, metric)
    got = ops.knn(queries, k, database=database, metric=metric)
    assert torch.equal(got[1], indices)
    torch.testing.assert_close(got[0], values, rtol=0, atol=1e-6)
    if own:
        assert torch.equal(got[1][:, 0], torch.arange(40))


def test_error_budget(generator):
    x = torch.randn(50, 64, generator=generator)
    values, indices = ops.knn(x, 9)
    exact, eager = (torch.nn.functional.normalize(y, dim=1) for y in (x.double(), x))
    assert_within_budget(values, (exact @ exact.T).gather(1, indices), (eager @ eager.T).gather(1, indices))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(generator, dtype):
    x = torch.randn(20, 8, generator=generator).to(dtype)
    for got, expected in zip(ops.knn(x, 4), ops.knn(x.float(), 4), strict=True):
        assert torch.equal(got, expected)


def test_edge_cases():
    values, indices = ops.knn(torch.ones(1, 3), 1)
    assert indices.tolist() == [[0]] and values.item() == pytest.approx(1)
    assert ops.knn(torch.ones(1, 3), 1, metric="sqeuclidean")[0].item() == 0
    assert ops.knn(torch.zeros(5, 3), 5)[1][3].tolist() == [3, 0, 1, 2, 4]
    far = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    values, indices = ops.knn(torch.tensor([[1.0, 0.0]]), 3, database=far, metric="sqeuclidean")
    assert indices.tolist() == [[1, 0, 2]] and values.tolist() == [[0, 4, 5]]
    assert not ops.knn(far.requires_grad_(), 2)[0].requires_grad


def test_contract(generator):
    x, y = (torch.randn(n, 6, generator=generator) for n in (9, 12))
    assert_operator_contract(
        torch.ops.salcr.knn, (x, 3, None, "cosine", "auto"), (x.double(), 4, y.double(), "sqeuclidean", "auto")
    )
    assert_compiles(lambda x: ops.knn(x, 3), (x,), (y,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(k=6), ValueError, "k must be between 1 and 5, got 6"),
        (dict(k=0), ValueError, "k must be"),
        (dict(k=9, database=torch.zeros(8, 3)), ValueError, "between 1 and 8"),
        (dict(database=torch.zeros(8, 4)), ValueError, "rows of width 4, queries of width 3"),
        (dict(database=torch.zeros(8, 3).double()), TypeError, "database is torch.float64"),
        (dict(queries=torch.zeros(0, 3)), ValueError, "queries is empty"),
        (dict(queries=torch.zeros(5, 3).long()), TypeError, "queries must be floating"),
        (dict(queries=torch.tensor([[0.0], [1.0], [torch.nan], [torch.inf]])), ValueError, "queries has NaN.*row 2"),
        (dict(database=torch.full((8, 3), torch.inf)), ValueError, "database has NaN or Inf, first in row 0"),
        (dict(metric="l1"), ValueError, "metric must be one of"),
        (dict(impl="cuda"), ValueError, "has the backends"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.knn(**(dict(queries=torch.ones(5, 3), k=2) | arguments))
