"""Cluster memories in plain PyTorch, the gradient of the contrast written out: one matrix of logits at a time."""

from collections.abc import Sequence

import torch

from salcr.ops._parts import ignored_rows
from salcr.ops.backends.eager._products import through_normalisation, unit_products
from salcr.reference._rows import normalize


def contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    reduction: str,
    soft_targets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; nothing else is kept for the backward pass."""
    logits = unit_products(normalize(features), memory, temperature)
    lse, targets = logits.logsumexp(-1), targets.expand(features.shape[:-1])
    if soft_targets is None:
        losses = lse - logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    else:
        losses = (soft_targets * (lse.unsqueeze(-1) - logits)).sum(-1)
    losses = torch.where(targets >= 0, losses if weights is None else losses * weights, 0.0)
    if reduction == "mean":
        losses = (losses.sum(-1) / (targets >= 0).sum(-1).clamp_min(1)).mean()
    return (losses.sum() if reduction == "sum" else losses).to(features.dtype), lse


def contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    lse: torch.Tensor,
    temperature: float,
    reduction: str,
    soft_targets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gradient of the loss for ``features``."""
    found = _gradient(gradient, features, memory, targets, lse, temperature, reduction, soft_targets, weights)
    return found.masked_fill_(ignored_rows([targets], features).unsqueeze(-1), 0)


def contrast_sum_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memories: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    lses: Sequence[torch.Tensor],
    temperature: float,
    reduction: str,
) -> torch.Tensor:
    """Gradient for ``features`` of the sum of the losses of ``memories``."""
    terms = zip(memories, targets, lses, strict=True)
    found = sum(_gradient(gradient, features, *term, temperature, reduction) for term in terms)
    return found.masked_fill_(ignored_rows(targets, features).unsqueeze(-1), 0)


def update(
    memory: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    momentum: float,
    order: torch.Tensor | None,
    select: str = "all",
) -> None:
    """See :func:`salcr.ops.update_cluster_memory_`.

    Samples of different classes commute: the n-th samples of all classes make one round of gather, blend and scatter.
    """
    parts, rows = memory.reshape(-1, *memory.shape[-2:]), features.reshape(-1, *features.shape[-2:])
    num_parts, num_classes, _ = parts.shape
    targets = targets.expand(rows.shape[:-1])
    if order is not None:
        rows, targets = rows[:, order], targets[:, order]
    part = torch.arange(num_parts, device=targets.device).unsqueeze(-1)
    slot = torch.where(targets >= 0, targets + part * num_classes, -1).flatten()
    flat, rows = parts.reshape(-1, parts.shape[-1]).clone(), rows.flatten(0, 1)
    sample = torch.arange(len(slot), device=slot.device)
    if select == "hardest":
        sample = _cosines(rows, flat[slot.clamp_min(0)]).argsort(stable=True)
    sample = sample[slot[sample].argsort(stable=True)]
    sorted_slot, rows = slot[sample], normalize(rows)
    turn = torch.arange(len(slot), device=slot.device) - torch.searchsorted(sorted_slot, sorted_slot)
    if select == "hardest":
        sorted_slot = torch.where(turn == 0, sorted_slot, -1)
    for n in range(int(turn[sorted_slot >= 0].max()) + 1 if (sorted_slot >= 0).any() else 0):
        now = (turn == n) & (sorted_slot >= 0)
        target = sorted_slot[now]
        flat[target] = normalize(momentum * flat[target] + (1 - momentum) * rows[sample[now]])
    memory.copy_(flat.view_as(memory))


def _cosines(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """In float32 at least, up to a factor that ``others`` have; NaN becomes the smallest."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    cosines = (normalize(rows.to(wide)) * others.to(wide)).sum(-1)
    return torch.where(cosines.isnan(), -torch.inf, cosines)


def _gradient(
    gradient, features, memory, targets, lse, temperature, reduction, soft_targets=None, weights=None
):  # fmt: skip
    """``softmax - one at the target``, weighted, times memory."""
    queries, targets = normalize(features), targets.expand(features.shape[:-1]).unsqueeze(-1)
    valid = targets >= 0
    shares = unit_products(queries, memory, temperature).sub_(lse.unsqueeze(-1)).exp_()
    if soft_targets is None:
        shares.scatter_add_(-1, targets.clamp_min(0), torch.full_like(lse, -1.0).unsqueeze(-1))
    else:
        wanted = soft_targets.to(shares.dtype)
        shares.mul_(wanted.sum(-1, keepdim=True)).sub_(wanted)
    weight = gradient.unsqueeze(-1) if reduction == "none" else gradient
    if reduction == "mean":
        weight = weight / (valid.sum(-2, keepdim=True).clamp_min(1) * memory.shape[:-2].numel())
    if weights is not None:
        weight = weight * weights.unsqueeze(-1)
    mean_row = (shares.mul_(torch.where(valid, weight / temperature, 0.0))).to(memory.dtype) @ memory
    return through_normalisation(mean_row, queries, features)
