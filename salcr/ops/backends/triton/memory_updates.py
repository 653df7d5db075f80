"""Momentum updates of several cluster memories on the GPU, in one launch."""

from collections.abc import Sequence

import torch

from salcr.ops._parts import with_parts


def update(
    memories: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    orders: Sequence[torch.Tensor],
    *,
    momentum: float,
) -> None:
    """See :func:`salcr.ops.memory_updates.update_cluster_memories_`."""
    from salcr.kernels.memory_updates import update_cluster_memories

    parts, rows = with_parts(*memories), with_parts(*features)
    labels = [y.expand(x.shape[:-1]).contiguous() for x, y in zip(rows, targets, strict=True)]
    update_cluster_memories(parts, rows, labels, [order.contiguous() for order in orders], momentum=momentum)
    for memory, updated in zip(memories, parts, strict=True):
        if updated.data_ptr() != memory.data_ptr():
            memory.copy_(updated.view(memory.shape))
