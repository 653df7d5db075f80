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
from salcr import compat, ops
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


def family(draw: Callable, shape: tuple[int, int], dtype: torch.dtype, device: str, quick: bool) -> tuple[torch.Tensor]:
    rows, cols = (length // 20 for length in shape) if quick else shape
    return (draw(np.random.default_rng(0), rows, cols).to(device, dtype),)


def small(draw: Callable, device: str, quick: bool) -> tuple[torch.Tensor]:
    """Different problems: a processor learns the branches of one that comes again and again."""
    generator = np.random.default_rng(0)
    return (torch.stack([draw(generator, 30, 30) for _ in range(2 if quick else 64)]).to(device),)


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


def _drawn(costs: Callable) -> Callable:
    """``(generator, rows, cols) -> [rows, cols]`` in float64, of a function that draws an array."""
    return lambda generator, rows, cols: torch.from_numpy(np.asarray(costs(generator, rows, cols), dtype=np.float64))


def _distances(x: np.ndarray, y: np.ndarray, p: float = 2.0) -> np.ndarray:
    return torch.cdist(*(torch.from_numpy(z).double() for z in (x, y)), p=p).numpy()


def _unit(generator: np.random.Generator, count: int) -> np.ndarray:
    return F.normalize(torch.from_numpy(generator.standard_normal((count, 64)))).numpy()


def _unrelated(generator: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    return 2 - 2 * _unit(generator, rows) @ _unit(generator, cols).T


def _seen_twice(generator: np.random.Generator, x: np.ndarray, rows: int, cols: int, noise: float) -> list[np.ndarray]:
    """Some of the points ``x``, in any order, with noise; and again."""
    sides = [x[generator.permutation(len(x))[:count]] for count in (rows, cols)]
    return [side + noise * generator.standard_normal(side.shape) for side in sides]


def _related(generator: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    points = _unit(generator, max(rows, cols))
    return _distances(*_seen_twice(generator, points, rows, cols, 0.05)) ** 2


def _overlaps(generator: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Of boxes of side 1, a fifth as dense as would fill the plane."""
    count = max(rows, cols)
    corners = (5 * count) ** 0.5 * generator.random((count, 2))
    x, y = _seen_twice(generator, corners, rows, cols, 0.1)
    shared = (1 - np.abs(x[:, None] - y)).clip(0).prod(axis=2)
    return 1 - shared / (2 - shared)


def _blocks(generator: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    apart = generator.integers(0, 10, (rows, 1)) != generator.integers(0, 10, (1, cols))
    return apart + 0.1 * generator.random((rows, cols))


def _forbidden(generator: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    cost = np.where(generator.random((rows, cols)) < 0.9, np.inf, generator.random((rows, cols)))
    np.fill_diagonal(cost, 1.0)
    return cost


def _total(cost: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    return cost.flatten(-2).gather(-1, rows * cost.shape[-1] + cols).double().sum(-1)


def _scipy_arrays(cost: np.ndarray) -> tuple[np.ndarray, ...]:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)


def _lapx(cost: torch.Tensor) -> tuple[torch.Tensor, ...]:
    import lap

    rows, cols = lap.lapjvx(cost.double().cpu().numpy(), extend_cost=True, return_cost=False)
    return _tensors(cost, rows, cols)


def _lapx_float32(cost: torch.Tensor) -> tuple[torch.Tensor, ...]:
    import lap

    return _tensors(cost, *lap.lapjvs(cost.cpu().numpy(), return_cost=False))


def _lapx_rust(cost: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return _tensors(cost, *_lapx_rust_arrays(cost.cpu().numpy()))


def _lapx_rust_arrays(cost: np.ndarray) -> tuple[np.ndarray, ...]:
    from lap import lapjvr

    return lapjvr(cost, extend_cost=True, return_cost=False)


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
    solvers = _solvers(ops.linear_assignment, "reference", "cpp")
    solvers |= {"lapx": _lapx, "lapx float32": _lapx_float32, "lapx rust": _lapx_rust}
    if shape[0] == shape[1]:
        solvers["lapjv"] = _lapjv
    name = f"linear_assignment-{kind.split()[0]}-{shape[0]}x{shape[1]}"
    note = f"{kind} {shape[0]} x {shape[1]}; reference is SciPy"
    return Case(name, note, partial(make, shape), _variants(solvers), same_total)


def _family_case(name: str, shape: tuple[int, int] = (1000, 1000), dtype: torch.dtype = torch.float64) -> Case:
    """Without lapjv, and lapx float32 in float64: lapjv was seen not to end on rank-one costs of 400 × 400."""
    note, draw = FAMILIES[name]
    solvers = _solvers(ops.linear_assignment, "reference", "cpp") | {"lapx": _lapx, "lapx rust": _lapx_rust}
    title = f"linear_assignment-family-{name}-{shape[0]}x{shape[1]}"
    if dtype == torch.float32:
        title, solvers = f"{title}-float32", solvers | {"lapx float32": _lapx_float32}
    note = f"{note}, {str(dtype).removeprefix('torch.')}, {shape[0]} x {shape[1]}; reference is SciPy"
    return Case(title, note, partial(family, draw, shape, dtype), _variants(solvers), same_total)


def _small_case(name: str) -> Case:
    """Calls of arrays, as existing code has them."""

    def each(solve: Callable, cost: torch.Tensor) -> Solution:
        pairs = [solve(problem) for problem in cost.cpu().numpy()]
        return cost, *_tensors(cost, *(np.stack(side) for side in zip(*pairs, strict=True)))

    note, draw = FAMILIES[name]
    solvers = {"reference": _scipy_arrays, "cpp": compat.linear_sum_assignment, "lapx rust": _lapx_rust_arrays}
    title, note = f"linear_assignment-small-{name}", f"64 calls of arrays, 30 x 30: {note}; reference is SciPy"
    variants = {solver: partial(each, solve) for solver, solve in solvers.items()}
    return Case(title, note, partial(small, draw), variants, same_total)


def _bidirectional_case(kind: str, make: Callable) -> Case:
    solvers = _solvers(ops.bidirectional_assignment, "reference", "cpp")
    solvers["published"] = association.bidirectional_assignment
    note = f"{kind} 800 x 400; reference and published repeat columns for SciPy, published pads them too"
    name = f"bidirectional_assignment-{kind.split()[0]}-800x400"
    return Case(name, note, partial(make, (800, 400)), _variants(solvers), same_totals)


def _progressive_case(kind: str, make: Callable, shape: tuple[int, int]) -> Case:
    solvers = _solvers(ops.progressive_matching, "reference", "cpp")
    name = f"progressive_matching-{kind.split()[0]}-{shape[0]}x{shape[1]}"
    note = f"{kind} {shape[0]} x {shape[1]}, matched in rounds; reference calls SciPy in each"
    return Case(name, note, partial(make, shape), _variants(solvers), same_partners)


FAMILIES = {
    "uniform": ("uniform", _drawn(lambda g, m, n: g.random((m, n)))),
    "normal": ("normal, of both signs", _drawn(lambda g, m, n: g.standard_normal((m, n)))),
    "lognormal": ("log-normal", _drawn(lambda g, m, n: np.exp(2 * g.standard_normal((m, n))))),
    "wide": ("of twelve orders of magnitude", _drawn(lambda g, m, n: 10.0 ** g.uniform(-6, 6, (m, n)))),
    "power": ("tenth powers of uniform", _drawn(lambda g, m, n: g.random((m, n)) ** 10)),
    "binary": ("0 or 1", _drawn(lambda g, m, n: g.integers(0, 2, (m, n)))),
    "integer10": ("integers 0-9", _drawn(lambda g, m, n: g.integers(0, 10, (m, n)))),
    "integer50": ("integers 0-49", _drawn(lambda g, m, n: g.integers(0, 50, (m, n)))),
    "integer1000": ("integers 0-999", _drawn(lambda g, m, n: g.integers(0, 1000, (m, n)))),
    "constant": ("all equal", _drawn(lambda g, m, n: np.full((m, n), 3.0))),
    "sparse": ("1, and two zeros a row", _drawn(lambda g, m, n: g.random((m, n)) >= 2 / n)),
    "sums": ("row's plus column's number", _drawn(lambda g, m, n: g.random((m, 1)) + g.random((1, n)))),
    "products": ("row's times column's number", _drawn(lambda g, m, n: g.random((m, 1)) * g.random((1, n)))),
    "ranks": (
        "row's times column's rank",
        _drawn(lambda g, m, n: np.outer(np.arange(1.0, m + 1), np.arange(1, n + 1))),
    ),
    "dear_rows": ("a row's number, and noise", _drawn(lambda g, m, n: g.random((m, 1)) + 1e-3 * g.random((m, n)))),
    "dear_columns": (
        "a column's number, and noise",
        _drawn(lambda g, m, n: g.random((1, n)) + 1e-3 * g.random((m, n))),
    ),
    "equal_rows": ("ten rows alike", _drawn(lambda g, m, n: g.random((m // 10 + 1, n))[np.arange(m) // 10])),
    "equal_columns": ("ten columns alike", _drawn(lambda g, m, n: g.random((m, n // 10 + 1))[:, np.arange(n) // 10])),
    "blocks": ("cheap within ten groups", _drawn(_blocks)),
    "diagonal": ("a cheap diagonal", _drawn(lambda g, m, n: g.random((m, n)) + 1 - np.eye(m, n))),
    "line": ("distances on a line", _drawn(lambda g, m, n: _distances(g.random((m, 1)), g.random((n, 1))))),
    "plane": ("distances in the plane", _drawn(lambda g, m, n: _distances(g.random((m, 2)), g.random((n, 2))))),
    "grid": (
        "distances on a grid",
        _drawn(lambda g, m, n: _distances(*(g.integers(0, 99, (k, 2)) for k in (m, n)), 1.0)),
    ),
    "unrelated": ("squared distances of random unit vectors", _drawn(_unrelated)),
    "related": ("squared distances of unit vectors seen twice", _drawn(_related)),
    "overlaps": ("1 - IoU of boxes seen twice, mostly 1", _drawn(_overlaps)),
    "forbidden": ("nine of ten pairs forbidden", _drawn(_forbidden)),
}
VARIANTS = _variants(_solvers(ops.linear_assignment, "reference", "auto"))
CASES = (
    *(_case("uniform costs", uniform, (size, size)) for size in (500, 1000, 2000, 4000)),
    _case("uniform costs", uniform, (800, 1000)),
    _case("centroid distances", centroid_distances, (600, 500)),
    _case("centroid distances", centroid_distances, (2000, 2000)),
    *(_family_case(name) for name in FAMILIES),
    *(_family_case("uniform", shape) for shape in ((100, 100), (400, 400), (200, 1000), (1000, 200))),
    *(_family_case("related", shape) for shape in ((100, 100), (600, 500), (500, 600))),
    *(_family_case(name, (100, 100)) for name in ("sparse", "equal_columns")),
    *(_family_case(name, (100, 4000)) for name in ("uniform", "integer1000", "equal_columns")),
    *(_family_case("uniform", shape) for shape in ((30, 1000), (4000, 100))),
    *(_family_case(name, (800, 1000)) for name in ("normal", "sparse", "dear_rows", "forbidden", "related")),
    *(_family_case(name, (2000, 2000), torch.float32) for name in ("integer10", "sparse", "unrelated")),
    *(_family_case(name, (4000, 4000), torch.float32) for name in ("integer10", "related")),
    *(_family_case(name, (30, 30)) for name in ("uniform", "sparse", "related", "overlaps")),
    *(_small_case(name) for name in ("uniform", "sparse", "related", "constant")),
    _bidirectional_case("uniform costs", uniform),
    _bidirectional_case("centroid distances", centroid_distances),
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
