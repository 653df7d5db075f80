"""Cluster memories: contrast with class rows, and their momentum update, in plain PyTorch."""

from collections.abc import Sequence

import torch

from salcr.defaults import MOMENTUM, TEMPERATURE
from salcr.reference._rows import normalize


def cluster_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor | None = None,
    *,
    soft_targets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    temperature: float = TEMPERATURE,
    reduction: str = "mean",
) -> torch.Tensor:
    """Cross entropy of ``normalize(features) @ memory.T / temperature``; see :func:`salcr.ops.cluster_contrast`."""
    logits = normalize(features) @ memory.mT / temperature
    if soft_targets is None:
        targets = targets.expand(logits.shape[:-1])
        valid = targets >= 0
        picked = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        losses = logits.logsumexp(-1) - picked
    else:
        valid = (soft_targets != 0).any(-1).expand(logits.shape[:-1])
        losses = -(soft_targets * (logits - logits.logsumexp(-1, keepdim=True))).sum(-1)
    losses = torch.where(valid, losses if weights is None else losses * weights, 0.0)
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
    select: str = "all",
) -> torch.Tensor:
    """Sample by sample ``m ← μm + (1−μ)x̂; m ← m/‖m‖`` in place; see :func:`salcr.ops.update_cluster_memory_`."""
    if memory.ndim == 3:
        for part, rows, labels in zip(memory, features, targets.expand(features.shape[:-1]), strict=True):
            update_cluster_memory_(part, rows, labels, momentum=momentum, order=order, select=select)
        return memory
    rows, samples = normalize(features), list(range(len(features))) if order is None else order.tolist()
    if select == "hardest":
        samples = _hardest(memory, features, targets, samples)
    for b in samples:
        k = targets[b].item()
        if k >= 0:
            memory[k] = normalize(momentum * memory[k] + (1 - momentum) * rows[b])
    return memory


def _hardest(memory: torch.Tensor, features: torch.Tensor, targets: torch.Tensor, samples: Sequence[int]) -> list[int]:
    """Of each class the first of ``samples`` whose cosine to its row is smallest; NaN counts as the smallest."""
    wide = torch.promote_types(features.dtype, torch.float32)
    cosines = (normalize(features.to(wide)) * memory[targets.clamp_min(0)].to(wide)).sum(-1)
    members = ([b for b in samples if targets[b] == k] for k in targets.unique())
    return [of_class[int(cosines[of_class].argmin())] for of_class in members]
