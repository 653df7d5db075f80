"""Part pooling as published implementations compute it: a baseline of benchmarks, not for use. Written from the paper.

View after view and stripe after stripe; every look-up permutes its stripe of the map and reads it again.
"""

import torch


def semantic_pool(
    x: torch.Tensor, tokens: torch.Tensor, *, p: float = 3.0, eps: float = 1e-12
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Same results as :func:`salcr.reference.semantic_pool`."""
    pooled = ((x**p).mean((2, 3)) + eps) ** (1 / p)
    views = x.chunk(3)
    prototypes = [_prototypes(view, tokens) for view in views]
    v, a, r = 0, 1, 2

    def look_up(*maps: int) -> torch.Tensor:
        return torch.cat([_attend(prototypes[view], views[asked]) for view, asked in enumerate(maps)])

    return pooled, look_up(v, a, r), look_up(r, r, v), look_up(a, v, a)


def _stripes(x: torch.Tensor, parts: int) -> list[torch.Tensor]:
    """``[B, T, D]`` of each stripe."""
    cells = x.flatten(2)
    length = cells.shape[2] // parts
    return [cells[:, :, part * length : (part + 1) * length].permute(0, 2, 1) for part in range(parts)]


def _prototypes(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    rows = []
    for token, cells in zip(tokens, _stripes(x, len(tokens)), strict=True):
        weights = torch.sigmoid(cells @ token).unsqueeze(2)
        rows.append((weights * cells).sum(1) / weights.sum(1))
    return torch.stack(rows, dim=1)


def _attend(queries: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    rows = []
    for part, cells in enumerate(_stripes(x, queries.shape[1])):
        scores = queries[:, part : part + 1] @ cells.permute(0, 2, 1) / x.shape[1] ** 0.5
        rows.append((scores.softmax(-1) @ cells).squeeze(1))
    return torch.stack(rows, dim=1)
