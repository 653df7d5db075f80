"""Approximate nearest neighbours by faiss: rows in cells around centroids, of which the nearest few are searched.

faiss is imported at the first call and so after torch: the other way round, their OpenMP runtimes are known to clash.
"""

import math

import torch
import torch.nn.functional as F

from salcr.ops.backends.eager.knn import fill

PROBED = 16  # one of so many cells is searched


def knn(
    queries: torch.Tensor, k: int, *, database: torch.Tensor | None = None, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.knn`: about the square root of N cells, on the host."""
    exclude_self, device, dtype = database is None, queries.device, torch.promote_types(queries.dtype, torch.float32)
    queries = queries.to("cpu", torch.float32).contiguous()
    database = queries if exclude_self else database.to("cpu", torch.float32).contiguous()
    if metric == "cosine":
        queries = F.normalize(queries, dim=1)
        database = queries if exclude_self else F.normalize(database, dim=1)
    scores, indices = _search(queries, database, k, metric)
    rows = torch.arange(len(queries))
    if exclude_self:  # a row that is in its own list goes to the end of it, and then before all others
        itself = indices == rows[:, None]
        scores, indices = _ordered(scores.masked_fill(itself, -torch.inf), indices)
        scores_with_itself = (
            queries.square().sum(1, keepdim=True) if metric == "cosine" else torch.zeros(len(queries), 1)
        )
        scores = torch.cat([scores_with_itself, scores[:, : k - 1]], 1)
        indices = torch.cat([rows[:, None], indices[:, : k - 1]], 1)
    fill(rows[(indices < 0).any(1)], scores, indices, queries, database, exclude_self, metric)
    values = scores if metric == "cosine" else 0 - scores  # 0, not -0
    return values.to(device, dtype), indices.to(device)


def _search(queries: torch.Tensor, database: torch.Tensor, k: int, metric: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, the larger the nearer, and indices ``[Q, k]``; -Inf and -1 where the cells hold fewer rows than ``k``."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    width, cells = database.shape[1], math.isqrt(len(database))
    measure = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    quantizer = faiss.IndexFlat(width, measure)
    index = faiss.IndexIVFFlat(quantizer, width, cells, measure)
    index.cp.min_points_per_centroid = 1  # or it complains of a database below 1,521 rows
    index.train(database.numpy())
    index.add(database.numpy())
    index.nprobe = -(-cells // PROBED)
    scores, indices = map(torch.from_numpy, index.search(queries.numpy(), k))
    scores = (scores if metric == "cosine" else -scores).masked_fill(indices < 0, -torch.inf)
    return _ordered(scores, indices)


def _ordered(scores: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The larger first, equal ones by index."""
    indices, order = indices.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, indices.gather(1, order)
