"""Nearest neighbours by products in blocks of queries and a selection in each: what runs without a compiled backend.

:func:`fill` does the same for chosen queries, for the rows that a faster search leaves out.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from salcr.ops._checks import wide_dtype
from salcr.reference.knn import scores_of

BLOCK_BYTES = 2**26  # scores that are in memory at a time


def knn(
    queries: torch.Tensor, k: int, *, database: torch.Tensor | None = None, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.knn`."""
    exclude_self = database is None
    queries, database = both_sides(queries, database, metric)
    scores = queries.new_empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    rows = torch.arange(len(queries), device=queries.device)
    fill(rows, scores, indices, queries, database, exclude_self, metric)
    return (scores if metric == "cosine" else 0 - scores), indices  # 0, not -0


def both_sides(queries: torch.Tensor, database: torch.Tensor | None, metric: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in the dtype that is computed in, of unit length for ``"cosine"``; without a database twice the queries."""
    dtype, alone = wide_dtype(queries), database is None
    queries = queries.to(dtype)
    database = queries if alone else database.to(dtype)
    if metric == "cosine":
        queries = F.normalize(queries, dim=1)
        database = queries if alone else F.normalize(database, dim=1)
    return queries, database


def fill(
    rows: torch.Tensor,
    scores: torch.Tensor,
    indices: torch.Tensor,
    queries: torch.Tensor,
    database: torch.Tensor,
    exclude_self: bool,
    metric: str,
) -> None:
    """Write the ``rows`` of ``scores [Q, k]``, the larger the nearer, and of ``indices [Q, k]``, block by block.

    Args:
        rows: ``[R]``, int64: which queries; R may be 0.
        queries, database: float32 or float64; rows of unit length for ``"cosine"``. The same tensor where
            ``exclude_self``, which leaves every query out of its own search and puts it first in its list.
    """
    if len(rows) == 0:
        return
    for block in rows.split(max(1, BLOCK_BYTES // (len(database) * queries.element_size()))):
        with _full_precision_products():
            found = scores_of(queries[block], database, metric)
        scores[block], indices[block] = largest(found, scores.shape[1], block if exclude_self else None)


def largest(scores: torch.Tensor, k: int, first: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``k`` largest of each row, equal ones by index, and column ``first[row]`` before all others."""
    if first is not None:
        first = first.unsqueeze(1)
        first_values = scores.gather(1, first)
        scores.scatter_(1, first, torch.inf)
    values, indices = scores.topk(min(k + 1, scores.shape[1]))
    if values.shape[1] > k:  # topk leaves open which of several equal values it takes at the border
        tied = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        values, indices = values[:, :k].contiguous(), indices[:, :k].contiguous()
        if len(tied):
            resorted = scores[tied].sort(dim=1, descending=True, stable=True)
            values[tied], indices[tied] = resorted.values[:, :k], resorted.indices[:, :k]
    indices, order = indices.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    if first is not None:
        values[:, :1] = first_values
    return values, indices.gather(1, order)


@contextmanager
def _full_precision_products() -> Iterator[None]:
    """Products in float32, also where PyTorch is allowed to make them in TF32 or bfloat16."""
    settings = [backend.matmul for backend in (torch.backends.cuda, torch.backends.mkldnn)]
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
