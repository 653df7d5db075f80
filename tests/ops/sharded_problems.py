"""Rows for knn and cluster with a group, and what one rank of it computes; run in several processes or in one."""

import warnings
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from salcr import ops
from salcr.ops import _sharded, _sharded_search

SMALL = {  # so that every rank sends several pieces
    (_sharded_search, "PIECE_BYTES"): 5000,
    (_sharded, "PIECE_ROWS"): 13,
    (_sharded, "PAIRS"): 5,
}


@dataclass(frozen=True)
class Case:
    operator: str
    kind: str  # of features
    rows: tuple[int, ...]  # of three ranks; two share them as the first, and the others together
    options: dict = field(default_factory=dict)
    width: int = 64
    database: tuple[int, ...] | None = None

    @property
    def name(self):
        return f"{self.operator} {self.kind} {self.rows} {self.options}"


UNEVEN, EMPTY, TINY = (90, 11, 49), (70, 0, 33), (1, 0, 2)
CASES = (
    Case("knn", "exact", UNEVEN, dict(k=30)),
    Case("knn", "exact", EMPTY, dict(k=103, metric="sqeuclidean")),
    Case("knn", "doubled", UNEVEN, dict(k=40)),
    Case("knn", "doubled", UNEVEN, dict(k=9, metric="sqeuclidean", impl="eager")),
    Case("knn", "float64", UNEVEN, dict(k=20)),
    Case("knn", "float16", UNEVEN, dict(k=20)),
    Case("knn", "exact", TINY, dict(k=1)),
    Case("knn", "exact", (0, 12, 5), dict(k=15), database=UNEVEN),
    Case("knn", "doubled", UNEVEN, dict(k=3, metric="sqeuclidean"), database=(0, 0, 3)),
    *(Case("cluster", "exact", UNEVEN, dict(eps=eps, k1=12, min_samples=m)) for eps in (0.3, 0.6) for m in (1, 4)),
    Case("cluster", "doubled", UNEVEN, dict(eps=0.6, k1=15)),
    Case("cluster", "doubled", UNEVEN, dict(eps=0.8, k1=20, min_samples=8)),  # two rows border on several clusters
    Case("cluster", "doubled", EMPTY, dict(eps=0.5, k1=9, k2=1)),
    Case("cluster", "float64", UNEVEN, dict(eps=0.6, k1=14)),
    Case("cluster", "float64", UNEVEN, dict(eps=0.7, k1=12, k2=3, min_samples=3)),
    Case("cluster", "float16", EMPTY, dict(eps=0.6, k1=14)),
    Case("cluster", "noise", UNEVEN, dict(eps=0.2, k1=10)),
    Case("cluster", "equal", EMPTY, dict(eps=0.6, k1=300)),
    Case("cluster", "exact", UNEVEN, dict(eps=0.999, k1=10)),
    Case("cluster", "exact", UNEVEN, dict(eps=1.0, min_samples=150)),
    Case("cluster", "exact", UNEVEN, dict(eps=1.5, min_samples=151)),
    Case("cluster", "exact", TINY, dict(eps=0.6)),
)


