"""What the contrasts share: logits of unit rows, and the gradient through a row's normalisation."""

import torch

from salcr.ops._checks import wide_dtype


def unit_products(queries: torch.Tensor, memory: torch.Tensor, temperature: float) -> torch.Tensor:
    """Products in the precision of the arguments; what follows is done in float32 at least."""
    logits = queries @ memory.mT
    return logits.to(wide_dtype(logits)).div_(temperature)


def through_normalisation(gradient: torch.Tensor, queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """The gradient for ``features``, given that for ``queries = normalize(features)``."""
    along = (queries * gradient).sum(-1, keepdim=True)
    return ((gradient - queries * along) / features.norm(dim=-1, keepdim=True).clamp_min(1e-12)).to(features.dtype)
