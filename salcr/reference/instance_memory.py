"""Instance memories: nearest rows and contrast with sets of rows (SPEC 4, GPCR), in plain PyTorch.

:func:`set_contrast` is the formula under autograd. :func:`set_contrast_forward` and :func:`set_contrast_backward` are
the same in blocks of feature rows, with no matrix of all logits kept in between: what training uses without a kernel.
"""

import torch
import torch.nn.functional as F

_BLOCK = 2**25  # logits held at a time


def instance_neighbors(
    features: torch.Tensor, memory: torch.Tensor, k: int = 30, *, temperature: float = 0.05
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest logits of each row as a set, and the LSE of all; see :func:`salcr.ops.instance_neighbors`."""
    queries, memory, size = _unit(features.detach()), memory.detach(), memory.shape[-2]
    indices, lse = [], []
    for rows in _blocks(queries, memory[..., 0].numel()):
        logits = _logits(queries[..., rows, :], memory, temperature)
        values, found = logits.topk(min(k + 1, size), dim=-1)
        if size > k:
            found = torch.where(values > values[..., k:], found, size)[..., :k]
        indices.append(found.sort(-1).values)
        lse.append(logits.logsumexp(-1))
    indices = torch.cat(indices, -2)
    indices = F.pad(torch.where(indices == size, -1, indices), (0, k - indices.shape[-1]), value=-1)
    return indices, torch.cat(lse, -1)


def set_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    *,
    temperature: float = 0.05,
    lse: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of ``LSE(all) - LSE(positives)`` over rows with a positive; see :func:`salcr.ops.set_contrast`."""
    logits = _logits(_unit(features), memory, temperature)
    total = logits.logsumexp(-1)
    if lse is not None:
        total = lse + (total - total.detach())
    positives = positives.expand(*features.shape[:-1], -1)
    near = logits.gather(-1, positives.clamp_min(0))
    return _mean_loss(total, near, positives).to(features.dtype)


def set_contrast_forward(
    features: torch.Tensor, memory: torch.Tensor, positives: torch.Tensor, lse: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; with ``lse`` given only the logits of positives are computed."""
    queries, positives = _unit(features), positives.expand(*features.shape[:-1], -1)
    if lse is None:
        blocks = _blocks(queries, memory[..., 0].numel())
        lse = torch.cat([_logits(queries[..., rows, :], memory, temperature).logsumexp(-1) for rows in blocks], -1)
    banks = memory.shape[:-2].numel()
    offsets = torch.arange(banks, device=memory.device).view(*memory.shape[:-2], 1, 1) * memory.shape[-2]
    columns, memory = positives.clamp_min(0) + offsets, memory.flatten(0, -2)
    near = [
        _logits(queries[..., rows, None, :], memory[columns[..., rows, :]], temperature).squeeze(-2)
        for rows in _blocks(queries, banks * positives.shape[-1] * memory.shape[-1])
    ]
    return _mean_loss(lse, torch.cat(near, -2), positives).to(features.dtype), lse


def set_contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    lse: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Gradient of the loss for ``features``: ``softmax(all) - softmax(positives)``, weighted, times memory."""
    queries, positives = _unit(features), positives.expand(*features.shape[:-1], -1)
    outside, valid = positives < 0, (positives >= 0).any(-1, keepdim=True)
    # Padding points where the row's last positive points, and writes what that one writes.
    columns = torch.where(outside, positives.amax(-1, keepdim=True), positives).clamp_min(0)
    pulls = []
    for rows in _blocks(queries, memory[..., 0].numel()):
        logits = _logits(queries[..., rows, :], memory, temperature)
        near = logits.gather(-1, columns[..., rows, :])
        kept = near.masked_fill(outside[..., rows, :] & valid[..., rows, :], float("-inf"))
        shares = logits.sub_(lse[..., rows].unsqueeze(-1)).exp_()
        change = shares.gather(-1, columns[..., rows, :]) - (near - kept.logsumexp(-1, keepdim=True)).exp()
        pulls.append(shares.scatter_(-1, columns[..., rows, :], change).to(memory.dtype) @ memory)
    weight = gradient / (valid.sum(-2, keepdim=True).clamp_min(1) * (memory.shape[:-2].numel() * temperature))
    pull = torch.where(valid, torch.cat(pulls, -2) * weight, 0.0)
    along = (queries * pull).sum(-1, keepdim=True)
    return (pull - queries * along) / features.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _unit(features: torch.Tensor) -> torch.Tensor:
    return F.normalize(features, dim=-1)


def _logits(queries: torch.Tensor, memory: torch.Tensor, temperature: float) -> torch.Tensor:
    """Products in the precision of the arguments; what follows is done in float32 at least."""
    logits = queries @ memory.mT
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


def _blocks(rows: torch.Tensor, width: int) -> list[slice]:
    """Slices of the second last axis of ``rows`` with about ``_BLOCK`` elements, ``width`` a row."""
    step = max(1, _BLOCK // width)
    return [slice(start, start + step) for start in range(0, rows.shape[-2], step)]


def _mean_loss(total: torch.Tensor, near: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Rows without a positive keep their padding's logits: their value is replaced and their gradient is 0, not NaN."""
    valid = (positives >= 0).any(-1)
    near = near.masked_fill((positives < 0) & valid.unsqueeze(-1), float("-inf"))
    losses = torch.where(valid, total - near.logsumexp(-1), 0.0)
    return (losses.sum(-1) / valid.sum(-1).clamp_min(1)).mean()
