"""Pooling of a map into global and semantic-aligned part features (docs/method.md, "Model")."""

from collections.abc import Sequence

import torch
from torch import nn

from salcr import ops


class GeM(nn.Module):
    """Power mean over the cells of a map, ``[B, D, H, W] -> [B, D]``; see :func:`salcr.ops.gem_pool`."""

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.gem_pool(x, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class SemanticParts(nn.Module):
    """Learned part tokens, the prototypes they pool, and the part features the prototypes look up.

    Args:
        width: D, channels of the map.
        parts: P, horizontal stripes.
        authors_pg1: reproduce the published code's slip: after the batch norm, the augmented view's ``pg1`` rows are
            replaced by its ``pg2`` rows (docs/method.md, "Differences from the published code").
    """

    def __init__(self, width: int, parts: int = 3, *, authors_pg1: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(parts, width))
        self.norm = frozen_bias_batch_norm(parts * width)
        self.authors_pg1 = authors_pg1
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Fresh tokens (zero mean, deviation √(2/D)) and a fresh batch norm, as at the start of stage two.

        All are drawn on the CPU, from ``generator`` if it is given, wherever the module is.
        """
        _draw_(self.tokens, 0.0, (2 / self.tokens.shape[1]) ** 0.5, generator)
        _reset_batch_norm(self.norm, generator)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """``maps [3S, D, H, W]`` = [visible; augmented; infrared] -> ``[P, 3, 3S, D]``: own, pg1, pg2 of every row."""
        return self._features(ops.semantic_parts(maps, self.tokens.to(maps.dtype)))

    def with_gem(self, maps: torch.Tensor, gem: GeM) -> tuple[torch.Tensor, torch.Tensor]:
        """``gem(maps)`` and ``self(maps)`` from the same reads of the maps."""
        tokens = self.tokens.to(maps.dtype)
        pooled, *views = ops.semantic_pool(maps, tokens, p=gem.p)
        return pooled, self._features(views)

    def own(self, maps: torch.Tensor) -> torch.Tensor:
        """``maps [B, D, H, W] -> [B, P, D]``: each image looks itself up, as in evaluation."""
        z = ops.part_attention(ops.part_prototypes(maps, self.tokens.to(maps.dtype)), maps)
        return self.norm(z.flatten(1)).view(-1, *self.tokens.shape)

    def _features(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        own, pg1, pg2 = (self.norm(z.flatten(1)) for z in views)
        if self.authors_pg1:
            visible, _, infrared = pg1.chunk(3)
            pg1 = torch.cat([visible, pg2.chunk(3)[1], infrared])
        return torch.stack([own, pg1, pg2]).view(3, -1, *self.tokens.shape).movedim(2, 0)


def frozen_bias_batch_norm(width: int) -> nn.BatchNorm1d:
    """Batch norm whose bias stays 0, with weights from N(1, 0.01) (docs/method.md, "Global feature").

    Without a bias features stay centred for the cosine.
    """
    norm = nn.BatchNorm1d(width)
    norm.bias.requires_grad_(False)
    _reset_batch_norm(norm)
    return norm


def _reset_batch_norm(norm: nn.BatchNorm1d, generator: torch.Generator | None = None) -> None:
    """Fresh statistics, bias 0, and weights of mean 1 and deviation 0.01, drawn on the CPU from ``generator``."""
    norm.reset_parameters()
    _draw_(norm.weight, 1.0, 0.01, generator)


def _draw_(parameter: nn.Parameter, mean: float, deviation: float, generator: torch.Generator | None) -> None:
    if parameter.is_meta and generator is None:  # as PyTorch's own modules there, it takes nothing from the global one
        return
    with torch.no_grad():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu")
        parameter.copy_(mean + deviation * drawn)
