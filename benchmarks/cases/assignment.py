"""Assignment solvers beside SciPy, lapx and lapjv: random costs, and distances of clusters' centroids."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.case import Case
from benchmarks.features import LATENT
from salcr import ops
from salcr.reference.published import association

Solution = tuple[torch.Tensor, ...]


def uniform(shape: tuple[int, int], device: str, quick: bool) -> tuple[torch.Tensor]:
    shape = tuple(length // 20 for length in shape) if quick else shape
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device),)


def centroid_distances(shape: tuple[int, int], device: str, quick: bool) -> tuple[torch.Tensor]:
    """Squared distances of visible to infrared centroids, each the mean of ten images' unit features of 2048.

    A cluster shows an identity drawn from as many as the larger side has clusters: some identities are split over
    several clusters, some have none in one modality. What the modality does to all its images, and to this identity,
    is as large as half of what tells identities apart.
    """
    shape = tuple(length // 20 for length in shape) if quick else shape
    generator, images = torch.Generator().manual_seed(0), 10

    def normal(*size):
        return torch.randn(*size, generator=generator)

    identities, common, projection = normal(max(shape), LATENT), normal(LATENT), normal(LATENT, 2048)
    sides = []
    for clusters in shape:
        chosen = torch.randint(max(shape), (clusters,), generator=generator)
        latent = identities[chosen] + 0.7 * normal(clusters, LATENT) + 0.7 * normal(LATENT)
        noise = 1.25 * (0.4 * normal(clusters, images, 1)).exp() * normal(clusters, images, LATENT)
        sides.append(F.normalize((latent[:, None] + noise + common) @ projection, dim=2).mean(1))
    return (torch.cdist(*sides).square().to(device),)


def same_total(outputs: tuple[torch.Tensor, Solution], expected: tuple[torch.Tensor, Solution]) -> None:
    """Equal total costs of assigned pairs."""
    totals = (cost[rows, cols].sum(dtype=torch.float64) for cost, (rows, cols) in (outputs, expected))
    torch.testing.assert_close(*totals, rtol=1e-6, atol=0.0)


def same_totals(outputs: tuple[torch.Tensor, Solution], expected: tuple[torch.Tensor, Solution]) -> None:
    """Equal total costs in both directions."""
    (cost, found), (_, best) = outputs, expected
    for table, *partners in zip((cost, cost.mT), found, best, strict=True):
        totals = (table.gather(1, partner[:, None]).sum(dtype=torch.float64) for partner in partners)
        torch.testing.assert_close(*totals, rtol=1e-6, atol=0.0)


def _lapx(cost: torch.Tensor) -> Solution:
    import lap

    rows, cols = lap.lapjvx(cost.double().cpu().numpy(), extend_cost=True, return_cost=False)
    return _tensors(cost, rows, cols)


def _lapx_float32(cost: torch.Tensor) -> Solution:
    import lap

    return _tensors(cost, *lap.lapjvs(cost.cpu().numpy(), return_cost=False))


def _lapjv(cost: torch.Tensor) -> Solution:
    import lapjv

    cols = lapjv.lapjv(cost.cpu().numpy())[0]
    return _tensors(cost, np.arange(len(cols)), cols)


def _tensors(cost: torch.Tensor, *indices: np.ndarray) -> Solution:
    return tuple(torch.from_numpy(x.astype(np.int64)).to(cost.device) for x in indices)


def _with_cost(solve: Callable) -> Callable:
    return lambda cost: (cost, solve(cost))


def _case(kind: str, make: Callable, shape: tuple[int, int]) -> Case:
    solvers = {impl: partial(ops.linear_assignment, impl=impl) for impl in ("reference", "cpp")}
    solvers |= {"lapx": _lapx, "lapx float32": _lapx_float32}
    if shape[0] == shape[1]:
        solvers["lapjv"] = _lapjv
    variants = {name: _with_cost(solve) for name, solve in solvers.items()}
    size = "x".join(map(str, shape))
    note = f"{kind} {shape[0]} x {shape[1]}; reference is SciPy"
    return Case(f"linear_assignment-{kind.split()[0]}-{size}", note, partial(make, shape), variants, same_total)


def _bidirectional_case(kind: str, make: Callable, shape: tuple[int, int]) -> Case:
    solvers = {impl: partial(ops.bidirectional_assignment, impl=impl) for impl in ("reference", "cpp")}
    solvers["published"] = association.bidirectional_assignment
    variants = {name: _with_cost(solve) for name, solve in solvers.items()}
    note = f"{kind} {shape[0]} x {shape[1]}; reference and published repeat columns for SciPy, published pads them too"
    name = f"bidirectional_assignment-{kind.split()[0]}-{shape[0]}x{shape[1]}"
    return Case(name, note, partial(make, shape), variants, same_totals)


CASES = (
    *(_case("uniform costs", uniform, (size, size)) for size in (500, 1000, 2000, 4000)),
    _case("uniform costs", uniform, (800, 1000)),
    _case("centroid distances", centroid_distances, (600, 500)),
    _case("centroid distances", centroid_distances, (2000, 2000)),
    _bidirectional_case("uniform costs", uniform, (800, 400)),
    _bidirectional_case("centroid distances", centroid_distances, (800, 400)),
)
