"""knn and cluster with a group are what one process finds in all rows."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import adjusted_rand_score

from benchmarks.features import pedestrians
from salcr import ops
from salcr.ops import _sharded_search
from salcr.ops.backends.cpp import knn as cpp_knn
from tests import forked
from tests.ops.sharded_problems import CASES, SMALL, features_of, of_all, of_rank, run_rank

SPREAD = [case for case in CASES if case.options.get("eps", 1) < 0.8 and case.kind not in ("noise", "equal")]
PAGE = Path(__file__).resolve().parents[2] / "docs/scale.md"
COMPLAINTS = {
    "NaN": "ValueError: rank 1: queries has NaN or Inf, first in row 10",
    "NaN in cluster": "ValueError: rank 1: features has NaN or Inf, first in row 10",
    "NaN in database": "ValueError: rank 1: database has NaN or Inf, first in row 10",
    "width": "ValueError: the width of features must be the same on all ranks: rank 0 has 6, 1 5",
    "dtype": "ValueError: the dtype of queries must be the same on all ranks: rank 0 has torch.float32, "
    "1 torch.float64",
    "no tensor": "TypeError: rank 1: queries must be a torch.Tensor, got NoneType",
    "k": "ValueError: k must be the same on all ranks: rank 0 has 3, 1 4",
    "large k": "ValueError: k must be between 1 and 12, got 13",
    "eps": "ValueError: rank 1: eps must be positive, got -1.0",
    "method": "ValueError: rank 0: with a group method must be 'exact', got 'faiss-ivf'; docs/scale.md has another way",
    "impl": "BackendError: rank 1: with a group cluster has the backend cpp alone, got impl='reference'",
    "neighbors": "ValueError: rank 1: neighbors[1] must be rows below 12 that start with the image itself",
    "no rows": "ValueError: no rank of the group has a row",
    "metric": "ValueError: metric must be the same on all ranks: rank 0 has cosine, 1 sqeuclidean",
    "a database": "ValueError: database must be the same on all ranks: rank 0 has True, 1 False",
    "lists": "ValueError: neighbors must be the same on all ranks: rank 0 has True, 1 False",
    "another eps": "ValueError: eps must be the same on all ranks: rank 0 has 0.6, 1 0.3",
    "another min_samples": "ValueError: min_samples must be the same on all ranks: rank 0 has 4, 1 2",
    "another k1": "ValueError: k1 must be the same on all ranks: rank 0 has 30, 1 2",
    "another k2": "ValueError: k2 must be the same on all ranks: rank 0 has 6, 1 2",
}


@pytest.fixture
def alone(tmp_path):
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def same(got, wanted):
    if got.dtype == torch.float64:  # products of other blocks, otherwise rounded
        return torch.allclose(got, wanted, rtol=0, atol=1e-14)
    return got.dtype == wanted.dtype and torch.equal(got, wanted)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_group_of_one_process_finds_what_no_group_finds(alone, monkeypatch, case):
    assert all(map(same, of_rank(case, alone), of_all(case)))
    for (module, name), value in SMALL.items():
        monkeypatch.setattr(module, name, value)
    assert all(map(same, of_rank(case, alone), of_all(case)))


CHANGES = {
    "want a gradient": torch.Tensor.requires_grad_,
    "stand behind a negative bit": lambda x: torch._neg_view(-x),
    "lie in columns": lambda x: x.mT.contiguous().mT,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_rows_may(alone, change):
    rows, queries = features_of(SPREAD[0]), torch.randn(9, 64)
    (lists, labels), options = (ops.knn(rows, 12), *of_all(SPREAD[0])), SPREAD[0].options
    given = change(rows.clone())
    assert torch.equal(ops.cluster(given, **options, group=alone), labels)
    for found, wanted in (
        (ops.knn(given, 12, group=alone), lists),
        (ops.knn(change(queries.clone()), 7, database=given, group=alone), ops.knn(queries, 7, database=rows)),
    ):
        assert torch.equal(found[1], wanted[1]) and not found[0].requires_grad
    lists = change(lists[0].clone()), torch._neg_view(-lists[1])
    assert torch.equal(ops.cluster(rows, **options, neighbors=lists, group=alone), labels)


def test_no_product_of_two_pieces_is_made_twice(alone, monkeypatch):
    made, of_both = [], cpp_knn.nearest_of_both

    def counted(x, y, k, floors):
        made.append(len(x) * len(y))
        return of_both(x, y, k, floors)

    monkeypatch.setattr(_sharded_search, "PIECE_BYTES", 30 * 64 * 4)
    monkeypatch.setattr(cpp_knn, "nearest_of_both", counted)
    rows = torch.randn(150, 64)
    assert torch.equal(ops.knn(rows, 9, group=alone)[1], ops.knn(rows, 9)[1])
    assert made == [30 * 30] * 10


@pytest.mark.parametrize("case", [case for case in SPREAD if case.rows[0] > 9], ids=lambda case: case.name)
def test_clusters_are_spread_over_the_shards(case):
    """Without noise and clusters that several ranks share the tests above would show little."""
    (labels,) = of_all(case)
    first, others = (set(part.tolist()) - {-1} for part in labels.split([case.rows[0], sum(case.rows[1:])]))
    assert len(first & others) >= 5
    assert (labels < 0).any() == (case.options.get("min_samples") != 1)


def test_a_group_that_is_none():
    features = torch.eye(4)
    with pytest.raises(ValueError, match=r"^group needs torch.distributed.init_process_group$"):
        ops.knn(features, 2, group=object())


def test_a_group_of_another_type(alone):
    with pytest.raises(TypeError, match=r"^group must be a torch.distributed.ProcessGroup, got str$"):
        ops.cluster(torch.eye(4), eps=0.5, group="world")


@pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")
def test_the_index_of_the_page_finds_the_clusters(alone):
    """docs/scale.md, what it shows of ``neighbors=``: with and without a group."""
    (example,) = re.findall(r"^```python\n(import faiss.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    features = pedestrians(800, 64)
    namespace = {"features": features}
    exec(example, namespace)
    labels, exact = namespace["labels"], ops.cluster(features, eps=0.6)
    assert exact.max() > 10 and adjusted_rand_score(exact, labels) > 0.9
    lists = namespace["neighbors_by_index"](features, 30)
    one = ops.cluster(features, eps=0.6, neighbors=lists)
    assert torch.equal(one, ops.cluster(features, eps=0.6, neighbors=lists, group=alone))


def test_two_and_three_processes_find_what_one_finds(tmp_path):
    """Uneven and empty shards, pieces of several sizes, ties and duplicates across shards; errors reach all ranks."""
    forked.context()  # what all tests fork from, with what that has imported
    torch.multiprocessing.start_processes(run_rank, (3, tmp_path), nprocs=3, start_method="forkserver")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    different = []
    for case in CASES:
        wanted = of_all(case)
        for size in (2, 3):
            parts = zip(*(found[case.name, size] for found in ranks[-size:]), strict=True)
            if not all(map(same, map(torch.cat, parts), wanted)):
                different.append((case.name, size))
    assert not different
    assert ranks[1]["complaints"] == ranks[2]["complaints"] == COMPLAINTS
    assert ranks[0]["complaints"] == {"member": "this process is not a member of group"}
