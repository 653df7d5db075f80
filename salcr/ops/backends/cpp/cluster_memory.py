"""Contrasts and searches of memories on the CPU: matrix products of PyTorch, and what lies between two of them in C++.

Products of a block of feature rows with all rows of a memory lie in one scratch; C++ turns them in place into what the
next product takes. Features are not normalised: their norms are factors of a row of products. Beside the results only
the scratch is in memory.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from salcr.ops._parts import with_banks

SCRATCH = 2**23
"""Products in the scratch at a time."""


def search(
    features: torch.Tensor, memory: torch.Tensor, k: int, temperature: float, *, mean: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Neighbours, log-sum-exp and (``mean``) ``softmax @ memory``; see :func:`salcr.ops.instance_search`."""
    from salcr import _C

    rows, banks = with_banks(features.detach(), memory.detach())
    indices = torch.empty(*rows.shape[:-1], k, dtype=torch.int64)
    lse, pull = torch.empty_like(rows[..., 0]), torch.empty_like(rows) if mean else None
    for at, products, scale in _blocks(rows, banks, temperature):
        _C.search_rows(*arrays(products, scale), k, mean, *arrays(indices[at], lse[at]), torch.get_num_threads())
        if mean:
            torch.mm(products, banks[at[0]], out=pull[at])
    lead = features.shape[:-1]
    return indices.view(*lead, k), lse.view(lead), pull.view(features.shape) if mean else None


def contrast(
    features: torch.Tensor, memory: torch.Tensor, targets: torch.Tensor, temperature: float, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; see :func:`salcr.ops.cluster_contrast`."""
    from salcr import _C

    rows, banks = with_banks(features.detach(), memory.detach())
    targets = targets.expand(rows.shape[:-1]).contiguous()
    losses, lse = torch.empty_like(rows[..., 0]), torch.empty_like(rows[..., 0])
    for at, products, scale in _blocks(rows, banks, temperature):
        out = arrays(products, scale, targets[at], losses[at], lse[at])
        _C.contrast_losses(*out, torch.get_num_threads())
    if reduction == "mean":
        losses = (losses.sum(-1) / (targets >= 0).sum(-1).clamp_min(1)).mean()
    elif reduction == "sum":
        losses = losses.sum()
    lead = features.shape[:-1]
    return losses.view(lead) if reduction == "none" else losses, lse.view(lead)


def contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memories: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    temperature: float,
    reduction: str,
) -> torch.Tensor:
    """Gradient for ``features`` of the sum of the losses of ``memories``."""
    from salcr import _C

    (rows,), threads = with_banks(features.detach()), torch.get_num_threads()
    pull = torch.empty_like(rows)
    for n, (memory, labels) in enumerate(zip(memories, targets, strict=True)):
        (banks,), labels = with_banks(memory.detach()), labels.expand(rows.shape[:-1]).contiguous()
        weight = (gradient.detach() / temperature).expand(features.shape[:-1]).view(labels.shape)
        if reduction == "mean":
            weight = weight / ((labels >= 0).sum(-1, keepdim=True).clamp_min(1) * len(rows))
        weight = weight.contiguous()
        for at, products, scale in _blocks(rows, banks, temperature):
            _C.contrast_shares(*arrays(products, scale, labels[at], weight[at]), threads)
            pull[at].addmm_(products, banks[at[0]], beta=min(n, 1))
    _C.rows_through_normalisation(*arrays(pull.flatten(0, 1), rows.flatten(0, 1)), threads)
    return pull.view(features.shape)


def set_contrast(
    features: torch.Tensor, memory: torch.Tensor, positives: torch.Tensor, lse: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; see :func:`salcr.ops.set_contrast`."""
    from salcr import _C

    if lse is None:
        lse = search(features, memory, 1, temperature, mean=False)[1]
    rows, banks = with_banks(features, memory)
    positives = positives.expand(*rows.shape[:-1], -1).contiguous()
    near = torch.empty_like(rows[..., 0])
    _C.positives_lse(*arrays(rows, banks, positives, near), temperature, torch.get_num_threads())
    losses = torch.where(near > -torch.inf, lse.view(near.shape) - near, 0.0)
    return (losses.sum(-1) / (positives[..., 0] >= 0).sum(-1).clamp_min(1)).mean(), lse


def set_contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    lse: torch.Tensor,
    pull: torch.Tensor | None,
    temperature: float,
) -> torch.Tensor:
    """Gradient for ``features``; ``pull`` is ``softmax(all) @ memory`` where it is known."""
    from salcr import _C

    if pull is None:
        pull = search(features, memory, 1, temperature, mean=True)[2]
    rows, banks = with_banks(features, memory)
    positives = positives.expand(*rows.shape[:-1], -1).contiguous()
    valid = positives[..., 0] >= 0
    weight = valid * (gradient / (valid.sum(-1, keepdim=True).clamp_min(1) * len(rows)))
    (pull,), found = with_banks(pull), torch.empty_like(rows)
    out = arrays(rows, banks, positives, pull, weight, found)
    _C.set_contrast_backward(*out, temperature, torch.get_num_threads())
    return found.view(features.shape)


def arrays(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [x.numpy(force=True) for x in tensors]


def _blocks(
    rows: torch.Tensor, banks: torch.Tensor, temperature: float
) -> Iterator[tuple[tuple[int, slice], torch.Tensor, torch.Tensor]]:
    """Which rows, their products with their bank (a scratch that the next block overwrites), and a factor for each."""
    (parts, count, _), columns = rows.shape, banks.shape[1]
    norms = torch.linalg.vector_norm(rows, dim=-1).double().clamp_min_(1e-12)
    scale = norms.mul_(temperature).reciprocal_().to(rows.dtype)
    height = min(count, max(1, SCRATCH // columns))
    height = -(-count // -(-count // height))  # blocks of about the same height
    scratch = rows.new_empty(height, columns)
    for part in range(parts):
        for start in range(0, count, height):
            at = part, slice(start, min(start + height, count))
            products = scratch[: at[1].stop - start]
            torch.mm(rows[at], banks[part].mT, out=products)
            yield at, products, scale[at]
