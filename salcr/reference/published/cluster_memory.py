"""The cluster memory update as published implementations run it: a benchmark's baseline. Written from SPEC 3 and 4."""

import torch
import torch.nn.functional as F


def update_cluster_memory_(
    memory: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    momentum: float = 0.1,
    order: torch.Tensor | None = None,
) -> torch.Tensor:
    """Same as :func:`salcr.reference.update_cluster_memory_`: memory after memory, and in each sample after sample.

    Every sample asks the device for its target and sends it five small operations.
    """
    if memory.ndim == 3:
        for p in range(len(memory)):
            part_targets = targets[p] if targets.ndim == 2 else targets
            update_cluster_memory_(memory[p], features[p], part_targets, momentum=momentum, order=order)
        return memory
    rows = F.normalize(features, dim=1)
    for b in range(len(rows)) if order is None else order:
        target = targets[b].item()
        if target >= 0:
            memory[target] = momentum * memory[target] + (1 - momentum) * rows[b]
            memory[target] /= memory[target].norm()
    return memory
