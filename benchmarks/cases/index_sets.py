"""What training makes of three neighbour sets a row: two united, then cut with the third."""

from functools import partial

import torch

from benchmarks.case import Case
from salcr import ops

K = 30


def _neighbours(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Neighbours of the part features, three sets a row."""
    generator = torch.Generator().manual_seed(0)
    sets = [torch.rand(3, 24 if quick else 1296, 90, generator=generator).argsort(-1)[..., :K] for _ in range(3)]
    return tuple(x.sort(-1).values.to(device) for x in sets)


def _agree(impl: str, own, pg1, pg2) -> torch.Tensor:
    return ops.intersect_sets(ops.unite_sets(pg1, pg2, impl=impl), own, impl=impl)


def _agree_by_masks(own, pg1, pg2) -> torch.Tensor:
    """As published: dense 0/1 rows over the images."""
    size = int(max(x.max() for x in (own, pg1, pg2))) + 1
    masks = [torch.zeros(*x.shape[:-1], size, device=x.device).scatter_(-1, x, 1.0) for x in (own, pg1, pg2)]
    kept = masks[0] * ((masks[1] + masks[2]) > 0)
    places = torch.where(kept > 0, torch.arange(size, device=own.device), size).sort(-1).values[..., :K]
    return torch.where(places == size, -1, places)


def _same_sets(outputs: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(outputs, expected)


CASES = (
    Case(
        "index_sets",
        "3 x 1,296 rows of three sets of 30: two united, then cut with the third",
        _neighbours,
        {name: partial(_agree, name) for name in ("reference", "cpp", "triton")} | {"published": _agree_by_masks},
        _same_sets,
    ),
)
