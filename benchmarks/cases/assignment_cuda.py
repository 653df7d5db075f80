"""Assignment on a GPU against SciPy in a loop, copies to the host included: many problems, and a large one."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case
from salcr import ops


def _batch(device: str, quick: bool) -> tuple[torch.Tensor]:
    count, rows, cols = (3, 40, 25) if quick else (64, 800, 500)
    return (_distances(count, rows, cols).to(device),)


def _large(device: str, quick: bool) -> tuple[torch.Tensor]:
    size = 100 if quick else 10000 if device == "cuda" else 2000
    return (_distances(1, size, size)[0].to(device),)


def _distances(count: int, rows: int, cols: int) -> torch.Tensor:
    """Squared distances of ``rows`` to ``cols`` random unit centroids, ``count`` times."""
    generator = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(count, n, 64, generator=generator), dim=-1) for n in (rows, cols))
    return 2 - 2 * a @ b.mT


def _assign(impl: str, cost: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return cost, *ops.linear_assignment(cost, impl=impl)


def same_total(outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    """Total cost of every problem, to 1e-6."""
    torch.testing.assert_close(_totals(*outputs), _totals(*expected), rtol=1e-6, atol=0.0)


def _totals(cost: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    flat = rows * cost.shape[-1] + cols
    return cost.flatten(-2).gather(-1, flat).double().sum(-1)


VARIANTS = {impl: partial(_assign, impl) for impl in ("reference", "auto")}
CASES = (
    Case(
        "linear_assignment-batch",
        "64 problems of 800 x 500 centroid distances",
        _batch,
        VARIANTS,
        same_total,
    ),
    Case(
        "linear_assignment-large",
        "one problem of distances, 10,000 x 10,000 on a GPU and 2,000 x 2,000 on the CPU",
        _large,
        VARIANTS,
        same_total,
    ),
)
