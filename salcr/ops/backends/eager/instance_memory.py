"""Instance memories in plain PyTorch, in blocks of feature rows: no matrix of all logits is kept between the passes."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from salcr.ops._checks import wide_dtype
from salcr.ops.backends.eager._products import through_normalisation, unit_products
from salcr.reference._rows import normalize

_BLOCK = 2**25  # logits held at a time


def search(
    features: torch.Tensor, memory: torch.Tensor, k: int, temperature: float, *, mean: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Neighbours, LSE and (``mean``) ``softmax @ memory``, a block of rows at a time."""
    queries, memory, size = normalize(features.detach()), memory.detach(), memory.shape[-2]
    wide = memory.to(wide_dtype(features)) if mean else None
    indices, lse, mean_rows = [], [], []
    for rows in _blocks(queries, memory[..., 0].numel()):
        logits = unit_products(queries[..., rows, :], memory, temperature)
        lse.append(logits.logsumexp(-1))
        values, found = logits.nan_to_num_(-torch.inf, torch.inf, -torch.inf).topk(min(k + 1, size), dim=-1)
        found = torch.where(values > (values[..., k:] if k < size else -torch.inf), found, size)[..., :k]
        indices.append(found.sort(-1).values)
        if wide is not None:
            mean_rows.append(logits.sub_(lse[-1].unsqueeze(-1)).exp_() @ wide)
    places = torch.cat(indices, -2)
    places = F.pad(torch.where(places == size, -1, places), (0, k - places.shape[-1]), value=-1)
    return places, torch.cat(lse, -1), torch.cat(mean_rows, -2) if mean else None


def set_contrast(
    features: torch.Tensor, memory: torch.Tensor, positives: torch.Tensor, lse: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; with ``lse`` given only the logits of positives are computed."""
    queries, positives = normalize(features), positives.expand(*features.shape[:-1], -1)
    if lse is None:
        lse = _rows_lse(queries, memory, temperature)
    near = [
        unit_products(queries[..., rows, None, :], chosen, temperature).squeeze(-2)
        for rows, chosen in _chosen_rows(memory, positives)
    ]
    return _mean_loss(lse, torch.cat(near, -2), positives).to(features.dtype), lse


def set_contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    lse: torch.Tensor,
    mean_row: torch.Tensor | None,
    temperature: float,
) -> torch.Tensor:
    """Gradient of the loss for ``features``: ``softmax(all) - softmax(positives)``, weighted, times memory.

    ``mean_row`` is ``softmax(all) @ memory`` where it is known.
    """
    queries, positives = normalize(features), positives.expand(*features.shape[:-1], -1)
    if mean_row is None:
        mean_row = _mean_rows(queries, memory, lse, temperature)
    near = []
    for block, chosen in _chosen_rows(memory, positives):
        logits = unit_products(queries[..., block, None, :], chosen, temperature).squeeze(-2)
        logits = logits.masked_fill(positives[..., block, :] < 0, float("-inf"))
        shares = torch.where(positives[..., block, :] < 0, 0.0, logits.softmax(-1))
        near.append((shares.unsqueeze(-2) @ chosen.to(shares.dtype)).squeeze(-2))
    valid = (positives >= 0).any(-1, keepdim=True)
    count = valid.sum(-2, keepdim=True).clamp_min(1) * memory.shape[:-2].numel()
    weight = gradient / temperature / count  # of integers, so that the gradient's dtype stays
    pull = (mean_row - torch.cat(near, -2)) * weight
    return through_normalisation(pull, queries, features).masked_fill_(~valid, 0)


def _rows_lse(queries: torch.Tensor, memory: torch.Tensor, temperature: float) -> torch.Tensor:
    """LSE of all logits of unit rows, a block of rows at a time."""
    blocks = _blocks(queries, memory[..., 0].numel())
    return torch.cat([unit_products(queries[..., rows, :], memory, temperature).logsumexp(-1) for rows in blocks], -1)


def _mean_rows(queries: torch.Tensor, memory: torch.Tensor, lse: torch.Tensor, temperature: float) -> torch.Tensor:
    """``softmax(logits) @ memory`` by recomputing the logits of unit rows, a block of rows at a time."""
    mean_rows, wide = [], memory.to(lse.dtype)
    for rows in _blocks(queries, memory[..., 0].numel()):
        shares = unit_products(queries[..., rows, :], memory, temperature).sub_(lse[..., rows].unsqueeze(-1)).exp_()
        mean_rows.append(shares @ wide)
    return torch.cat(mean_rows, -2)


def _chosen_rows(memory: torch.Tensor, positives: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """The memory rows ``[..., rows, m, D]`` that positives name, a block of rows at a time; padding names row 0."""
    banks = memory.shape[:-2].numel()
    offsets = torch.arange(banks, device=memory.device).view(*memory.shape[:-2], 1, 1) * memory.shape[-2]
    columns, memory = positives.clamp_min(0) + offsets, memory.flatten(0, -2)
    for rows in _blocks(positives, banks * positives.shape[-1] * memory.shape[-1]):
        yield rows, memory[columns[..., rows, :]]


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
