"""Cluster memories: contrast with class rows, and their momentum update (SPEC 3 and 4), in plain PyTorch.

:func:`cluster_contrast` is the formula under autograd; :func:`cluster_contrast_forward` and
:func:`cluster_contrast_backward` are the same with the gradient written out: what training uses without a kernel.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from salcr.reference._products import through_normalisation, unit_products


def cluster_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 0.05,
    reduction: str = "mean",
) -> torch.Tensor:
    """Cross entropy of ``normalize(features) @ memory.T / temperature``; see :func:`salcr.ops.cluster_contrast`."""
    logits = F.normalize(features, dim=-1) @ memory.mT / temperature
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
    temperature: float = 0.05,
) -> torch.Tensor:
    """Sum of the mean losses of several memories; see :func:`salcr.ops.cluster_contrast_sum`."""
    pairs = zip(memories, targets, strict=True)
    return sum(cluster_contrast(features, m, t, temperature=temperature) for m, t in pairs)


def cluster_contrast_forward(
    features: torch.Tensor, memory: torch.Tensor, targets: torch.Tensor, temperature: float, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; nothing else is kept for the backward pass."""
    logits = unit_products(F.normalize(features, dim=-1), memory, temperature)
    lse, targets = logits.logsumexp(-1), targets.expand(features.shape[:-1])
    picked = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    losses = torch.where(targets >= 0, lse - picked, 0.0)
    if reduction == "mean":
        losses = (losses.sum(-1) / (targets >= 0).sum(-1).clamp_min(1)).mean()
    return (losses.sum() if reduction == "sum" else losses).to(features.dtype), lse


def cluster_contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    lse: torch.Tensor,
    temperature: float,
    reduction: str,
) -> torch.Tensor:
    """Gradient of the loss for ``features``: ``softmax - one at the target``, weighted, times memory."""
    queries, targets = F.normalize(features, dim=-1), targets.expand(features.shape[:-1]).unsqueeze(-1)
    valid = targets >= 0
    shares = unit_products(queries, memory, temperature).sub_(lse.unsqueeze(-1)).exp_()
    shares.scatter_add_(-1, targets.clamp_min(0), torch.full_like(lse, -1.0).unsqueeze(-1))
    weight = gradient.unsqueeze(-1) if reduction == "none" else gradient
    if reduction == "mean":
        weight = weight / (valid.sum(-2, keepdim=True).clamp_min(1) * memory.shape[:-2].numel())
    pull = (shares.mul_(torch.where(valid, weight / temperature, 0.0))).to(memory.dtype) @ memory
    return through_normalisation(pull, queries, features)


def update_cluster_memory_(
    memory: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    momentum: float = 0.1,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """Row by row ``m ← μm + (1−μ)x̂; m ← m/‖m‖`` in place; see :func:`salcr.ops.update_cluster_memory_`.

    Samples of different classes commute: the n-th samples of all classes make one round of gather, blend and scatter.
    """
    banks, rows = memory.reshape(-1, *memory.shape[-2:]), features.reshape(-1, *features.shape[-2:])
    num_banks, num_classes, _ = banks.shape
    targets = targets.expand(rows.shape[:-1])
    if order is not None:
        rows, targets = rows[:, order], targets[:, order]
    rows = F.normalize(rows, dim=-1)
    bank = torch.arange(num_banks, device=targets.device).unsqueeze(-1)
    slot = torch.where(targets >= 0, targets + bank * num_classes, -1).flatten()
    sorted_slot, sample = slot.sort(stable=True)
    turn = torch.arange(len(slot), device=slot.device) - torch.searchsorted(sorted_slot, sorted_slot)
    flat, rows = banks.reshape(-1, banks.shape[-1]).clone(), rows.flatten(0, 1)
    for n in range(int(turn[sorted_slot >= 0].max()) + 1 if (sorted_slot >= 0).any() else 0):
        now = (turn == n) & (sorted_slot >= 0)
        target = sorted_slot[now]
        flat[target] = F.normalize(momentum * flat[target] + (1 - momentum) * rows[sample[now]], dim=-1)
    return memory.copy_(flat.view_as(memory))
