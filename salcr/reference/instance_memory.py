"""Instance memories: nearest rows and contrast with sets of rows (docs/method.md, "GPCR"), in plain PyTorch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from salcr.defaults import NEIGHBORS, TEMPERATURE
from salcr.reference._rows import normalize
from salcr.reference.index_sets import unite_sets


def instance_neighbors(
    features: torch.Tensor, memory: torch.Tensor, k: int = NEIGHBORS, *, temperature: float = TEMPERATURE
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest logits of each row as a set, and the LSE of all; see :func:`salcr.ops.instance_neighbors`."""
    return instance_search(features, memory, k, temperature=temperature)[:2]


def instance_search(
    features: torch.Tensor, memory: torch.Tensor, k: int = NEIGHBORS, *, temperature: float = TEMPERATURE
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same and ``softmax(logits) @ memory``; see :func:`salcr.ops.instance_search`."""
    logits, size = _logits(features.detach(), memory.detach(), temperature), memory.shape[-2]
    values, places = torch.where(logits.isnan(), float("-inf"), logits).sort(dim=-1, descending=True)
    bound = values[..., k : k + 1] if k < size else float("-inf")  # NaN and -inf are nobody's neighbours
    found = torch.where(values > bound, places, size)[..., :k].sort(-1).values
    indices = F.pad(torch.where(found == size, -1, found), (0, k - found.shape[-1]), value=-1)
    return indices, logits.logsumexp(-1), logits.softmax(-1) @ memory.detach().to(logits.dtype)


def set_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor | Sequence[torch.Tensor],
    *,
    over: str = "union",
    temperature: float = TEMPERATURE,
    lse: torch.Tensor | None = None,
    mean_row: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of ``LSE(all) - LSE(positives)`` over rows with a positive; see :func:`salcr.ops.set_contrast`.

    ``lse`` replaces the value of the first term and not its gradient; ``mean_row`` saves work elsewhere.
    """
    if not isinstance(positives, torch.Tensor):
        options = dict(temperature=temperature, lse=lse)
        if over == "union":
            return set_contrast(features, memory, unite_sets(*positives), **options)
        return torch.stack([set_contrast(features, memory, one, **options) for one in positives]).mean()
    logits = _logits(features, memory, temperature)
    total = logits.logsumexp(-1)
    if lse is not None:
        total = lse + (total - total.detach())
    positives = positives.expand(*features.shape[:-1], -1)
    valid = (positives >= 0).any(-1)
    chosen = logits.gather(-1, positives.clamp_min(0))
    # A row without a positive keeps its padding's logits: its loss is replaced, and its gradient is 0, not NaN.
    chosen = chosen.masked_fill((positives < 0) & valid.unsqueeze(-1), float("-inf"))
    losses = torch.where(valid, total - chosen.logsumexp(-1), 0.0)
    return (losses.sum(-1) / valid.sum(-1).clamp_min(1)).mean().to(features.dtype)


def _logits(features: torch.Tensor, memory: torch.Tensor, temperature: float) -> torch.Tensor:
    """Products in the precision of the arguments; what follows is done in float32 at least."""
    logits = normalize(features) @ memory.mT
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