def features_of(case, seed=0):
    """People in groups of eight, and strangers, spread over the rows. Except in float64 their products are exact."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(case.rows)
    centres = torch.randn(max(1, rows // 9), case.width, generator=generator)
    features = centres[torch.randint(0, len(centres), (rows,), generator=generator)]
    features = features + 0.7 * torch.randn(rows, case.width, generator=generator)
    features[::7] = torch.randn(len(features[::7]), case.width, generator=generator)
    if case.kind == "float64":
        return features.double()
    if case.kind == "noise":
        features = torch.randn(rows, case.width, generator=generator)
    if case.kind == "equal":
        features = torch.ones(rows, case.width)
    features = features.sign()  # of length 8: what is normalised has entries ±1/8
    if case.kind == "doubled":
        features[rows // 2 : 2 * (rows // 2)] = features[: rows // 2]
    return features.half() if case.kind == "float16" else features


def database_of(case):
    if case.database is None:
        return None
    return features_of(Case(case.operator, case.kind, case.database, width=case.width), seed=1)


def shard(tensor, rows, rank, size):
    """The block of ``rank`` in a group of 1, 2 or 3."""
    rows = {1: (sum(rows),), 2: (rows[0], sum(rows[1:])), 3: rows}[size]
    return tensor.split(rows)[rank] if size > 1 else tensor


def of_all(case):
    """What one process finds."""
    options = dict(case.options)
    if case.operator == "cluster":
        return (ops.cluster(features_of(case), **options),)
    return ops.knn(features_of(case), options.pop("k"), database=database_of(case), **options)


def of_rank(case, group):
    """What this rank of the group finds; clusters once more from neighbours that are given."""
    place = dist.get_rank(group), dist.get_world_size(group)
    options, features = dict(case.options), shard(features_of(case), case.rows, *place)
    if case.operator == "cluster":
        labels = ops.cluster(features, **options, group=group)
        some = min(options.get("k1", 30) + 2, sum(case.rows))  # more than are wanted, or of no rows fewer
        lists = [
            shard(x, case.rows, *place)[:, : some if len(features) else 1] for x in ops.knn(features_of(case), some)
        ]
        assert torch.equal(labels, ops.cluster(features, **options, neighbors=lists, group=group)), case.name
        return (labels,)
    database = database_of(case)
    if database is not None:
        database = shard(database, case.database, *place)
    return ops.knn(features, options.pop("k"), database=database, **options, group=group)


def complaints(group):
    """What wrong calls of the second of two raise on this rank; each call is made by both."""
    rank = dist.get_rank(group)
    good = torch.eye(6)
    nan = torch.where(torch.arange(6)[:, None] == 4, torch.nan, good)
    calls = {
        "NaN": lambda x: ops.knn(x, 3, group=group),
        "NaN in cluster": lambda x: ops.cluster(x, eps=0.6, group=group),
        "NaN in database": lambda x: ops.knn(good, 3, database=x, group=group),
        "width": lambda x: ops.cluster(x, eps=0.6, group=group),
        "dtype": lambda x: ops.knn(x, 3, group=group),
        "no tensor": lambda x: ops.knn(x, 3, group=group),
        "k": lambda x: ops.knn(good, x, group=group),
        "large k": lambda x: ops.knn(good, 13, group=group),
        "eps": lambda x: ops.cluster(good, eps=x, group=group),
        "method": lambda x: ops.knn(good, 3, method="faiss-ivf", group=group),
        "impl": lambda x: ops.cluster(good, eps=0.6, impl=x, group=group),
        "neighbors": lambda x: ops.cluster(good, eps=0.6, k1=2, neighbors=x, group=group),
        "no rows": lambda x: ops.knn(good[:0], 1, group=group),
        "metric": lambda x: ops.knn(good, 3, metric=x, group=group),
        "a database": lambda x: ops.knn(good, 3, database=x, group=group),
        "lists": lambda x: ops.cluster(good, eps=0.6, k1=2, neighbors=x, group=group),
    }
    numbers = {"eps": 0.6, "min_samples": 4, "k1": 30, "k2": 6}
    for name in numbers:
        calls[f"another {name}"] = lambda x, name=name: ops.cluster(good, group=group, **numbers | {name: x})
    twins = torch.stack([torch.arange(12), (torch.arange(12) + 6) % 12], dim=1)  # the rows of both ranks are the same
    lists = [(torch.ones(6, 2), twins[rows]) for rows in (slice(6), slice(6, 12))]
    wrong = {
        "NaN": nan,
        "NaN in cluster": nan,
        "NaN in database": nan,
        "width": good[:, :5],
        "dtype": good.double(),
        "no tensor": None,
    }
    wrong |= {"k": 4, "large k": 13, "eps": -1.0, "method": 0, "impl": "reference", "no rows": None}
    right = {"k": 3, "large k": 13, "eps": 0.6, "method": 0, "impl": "cpp", "no rows": None, "neighbors": lists[0]}
    wrong["neighbors"] = lists[0]  # which are the first rank's
    wrong |= {"metric": "sqeuclidean", "a database": None, "lists": None}
    right |= {"metric": "cosine", "a database": good, "lists": lists[0]}
    wrong |= {f"another {name}": value / 2 if name == "eps" else 2 for name, value in numbers.items()}
    right |= {f"another {name}": value for name, value in numbers.items()}
    found = {}
    for name, call in calls.items():
        try:
            call((wrong if rank == 1 else right).get(name, good))
        except (TypeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def run_rank(rank, size, folder):
    """All cases on three ranks in small pieces; before, on the last two, whose numbers in their group are others.

    These make wrong calls, too. Results go to ``folder``.
    """
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_deterministic_debug_mode("error")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    found, two = {}, dist.new_group([1, 2])
    if rank:
        found |= {(case.name, 2): of_rank(case, two) for case in CASES}
    for (module, name), value in SMALL.items():
        setattr(module, name, value)
    found |= {(case.name, size): of_rank(case, dist.group.WORLD) for case in CASES}
    if rank:
        found["complaints"] = complaints(two)
    else:
        try:
            ops.knn(torch.eye(6), 3, group=two)
        except ValueError as error:
            found["complaints"] = {"member": str(error)}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
