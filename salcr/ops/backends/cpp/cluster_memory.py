"""Contrasts with cluster memories on the CPU: products of PyTorch with C++ passes between them."""

from collections.abc import Sequence

import torch

from salcr.ops._parts import ignored_rows, with_parts
from salcr.ops.backends.cpp._products import arrays, blocks_of_products


def contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    reduction: str,
    soft_targets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; see :func:`salcr.ops.cluster_contrast`."""
    from salcr import _C

    rows, memories = with_parts(features.detach(), memory.detach())
    targets, soft = targets.expand(rows.shape[:-1]).contiguous(), _soft(soft_targets, rows, memories)
    losses, lse = torch.empty_like(rows[..., 0]), torch.empty_like(rows[..., 0])
    for at, products, scale in blocks_of_products(rows, memories, temperature):
        wanted = None if soft is None else soft[at].numpy(force=True)
        given, out = arrays(products, scale, targets[at]), arrays(losses[at], lse[at])
        _C.contrast_losses(*given, wanted, *out, torch.get_num_threads())
    if weights is not None:
        losses = torch.where(targets >= 0, losses * weights.detach(), 0.0)
    if reduction == "mean":
        losses = (losses.sum(-1) / (targets >= 0).sum(-1).clamp_min(1)).mean()
    elif reduction == "sum":
        losses = losses.sum()
    lead = features.shape[:-1]
    return losses.view(lead) if reduction == "none" else losses, lse.view(lead)


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
    options = temperature, reduction, soft_targets, weights
    return contrast_sum_backward(gradient, features, [memory], [targets], [lse], *options)


def contrast_sum_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memories: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    lses: Sequence[torch.Tensor],
    temperature: float,
    reduction: str,
    soft_targets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gradient for ``features`` of the sum of the losses of ``memories``; the products are made again."""
    from salcr import _C

    (rows,), threads = with_parts(features.detach()), torch.get_num_threads()
    found = torch.empty_like(rows)
    for n, (memory, labels) in enumerate(zip(memories, targets, strict=True)):
        (parts,), labels = with_parts(memory.detach()), labels.expand(rows.shape[:-1]).contiguous()
        weight = (gradient.detach() / temperature).expand(features.shape[:-1]).view(labels.shape)
        if reduction == "mean":
            weight = weight / ((labels >= 0).sum(-1, keepdim=True).clamp_min(1) * len(rows))
        if weights is not None:
            weight = weight * weights.detach()
        weight, soft = weight.contiguous(), _soft(soft_targets, rows, parts)
        for at, products, scale in blocks_of_products(rows, parts, temperature):
            wanted = None if soft is None else soft[at].numpy(force=True)
            given, factors = arrays(products, scale, labels[at]), weight[at].numpy(force=True)
            _C.contrast_shares(*given, wanted, factors, threads)
            found[at].addmm_(products, parts[at[0]], beta=min(n, 1))
    _C.rows_through_normalisation(*arrays(found.flatten(0, 1), rows.flatten(0, 1)), threads)
    found[ignored_rows(targets, rows)] = 0
    return found.view(features.shape)


def _soft(soft_targets: torch.Tensor | None, rows: torch.Tensor, memories: torch.Tensor) -> torch.Tensor | None:
    """``[P, B, K]``, contiguous."""
    if soft_targets is None:
        return None
    return soft_targets.detach().expand(*rows.shape[:-1], memories.shape[1]).contiguous()
