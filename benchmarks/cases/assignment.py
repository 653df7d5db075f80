"""Assignment solvers beside SciPy, lapx and lapjv: random costs, and distances of clusters' centroids.

On a GPU, many problems and a large one are against SciPy in a loop, copies to the host included.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.case import Case
from benchmarks.features import LATENT
from salcr import ops
from salcr.reference.published import association

Solution = tuple[torch.Tensor, ...]  # costs, and two indices of them


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


def batch(device: str, quick: bool) -> tuple[torch.Tensor]:
    count, rows, cols = (3, 40, 25) if quick else (64, 800, 500)
    return (_random_distances(count, rows, cols).to(device),)


def large(device: str, quick: bool) -> tuple[torch.Tensor]:
    size = 100 if quick else 10000 if device == "cuda" else 2000
    return (_random_distances(1, size, size)[0].to(device),)


def same_total(outputs: Solution, expected: Solution) -> None:
    """Equal total costs of the assigned pairs of every problem, to 1e-6."""
    torch.testing.assert_close(_total(*outputs), _total(*expected), rtol=1e-6, atol=0.0)


def same_totals(outputs: Solution, expected: Solution) -> None:
    """Equal total costs in both directions, to 1e-6."""
    (cost, *found), (_, *best) = outputs, expected
    for table, *partners in zip((cost, cost.mT), found, best, strict=True):
        totals = (table.gather(1, partner[:, None]).sum(dtype=torch.float64) for partner in partners)
        torch.testing.assert_close(*totals, rtol=1e-6, atol=0.0)


def same_partners(outputs: Solution, expected: Solution) -> None:
    for found, best in zip(outputs, expected, strict=True):
        assert torch.equal(found, best)


def _random_distances(count: int, rows: int, cols: int) -> torch.Tensor:
    """Squared distances of ``rows`` to ``cols`` random unit centroids, ``count`` times."""
    generator = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(count, n, 64, generator=generator), dim=-1) for n in (rows, cols))
    return 2 - 2 * a @ b.mT


def _total(cost: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    return cost.flatten(-2).gather(-1, rows * cost.shape[-1] + cols).double().sum(-1)


def _lapx(cost: torch.Tensor) -> tuple[torch.Tensor, ...]:
    import lap

    rows, cols = lap.lapjvx(cost.double().cpu().numpy(), extend_cost=True, return_cost=False)
    return _tensors(cost, rows, cols)


def _lapx_float32(cost: torch.Tensor) -> tuple[torch.Tensor, ...]:
    import lap

    return _tensors(cost, *lap.lapjvs(cost.cpu().numpy(), return_cost=False))


def _lapjv(cost: torch.Tensor) -> tuple[torch.Tensor, ...]:
    import lapjv

    cols = lapjv.lapjv(cost.cpu().numpy())[0]
    return _tensors(cost, np.arange(len(cols)), cols)


def _tensors(cost: torch.Tensor, *indices: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(x.astype(np.int64)).to(cost.device) for x in indices)


def _variants(solvers: dict[str, Callable]) -> dict[str, Callable[[torch.Tensor], Solution]]:
    def with_cost(solve: Callable, cost: torch.Tensor) -> Solution:
        return cost, *solve(cost)

    return {name: partial(with_cost, solve) for name, solve in solvers.items()}


def _solvers(operator: Callable, *impls: str) -> dict[str, Callable]:
    return {impl: partial(operator, impl=impl) for impl in impls}


def _case(kind: str, make: Callable, shape: tuple[int, int]) -> Case:
    solvers = _solvers(ops.linear_assignment, "reference", "cpp") | {"lapx": _lapx, "lapx float32": _lapx_float32}
    if shape[0] == shape[1]:
        solvers["lapjv"] = _lapjv
    name = f"linear_assignment-{kind.split()[0]}-{shape[0]}x{shape[1]}"
    note = f"{kind} {shape[0]} x {shape[1]}; reference is SciPy"
    return Case(name, note, partial(make, shape), _variants(solvers), same_total)


def _bidirectional_case(kind: str, make: Callable, shape: tuple[int, int]) -> Case:
    solvers = _solvers(ops.bidirectional_assignment, "reference", "cpp")
    solvers["published"] = association.bidirectional_assignment
    note = f"{kind} {shape[0]} x {shape[1]}; reference and published repeat columns for SciPy, published pads them too"
    name = f"bidirectional_assignment-{kind.split()[0]}-{shape[0]}x{shape[1]}"
    return Case(name, note, partial(make, shape), _variants(solvers), same_totals)


def _progressive_case(kind: str, make: Callable, shape: tuple[int, int]) -> Case:
    solvers = _solvers(ops.progressive_matching, "reference", "cpp")
    name = f"progressive_matching-{kind.split()[0]}-{shape[0]}x{shape[1]}"
    note = f"{kind} {shape[0]} x {shape[1]}, matched in rounds; reference calls SciPy in each"
    return Case(name, note, partial(make, shape), _variants(solvers), same_partners)


VARIANTS = _variants(_solvers(ops.linear_assignment, "reference", "auto"))
CASES = (
    *(_case("uniform costs", uniform, (size, size)) for size in (500, 1000, 2000, 4000)),
    _case("uniform costs", uniform, (800, 1000)),
    _case("centroid distances", centroid_distances, (600, 500)),
    _case("centroid distances", centroid_distances, (2000, 2000)),
    _bidirectional_case("uniform costs", uniform, (800, 400)),
    _bidirectional_case("centroid distances", centroid_distances, (800, 400)),
    _progressive_case("centroid distances", centroid_distances, (800, 400)),
    Case("linear_assignment-batch", "64 problems of 800 x 500 centroid distances", batch, VARIANTS, same_total),
    Case(
        "linear_assignment-large",
        "one problem of distances, 10,000 x 10,000 on a GPU and 2,000 x 2,000 on the CPU",
        large,
        VARIANTS,
        same_total,
    ),
)
