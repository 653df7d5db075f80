"""Pooling of a feature map: power mean, part prototypes and attention over stripes, in plain PyTorch."""

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
    cells = _cells(x)
    scores = tokens.expand(len(x), -1, -1) @ cells.mT
    return _stripe_means(F.logsigmoid(scores), cells, len(tokens))


def part_attention(queries: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Each query attends to the cells of its stripe; see :func:`salcr.ops.part_attention`."""
    cells = _cells(x)
    return _stripe_means(queries @ cells.mT / x.shape[1] ** 0.5, cells, queries.shape[1])


def semantic_parts(x: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prototypes of the three views attend to their own and to each other's maps; see :func:`salcr.ops.semantic_parts`.

    Every map is asked by the prototypes of all three views at once: one product of ``[3S, 3P, D]`` and the map.
    """
    cells, parts = _cells(x), len(tokens)
    prototypes = part_prototypes(x, tokens).unflatten(0, (3, -1))
    queries = prototypes.transpose(0, 1).flatten(1, 2).repeat(3, 1, 1)
    found = _stripe_means(queries @ cells.mT / x.shape[1] ** 0.5, cells, parts)
    found = found.unflatten(0, (3, -1)).unflatten(2, (3, parts))  # [map, S, view that asks, P, D]

    def on_maps(*maps: int) -> torch.Tensor:
        return torch.cat([found[asked][:, view] for view, asked in enumerate(maps)])

    v, a, r = 0, 1, 2
    return on_maps(v, a, r), on_maps(r, r, v), on_maps(a, v, a)


def semantic_pool(
    x: torch.Tensor, tokens: torch.Tensor, *, p: float = 3.0, eps: float = 1e-12
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """:func:`gem_pool` and :func:`semantic_parts` of the same maps; see :func:`salcr.ops.semantic_pool`."""
    return gem_pool(x, p, eps), *semantic_parts(x, tokens)


def _cells(x: torch.Tensor) -> torch.Tensor:
    """``[B, H*W, D]`` in row-major order of the cells: a view in either memory format."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _stripe_means(scores: torch.Tensor, cells: torch.Tensor, parts: int) -> torch.Tensor:
    """Means of the cells under the softmax of ``scores`` ``[B, n*P, cells]`` over the stripe of each row's part.

    Scores outside the stripe are masked rather than cut off, so that ``cells`` is multiplied where it lies.
    """
    cell = torch.arange(cells.shape[1], device=cells.device)
    part = torch.arange(parts, device=cells.device).unsqueeze(1)
    outside = cell // (cells.shape[1] // parts) != part
    scores = scores.unflatten(1, (-1, parts)).masked_fill(outside, float("-inf"))
    return scores.softmax(-1).flatten(1, 2) @ cells
