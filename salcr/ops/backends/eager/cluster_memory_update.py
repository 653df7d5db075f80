"""The momentum update of cluster memories in plain PyTorch."""

import torch

from salcr.ops._checks import wide_dtype
from salcr.reference._rows import normalize


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
    """In float32 at least, times the norms of ``others``; NaN becomes the smallest."""
    wide = wide_dtype(rows)
    cosines = (normalize(rows.to(wide)) * others.to(wide)).sum(-1)
    return torch.where(cosines.isnan(), -torch.inf, cosines)
