"""Nearest neighbours with a defined order of ties (SPEC 2, step 1), in plain PyTorch."""

import torch
import torch.nn.functional as F

BLOCK_BYTES = 2**26  # scores that are in memory at a time


def knn(
    queries: torch.Tensor, k: int, *, database: torch.Tensor | None = None, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first ``k`` of each row of a stable sort of all scores, block by block; see :func:`salcr.ops.knn`."""
    own = database is None
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    queries = queries.to(dtype)
    database = queries if own else database.to(dtype)
    if metric == "cosine":
        queries, database = F.normalize(queries, dim=-1), F.normalize(database, dim=-1)
    block = max(1, BLOCK_BYTES // (len(database) * queries.element_size()))
    found = []
    for start in range(0, len(queries), block):
        scores = scores_of(queries[start : start + block], database, metric)
        found.append(largest(scores, k, torch.arange(len(scores), device=scores.device) + start if own else None))
    values, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return (values if metric == "cosine" else -values), indices


def scores_of(queries: torch.Tensor, database: torch.Tensor, metric: str) -> torch.Tensor:
    """The larger, the nearer: inner products, or squared distances with their sign turned."""
    scores = queries @ database.T
    if metric == "cosine":
        return scores
    return scores.mul_(2).sub_(queries.square().sum(1, keepdim=True)).sub_(database.square().sum(1)).clamp_max_(0)


def largest(scores: torch.Tensor, k: int, own: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``k`` largest of each row, equal ones by index, and column ``own[row]`` before all others."""
    if own is not None:
        own = own.unsqueeze(1)
        own_values = scores.gather(1, own)
        scores.scatter_(1, own, torch.inf)
    values, indices = scores.topk(min(k + 1, scores.shape[1]))
    if values.shape[1] > k:  # topk leaves open which of several equal values it takes at the border
        tied = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)
        values, indices = values[:, :k].contiguous(), indices[:, :k].contiguous()
        if len(tied):
            resorted = scores[tied].sort(dim=1, descending=True, stable=True)
            values[tied], indices[tied] = resorted.values[:, :k], resorted.indices[:, :k]
    indices, order = indices.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    if own is not None:
        values[:, :1] = own_values
    return values, indices.gather(1, order)
