"""Instance memories on the CPU: products of PyTorch, and C++ passes between and behind them."""

import torch

from salcr.ops._parts import with_parts
from salcr.ops.backends.cpp._products import arrays, blocks_of_products


def search(
    features: torch.Tensor, memory: torch.Tensor, k: int, temperature: float, *, mean: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Neighbours, log-sum-exp and (``mean``) ``softmax @ memory``; see :func:`salcr.ops.instance_search`."""
    from salcr import _C

    rows, memories = with_parts(features.detach(), memory.detach())
    indices = torch.empty(*rows.shape[:-1], k, dtype=torch.int64)
    lse, mean_row = torch.empty_like(rows[..., 0]), torch.empty_like(rows) if mean else None
    for at, products, scale in blocks_of_products(rows, memories, temperature):
        _C.search_rows(*arrays(products, scale), k, mean, *arrays(indices[at], lse[at]), torch.get_num_threads())
        if mean:
            torch.mm(products, memories[at[0]], out=mean_row[at])
    lead = features.shape[:-1]
    return indices.view(*lead, k), lse.view(lead), mean_row.view(features.shape) if mean else None


def set_contrast(
    features: torch.Tensor, memory: torch.Tensor, positives: torch.Tensor, lse: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; see :func:`salcr.ops.set_contrast`."""
    from salcr import _C

    if lse is None:
        lse = search(features, memory, 1, temperature, mean=False)[1]
    rows, memories = with_parts(features, memory)
    positives = positives.expand(*rows.shape[:-1], -1).contiguous()
    lse_positives = torch.empty_like(rows[..., 0])
    _C.positives_lse(*arrays(rows, memories, positives, lse_positives), temperature, torch.get_num_threads())
    valid = positives[..., 0] >= 0
    losses = torch.where(valid, lse.view(lse_positives.shape) - lse_positives, 0.0)
    return (losses.sum(-1) / valid.sum(-1).clamp_min(1)).mean(), lse


def set_contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    lse: torch.Tensor,
    mean_row: torch.Tensor | None,
    temperature: float,
) -> torch.Tensor:
    """Gradient for ``features``; ``mean_row`` is ``softmax(all) @ memory`` where it is known."""
    from salcr import _C

    if mean_row is None:
        mean_row = search(features, memory, 1, temperature, mean=True)[2]
    rows, memories = with_parts(features, memory)
    positives = positives.expand(*rows.shape[:-1], -1).contiguous()
    valid = positives[..., 0] >= 0
    weight = valid * (gradient / (valid.sum(-1, keepdim=True).clamp_min(1) * len(rows)))
    (mean_row,), found = with_parts(mean_row), torch.empty_like(rows)
    out = arrays(rows, memories, positives, mean_row, weight, found)
    _C.set_contrast_backward(*out, temperature, torch.get_num_threads())
    return found.view(features.shape)
