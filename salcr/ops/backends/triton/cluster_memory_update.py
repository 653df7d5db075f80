"""Momentum updates of cluster memories on the GPU, in Triton."""

from collections.abc import Sequence

import torch

from salcr.ops._parts import with_parts


def update(
    memory: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    momentum: float,
    order: torch.Tensor | None,
    select: str = "all",
) -> None:
    """See :func:`salcr.ops.update_cluster_memory_`."""
    from salcr.kernels.cluster_memory_update import update_cluster_memory

    parts, rows = with_parts(memory, features)
    targets = targets.expand(rows.shape[:-1]).contiguous()
    order = None if order is None else order.contiguous()
    update_cluster_memory(parts, rows, targets, order, momentum=momentum, hardest=select == "hardest")
    if parts.data_ptr() != memory.data_ptr():
        memory.copy_(parts.view(memory.shape))


def update_together(
    memories: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    orders: Sequence[torch.Tensor] | None,
    *,
    momentum: float,
) -> None:
    """See :func:`salcr.ops.cluster_memory_update.update_cluster_memories_`."""
    from salcr.kernels.cluster_memory_update import update_cluster_memories

    parts, rows = with_parts(*memories), with_parts(*features)
    labels = [y.expand(x.shape[:-1]).contiguous() for x, y in zip(rows, targets, strict=True)]
    orders = None if orders is None else [order.contiguous() for order in orders]
    update_cluster_memories(parts, rows, labels, orders, momentum=momentum)
    for memory, updated in zip(memories, parts, strict=True):
        if updated.data_ptr() != memory.data_ptr():
            memory.copy_(updated.view(memory.shape))
