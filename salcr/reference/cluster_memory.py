"""Cluster memories: contrast with class rows, and their momentum update, in plain PyTorch."""

from collections.abc import Sequence

import torch

from salcr.defaults import MOMENTUM, TEMPERATURE
from salcr.reference._rows import normalize


def cluster_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = TEMPERATURE,
    reduction: str = "mean",
) -> torch.Tensor:
    """Cross entropy of ``normalize(features) @ memory.T / temperature``; see :func:`salcr.ops.cluster_contrast`."""
    logits = normalize(features) @ memory.mT / temperature
    targets = targets.expand(logits.shape[:-1])
    valid = targets >= 0
    picked = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    losses = torch.where(valid, logits.logsumexp(-1) - picked, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return (losses.sum(-1) / valid.sum(-1).clamp_min(1)).mean()


def cluster_contrast_sum(
    features: torch.Tensor,
    memories: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    *,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """Sum of the mean losses of several memories; see :func:`salcr.ops.cluster_contrast_sum`."""
    pairs = zip(memories, targets, strict=True)
    return sum(cluster_contrast(features, m, t, temperature=temperature) for m, t in pairs)


def update_cluster_memory_(
    memory: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    momentum: float = MOMENTUM,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sample by sample ``m ← μm + (1−μ)x̂; m ← m/‖m‖`` in place; see :func:`salcr.ops.update_cluster_memory_`."""
    if memory.ndim == 3:
        for part, rows, labels in zip(memory, features, targets.expand(features.shape[:-1]), strict=True):
            update_cluster_memory_(part, rows, labels, momentum=momentum, order=order)
        return memory
    rows = normalize(features)
    for b in range(len(rows)) if order is None else order.tolist():
        k = targets[b].item()
        if k >= 0:
            memory[k] = normalize(momentum * memory[k] + (1 - momentum) * rows[b])
    return memory
