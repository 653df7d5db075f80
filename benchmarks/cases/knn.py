"""The neighbour search of clustering and propagation, in one modality and from one to the other."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from benchmarks.case import Case
from benchmarks.features import pedestrians
from salcr import ops, reference

K = 30
MARGIN = 1e-5  # of values, within which two neighbours may change places


def same_neighbours(outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    """The same values, and the same images but for ties; the last may give way to one that was left out."""
    (values, indices), (expected_values, expected_indices) = outputs, expected
    torch.testing.assert_close(values, expected_values, rtol=0, atol=MARGIN)
    close = expected_values.diff().abs() <= 2 * MARGIN
    tied = F.pad(close, (1, 0), value=False) | F.pad(close, (0, 1), value=True)
    assert ((indices == expected_indices) | tied).all()


def _own(device: str, quick: bool) -> tuple[torch.Tensor]:
    return (pedestrians(*((400, 64) if quick else (22258, 2048))).to(device),)


def _across(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    queries, size, width = (150, 400, 64) if quick else (11909, 22258, 2048)
    features = pedestrians(queries + size, width).to(device)
    return features[:queries].clone(), features[queries:].clone()


def _compiled(queries, database=None):
    return torch.compile(reference.knn)(queries, K, database=database)


def _search(impl: str):
    return lambda queries, database=None: ops.knn(queries, K, database=database, impl=impl)


def _faiss(queries, database=None):
    """Exact search by inner products, which for features of length 1 are cosines."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    database = queries if database is None else database
    values, indices = faiss.knn(queries.numpy(), database.numpy(), K, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(values), torch.from_numpy(indices)


VARIANTS = {"eager": _search("eager"), "compiled": _compiled, "faiss": _faiss}
VARIANTS |= {impl: _search(impl) for impl in ("cpp", "triton")}
CASES = (
    Case(
        "knn",
        f"22,258 features of 2048 among themselves, k {K}",
        _own,
        VARIANTS,
        same_neighbours,
        floor_flops=lambda x: len(x) ** 2 * x.shape[1],
    ),
    Case(
        "knn-across",
        f"11,909 features of 2048 in a database of 22,258, k {K}",
        _across,
        VARIANTS,
        same_neighbours,
        floor_flops=lambda x, y: 2 * len(x) * len(y) * x.shape[1],
    ),
)
