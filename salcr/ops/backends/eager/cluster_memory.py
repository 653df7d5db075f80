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
