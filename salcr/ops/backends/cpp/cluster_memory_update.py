"""The momentum update of cluster memories on the CPU, in C++."""

import torch


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
    from salcr import _C

    if not memory.is_contiguous():
        fresh = memory.contiguous()
        update(fresh, features, targets, momentum=momentum, order=order, select=select)
        memory.copy_(fresh)
        return
    parts = memory.view(-1, *memory.shape[-2:])
    rows = features.contiguous().view(len(parts), -1, memory.shape[-1])
    targets = targets.expand(rows.shape[:-1]).contiguous()
    order = torch.arange(rows.shape[1]) if order is None else order.contiguous()
    options = momentum, select == "hardest", torch.get_num_threads()
    _C.update_cluster_memory(parts.numpy(), rows.numpy(), targets.numpy(), order.numpy(), *options)
