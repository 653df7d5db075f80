"""Unit rows, and what becomes of a row too long to have one."""

import torch


def normalize(x: torch.Tensor) -> torch.Tensor:
    """``torch.nn.functional.normalize(x, dim=-1)``, but NaN for a row whose norm overflows, where that gives zeros."""
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(norms < torch.inf, norms.clamp_min(1e-12), torch.nan)
