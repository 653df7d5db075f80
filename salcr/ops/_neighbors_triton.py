"""Nearest neighbours by the kernels of :mod:`salcr.kernels.knn`, and in plain PyTorch for the rows they leave out."""

import torch
import torch.nn.functional as F

from salcr.reference.neighbors import BLOCK_BYTES, largest, scores_of


def knn(
    queries: torch.Tensor, k: int, *, database: torch.Tensor | None = None, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.knn`."""
    own = database is None
    queries = queries.float()
    database = queries if own else database.float()
    if metric == "cosine":
        queries = F.normalize(queries, dim=1)
        database = queries if own else F.normalize(database, dim=1)
    queries = queries.contiguous()
    database = queries if own else database.contiguous()
    scores, indices = search(queries, database, k, own, metric)
    return (scores if metric == "cosine" else -scores), indices


def search(
    queries: torch.Tensor, database: torch.Tensor, k: int, own: bool, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores ``[Q, k]``, the larger the nearer, and indices ``[Q, k]``; float32 rows, the same tensor where ``own``."""
    from salcr.kernels import knn as kernels

    count = len(queries)
    scores, indices = queries.new_empty(count, k), torch.empty(count, k, dtype=torch.int64, device=queries.device)
    if own:
        scores[:, 0] = torch.linalg.vector_norm(queries, dim=1).square() if metric == "cosine" else 0
        indices[:, 0] = torch.arange(count, device=queries.device)
    if k == own:
        return scores, indices
    if k >= len(database):  # there is nothing to select
        missing = torch.ones(count, dtype=torch.bool, device=queries.device)
    else:
        found = kernels.search(queries, database, k - own, own=own, near=metric != "cosine")
        scores[:, own:], indices[:, own:], missing = found
    for rows in missing.nonzero().squeeze(1).split(max(1, BLOCK_BYTES // (4 * len(database)))):
        values = scores_of(queries[rows], database, metric)
        scores[rows], indices[rows] = largest(values, k, rows if own else None)
    return scores, indices
