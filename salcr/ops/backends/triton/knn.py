"""Nearest neighbours by the kernels of :mod:`salcr.kernels.knn`, and in plain PyTorch for the rows they leave out."""

import torch

from salcr.ops.backends.eager.knn import both_sides, fill


def knn(
    queries: torch.Tensor, k: int, *, database: torch.Tensor | None = None, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.knn`."""
    exclude_self = database is None
    queries, database = queries.contiguous(), None if exclude_self else database.contiguous()
    queries, database = both_sides(queries, database, metric)
    scores, indices = search(queries, database, int(k), exclude_self, metric)  # Triton takes no integers of NumPy's
    return (scores if metric == "cosine" else 0 - scores), indices  # 0, not -0


def search(
    queries: torch.Tensor, database: torch.Tensor, k: int, exclude_self: bool, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores ``[Q, k]``, the larger the nearer, and indices ``[Q, k]``.

    Synchronises with the device once, to learn which rows the kernels left out.

    Args:
        queries, database: float32, contiguous; the same tensor where ``exclude_self``, which leaves every row out of
            its own search and puts it first in its list.
    """
    scores, indices, left_out = search_most(queries, database, k, exclude_self, metric)
    fill(left_out.nonzero().squeeze(1), scores, indices, queries, database, exclude_self, metric)
    return scores, indices


def search_most(
    queries: torch.Tensor, database: torch.Tensor, k: int, exclude_self: bool, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """:func:`search` without its wait: also ``[Q]``, which rows the kernels left out. Nothing is written there."""
    from salcr.kernels import knn as kernels

    count, wanted = len(queries), k - exclude_self
    scores, indices = queries.new_empty(count, k), torch.empty(count, k, dtype=torch.int64, device=queries.device)
    if exclude_self:
        scores[:, 0] = torch.linalg.vector_norm(queries, dim=1).square() if metric == "cosine" else 0
        indices[:, 0] = torch.arange(count, device=queries.device)
    if not (0 < wanted <= kernels.MAX_K and k < len(database)):
        return scores, indices, torch.full((count,), wanted > 0, device=queries.device)
    left_out = kernels.search(
        queries,
        database,
        wanted,
        scores[:, exclude_self:],
        indices[:, exclude_self:],
        exclude_self=exclude_self,
        sqeuclidean=metric != "cosine",
    )
    return scores, indices, left_out
