"""Instance memories on the GPU, in Triton."""

import torch

from salcr.ops._parts import with_parts


def search(
    features: torch.Tensor, memory: torch.Tensor, k: int, temperature: float, *, mean: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Neighbours, log-sum-exp and (``mean``) ``softmax @ memory``; see :func:`salcr.ops.instance_search`."""
    from salcr.kernels.instance_memory import instance_search

    indices, lse, mean_row = instance_search(*with_parts(features, memory), k, temperature=temperature, mean=mean)
    lead = features.shape[:-1]
    return indices.view(*lead, k), lse.view(lead), mean_row.view(features.shape) if mean else None


def set_contrast(
    features: torch.Tensor, memory: torch.Tensor, positives: torch.Tensor, lse: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; see :func:`salcr.ops.set_contrast`."""
    from salcr.kernels.cluster_memory import contrast_forward

    rows, memories = with_parts(features, memory)
    known = None if lse is None else lse.contiguous().view(rows.shape[:-1])
    loss, total = contrast_forward(rows, memories, _spread(positives, rows), temperature=temperature, lse=known)
    return loss, lse if total is known else total.view(features.shape[:-1])


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
    from salcr.kernels.cluster_memory import contrast_backward

    rows, memories = with_parts(features, memory)
    mean_row = None if mean_row is None else mean_row.contiguous()
    positives, lse = _spread(positives, rows), lse.contiguous()
    found = contrast_backward(gradient, rows, memories, positives, lse, temperature=temperature, mean_row=mean_row)
    return found.view(features.shape)


def _spread(positives: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return positives.expand(*rows.shape[:-1], -1).contiguous()
