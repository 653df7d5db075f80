"""The stage-two objective as published implementations run it: a baseline of benchmarks, not for use. From the paper.

A cross entropy a memory and part, both modalities' refinement (:mod:`.instance_memory`), and after the backward pass
every memory updated sample by sample.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from salcr.reference.cluster_memory import update_cluster_memory_
from salcr.reference.published.instance_memory import refinement_losses


def stage_two_loss(
    features: torch.Tensor,
    parts: torch.Tensor,
    labels: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    part_memories: Sequence[torch.Tensor],
    images: Sequence[tuple[torch.Tensor, torch.Tensor]],
    *,
    k: int = 30,
    weight: float = 0.5,
    temperature: float = 0.05,
) -> torch.Tensor:
    """``L_g + L_p + λ₂ (L_gi + L_pi)``.

    Args:
        features: ``[3S, D]``: global features of the views visible, augmented, infrared.
        parts: ``[P, 3, 3S, D]``: part features in the forms own, pg1, pg2.
        labels: of the batch's S positions: visible own, visible to infrared, infrared own, infrared to visible.
        memories: visible ``[K_v, D]`` and infrared ``[K_r, D]`` clusters.
        part_memories: A, B, C, E, each ``[P, K, D]``.
        images: of either modality ``([N, D], [P, N, D])``.
        k: neighbours a row.
        weight: λ₂.
        temperature: divides the cosine.
    """
    loss = 0
    for memory, targets in zip(memories, _global_targets(labels), strict=True):
        loss = loss + _cross_entropy(features, memory, targets, temperature)
    for memory, rows, targets in _part_queries(parts, labels, part_memories):
        part_losses = [_cross_entropy(x, m, targets, temperature) for x, m in zip(rows, memory, strict=True)]
        loss = loss + sum(part_losses) / len(part_losses)
    for rows in images:
        loss = loss + weight * sum(refinement_losses(features, parts, *rows, k=k, temperature=temperature))
    return loss


def stage_two_update_(
    features: torch.Tensor,
    parts: torch.Tensor,
    labels: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    part_memories: Sequence[torch.Tensor],
    orders: Sequence[torch.Tensor],
) -> None:
    """Update both global memories in ``orders[0]``, A, B, C and E in the others."""
    for memory, targets in zip(memories, _global_targets(labels), strict=True):
        update_cluster_memory_(memory, features, targets, order=orders[0])
    for (memory, rows, targets), order in zip(_part_queries(parts, labels, part_memories), orders[1:], strict=True):
        update_cluster_memory_(memory, rows, targets, order=order)


def _cross_entropy(x: torch.Tensor, memory: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    return F.cross_entropy(F.normalize(x, dim=1) @ memory.T / temperature, targets)


def _global_targets(labels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    visible, to_infrared, infrared, to_visible = labels
    return torch.cat([visible, visible, to_visible]), torch.cat([to_infrared, to_infrared, infrared])


def _part_queries(
    parts: torch.Tensor, labels: Sequence[torch.Tensor], part_memories: Sequence[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    visible, to_infrared, infrared, to_visible = labels
    own = parts[:, :, : 2 * len(visible)].flatten(1, 2), parts[:, :, 2 * len(visible) :].flatten(1, 2)
    targets = visible.repeat(6), to_infrared.repeat(6), to_visible.repeat(3), infrared.repeat(3)
    return list(zip(part_memories, (own[0], own[0], own[1], own[1]), targets, strict=True))
