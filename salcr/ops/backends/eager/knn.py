"""Nearest neighbours of chosen rows by plain products and a selection, for what a faster search leaves out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from salcr.reference.knn import BLOCK_BYTES, largest, scores_of


def fill(
    rows: torch.Tensor,
    scores: torch.Tensor,
    indices: torch.Tensor,
    queries: torch.Tensor,
    database: torch.Tensor,
    own: bool,
    metric: str,
) -> None:
    """Write the ``rows`` of ``scores [Q, k]``, the larger the nearer, and of ``indices [Q, k]``, block by block.

    Args:
        rows: ``[R]``, int64, which queries.
        queries, database: float32; rows of unit length for ``"cosine"``. The same tensor where ``own``.
    """
    for some in rows.split(max(1, BLOCK_BYTES // (4 * len(database)))):
        with _single_products():
            found = scores_of(queries[some], database, metric)
        scores[some], indices[some] = largest(found, scores.shape[1], some if own else None)


@contextmanager
def _single_products() -> Iterator[None]:
    """Products in float32, also where PyTorch is allowed to make them in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
