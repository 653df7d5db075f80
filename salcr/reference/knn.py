"""Nearest neighbours with a defined order of ties (docs/method.md, "Ranks"), in plain PyTorch."""

import torch
import torch.nn.functional as F


def knn(
    queries: torch.Tensor, k: int, *, database: torch.Tensor | None = None, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first ``k`` of each row of a stable sort of all scores; see :func:`salcr.ops.knn`. Holds all scores."""
    dtype = torch.promote_types(queries.dtype, torch.float32)
    queries = queries.to(dtype)
    others = queries if database is None else database.to(dtype)
    if metric == "cosine":
        queries, others = F.normalize(queries, dim=-1), F.normalize(others, dim=-1)
    scores = scores_of(queries, others, metric)
    order = scores.clone()
    if database is None:
        order.fill_diagonal_(torch.inf)  # itself first
    indices = order.sort(dim=1, descending=True, stable=True).indices[:, :k].contiguous()
    values = scores.gather(1, indices)
    return (values if metric == "cosine" else 0 - values), indices  # 0, not -0


def scores_of(queries: torch.Tensor, database: torch.Tensor, metric: str) -> torch.Tensor:
    """The larger, the nearer: inner products, or squared distances with their sign turned."""
    scores = queries @ database.T
    if metric == "cosine":
        return scores
    return scores.mul_(2).sub_(queries.square().sum(1, keepdim=True)).sub_(database.square().sum(1)).clamp_max_(0)
