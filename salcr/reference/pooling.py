"""Pooling of a feature map: power mean, part prototypes and attention over stripes, in plain PyTorch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F


def gem_pool(x: torch.Tensor, p: float = 3.0, eps: float = 1e-12) -> torch.Tensor:
    """``(mean(x ** p) + eps) ** (1 / p)`` over the map; see :func:`salcr.ops.gem_pool`.

    Half precision is widened to float32, where ``x ** p`` does not overflow and ``eps`` is not zero.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return ((wide**p).mean((2, 3)) + eps).pow(1 / p).to(x.dtype)


def part_prototypes(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Means of each stripe's cells with weights ``sigmoid(token · cell)``; see :func:`salcr.ops.part_prototypes`.

    ``s / s.sum()`` is written as ``softmax(log s)``: the same number, also where every sigmoid underflows.
    """
    return _stripe_means(tokens.expand(len(x), 1, -1, -1), x, F.logsigmoid).squeeze(1)


def part_attention(queries: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Each query attends to the cells of its stripe; see :func:`salcr.ops.part_attention`."""
    return _attention(queries.unsqueeze(1), x).squeeze(1)


def semantic_parts(x: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prototypes of the three views attend to their own and to each other's maps; see :func:`salcr.ops.semantic_parts`.

    Every map is asked by the prototypes of all three views at once.
    """
    prototypes = part_prototypes(x, tokens).unflatten(0, (3, -1))
    found = _attention(prototypes.transpose(0, 1).repeat(3, 1, 1, 1), x)
    found = found.unflatten(0, (3, -1))  # [map, S, view that asks, P, D]

    def on_maps(*maps: int) -> torch.Tensor:
        return torch.cat([found[asked][:, view] for view, asked in enumerate(maps)])

    v, a, r = 0, 1, 2
    return on_maps(v, a, r), on_maps(r, r, v), on_maps(a, v, a)


def semantic_pool(
    x: torch.Tensor, tokens: torch.Tensor, *, p: float = 3.0, eps: float = 1e-12
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """:func:`gem_pool` and :func:`semantic_parts` of the same maps; see :func:`salcr.ops.semantic_pool`."""
    return gem_pool(x, p, eps), *semantic_parts(x, tokens)


def _attention(queries: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return _stripe_means(queries, x, lambda scores: scores / x.shape[1] ** 0.5)


def _stripe_means(rows: torch.Tensor, x: torch.Tensor, logits: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Means of each stripe's cells for ``rows [B, n, P, D]``, under the softmax of ``logits(row · cell)``.

    Stripes are views of the map in either memory format; the cells left over belong to none.
    """
    cells, means = x.permute(0, 2, 3, 1).flatten(1, 2), []
    for part, stripe in zip(rows.unbind(2), cells.split(cells.shape[1] // rows.shape[2], 1), strict=False):
        means.append(logits(part @ stripe.mT).softmax(-1) @ stripe)
    return torch.stack(means, 2)
