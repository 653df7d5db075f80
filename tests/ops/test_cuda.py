"""Every public operator on CUDA tensors against the reference on the CPU, by the rules for every backend.

One table of small inputs, free of ties, serves all of it; the same rows run on the CPU, so they are known to be valid.
"""

import warnings
from dataclasses import astuple, dataclass, field
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from salcr.ops._dispatch import table
from salcr.ops.augmentation import Adjust, Draw
from tests.ops.augmentation_problems import problem
from tests.ops.contract import assert_within_budget


@dataclass(frozen=True)
class Row:
    """Positional arguments and options (a callable is called with a generator), and which arguments have a gradient."""

    arguments: tuple
    options: dict = field(default_factory=dict)
    gradients: tuple[int, ...] = ()


def normal(*shape):
    return lambda generator: torch.randn(*shape, generator=generator)


def unit(*shape):
    return lambda generator: F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def shares(*shape):
    return lambda generator: torch.rand(*shape, generator=generator).softmax(-1)


def integers(low, high, *shape):
    return lambda generator: torch.randint(low, high, shape, generator=generator)


def clustered(count, clusters, width=24, spread=0.6):
    """Features around ``clusters`` centres, which neighbour graphs of a few dozen images need to be of interest."""

    def make(generator):
        centres = torch.randn(clusters, width, generator=generator)
        return centres[torch.arange(count) % clusters] + spread * torch.randn(count, width, generator=generator)

    return make


def distances(generator):
    points = clustered(60, 5, width=3, spread=0.3)(generator)
    return torch.cdist(points, points)


def blocks(generator):
    """Of a distance matrix: 20 queries against 40 images, among either."""
    generator.manual_seed(generator.initial_seed())  # the same matrix for all three
    dense = distances(generator)
    return dense[:20, 20:], dense[:20, :20], dense[20:, 20:]


def near_distances(generator):
    dense = distances(generator)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return dense.where(dense <= 1.5, 0).to_sparse_csr()


def sets(*shape, width):
    """Index sets of up to ``width`` of the numbers below ``3 * width``, one of them empty."""

    def make(generator):
        mask = torch.rand(*shape, 3 * width, generator=generator).argsort(-1) < width
        mask.view(-1, 3 * width)[0] = False
        index = torch.where(mask, torch.arange(3 * width), 3 * width).sort(-1).values[..., :width]
        return torch.where(index < 3 * width, index, -1)

    return make


def views(generator):
    """As :func:`problem` has them, but without adjustments of colour: those have tests of their own."""
    images, draws, *rest = problem(generator)
    draws[:, Draw.FIRST : Draw.FOURTH + 1] = Adjust.NOTHING
    return images, draws, *rest


TWO_SETS = (sets(3, 23, width=20), sets(23, width=20))
PARTS = (normal(6, 20, 7, 5), normal(3, 20))
POSITIVE_PARTS = (lambda g: torch.rand(6, 20, 7, 5, generator=g), normal(3, 20))  # GeM takes no negative means
GRAPH = (clustered(70, 6),)
RETRIEVAL = (clustered(20, 5), clustered(40, 5))
RANKING = (normal(25, 60), integers(0, 8, 25), integers(0, 8, 60), integers(1, 7, 25), integers(1, 7, 60))

VIEWS = (lambda g: views(g)[0], lambda g: views(g)[1])

TABLE: dict[str, list[Row]] = {
    "affinity_inference": [Row(RETRIEVAL), Row(RETRIEVAL, dict(k1=6, k2=2))],
    "augment": [
        Row(VIEWS, dict(rows=lambda g: views(g)[2], scalings=lambda g: views(g)[3])),
        Row(VIEWS[:1], dict(dtype=torch.float16)),
    ],
    "batch_norm_relu": [
        Row((normal(6, 20, 7, 5), normal(20), normal(20)), gradients=(0, 1, 2)),
        Row((normal(6, 20, 7, 5), normal(20), normal(20), normal(6, 20, 7, 5)), gradients=(0, 1, 2, 3)),
        Row(
            (normal(6, 20, 7, 5), normal(20), normal(20)),
            dict(mean=normal(20), var=lambda g: torch.rand(20, generator=g) + 0.5),
            (0, 1, 2),
        ),
        Row(
            (normal(6, 20, 7, 5), normal(20), normal(20), normal(6, 20, 7, 5)),
            dict(shortcut_weight=normal(20), shortcut_bias=normal(20)),
            (0, 1, 2, 3),
        ),
    ],
    "bidirectional_assignment": [Row((normal(7, 17),)), Row((normal(17, 7),)), Row((normal(9, 9),))],
    "cluster": [Row(GRAPH, dict(eps=0.5, k1=12, k2=4)), Row(GRAPH, dict(eps=0.4, k1=10, k2=1, min_samples=2))],
    "cluster_centroids": [Row((normal(40, 33), torch.arange(40) % 6 - 1)), Row((normal(5, 9), torch.arange(5), 5))],
    "cluster_contrast": [
        Row((normal(23, 19), unit(7, 19), integers(-1, 7, 23)), gradients=(0,)),
        Row((normal(3, 23, 70), unit(3, 300, 70), integers(-1, 300, 3, 23)), dict(temperature=0.1), (0,)),
        Row((normal(3, 23, 19), unit(3, 7, 19), integers(-1, 7, 23)), dict(reduction="none"), (0,)),
        Row((normal(3, 23, 19), unit(3, 7, 19)), dict(soft_targets=shares(3, 23, 7), weights=shares(3, 23)), (0,)),
    ],
    "cluster_contrast_sum": [
        Row(
            (normal(3, 23, 70), (unit(3, 300, 70), unit(3, 9, 70)), (integers(-1, 300, 3, 23), integers(-1, 9, 23))),
            gradients=(0,),
        ),
    ],
    "dbscan": [Row((distances,), dict(eps=0.5)), Row((near_distances,), dict(eps=0.5, min_samples=3))],
    "evaluate_ranking": [
        Row(RANKING, dict(protocol=protocol)) for protocol in ("sysu", "regdb", "llcm", "market1501", "cuhk03")
    ],
    "gem_pool": [Row((lambda g: torch.rand(4, 10, 7, 5, generator=g),), gradients=(0,))],
    "instance_neighbors": [
        Row((normal(23, 19), unit(90, 19), 8)),
        Row((normal(3, 23, 40), unit(3, 300, 40)), dict(temperature=0.1)),
        Row((normal(5, 19), unit(6, 19), 8)),
    ],
    "instance_search": [
        Row((normal(23, 19), unit(90, 19), 8)),
        Row((normal(3, 23, 40), unit(3, 300, 40)), dict(temperature=0.1)),
        Row((normal(5, 19), unit(6, 19), 8)),
    ],
    "intersect_sets": [Row((sets(2, 30, width=12),) * 3), Row((sets(30, width=12), sets(30, width=5)))],
    "jaccard_distance": [
        Row(GRAPH, dict(k1=12, k2=4)),
        Row(GRAPH, dict(k1=10, k2=1)),
        Row(GRAPH, dict(k1=10, k2=3, scale="farthest", include_self=False)),
    ],
    "jaccard_graph": [Row(GRAPH, dict(k1=12, k2=4, max_distance=0.6))],
    "knn": [
        Row((normal(50, 24), 7)),
        Row((normal(50, 24), 7), dict(metric="sqeuclidean")),
        Row((normal(20, 24), 30), dict(database=normal(60, 24))),
    ],
    "label_agreement": [Row((integers(-1, 9, 90), integers(-1, 9, 90))), Row((integers(-1, 1, 5), integers(-1, 1, 5)))],
    "linear_assignment": [
        Row((normal(7, 17),)),
        Row((normal(4, 17, 7),), dict(maximize=True)),
        Row((normal(1, 1),)),
    ],
    "pair_votes": [
        Row((clustered(30, 4), integers(-1, 4, 30), clustered(50, 4), integers(-1, 6, 50), 0.3)),
        Row((normal(9, 33), integers(-1, 0, 9), normal(5, 33), integers(0, 3, 5), 0.05)),
    ],
    "part_attention": [Row((normal(4, 3, 20), normal(4, 20, 7, 5)), gradients=(0, 1))],
    "part_prototypes": [Row(PARTS, gradients=(0, 1))],
    "progressive_matching": [Row((normal(7, 17),)), Row((normal(17, 7),))],
    "propagate_features": [Row((clustered(50, 5), clustered(40, 5)), dict(k=8)), Row(RETRIEVAL, dict(k=30))],
    "rerank_cross_modality": [Row(RETRIEVAL, dict(k=8)), Row(RETRIEVAL, dict(k=8, eta=0.3))],
    "rerank_distances": [
        Row(tuple(lambda g, n=n: blocks(g)[n] for n in range(3)), dict(k1=10, k2=3)),
    ],
    "rerank_gnn": [Row(RETRIEVAL, dict(k1=10, k2=3)), Row(RETRIEVAL, dict(k1=8, k2=1)), Row(RETRIEVAL)],
    "rerank_k_reciprocal": [
        Row(RETRIEVAL, dict(k1=10, k2=3)),
        Row(RETRIEVAL, dict(k1=8, k2=1, lambda_value=0.0)),
        Row(RETRIEVAL, dict(k1=10, k2=3, power=1.0)),
    ],
    "semantic_parts": [Row(PARTS, gradients=(0, 1))],
    "semantic_pool": [Row(POSITIVE_PARTS, gradients=(0, 1))],
    "set_contrast": [
        Row((normal(23, 19), unit(36, 19), sets(23, width=12)), gradients=(0,)),
        Row((normal(3, 23, 40), unit(3, 300, 40), sets(3, 23, width=20)), dict(temperature=0.1), (0,)),
        Row((normal(3, 23, 40), unit(3, 300, 40), TWO_SETS), gradients=(0,)),
        Row((normal(3, 23, 40), unit(3, 300, 40), TWO_SETS), dict(over="each"), (0,)),
    ],
    "sinkhorn": [Row((lambda g: torch.rand(40, 9, generator=g),)), Row((lambda g: torch.rand(3, 20, 9, generator=g),))],
    "unite_sets": [Row((sets(2, 30, width=12),) * 3), Row((sets(30, width=12), sets(30, width=5)))],
    "update_cluster_memory_": [
        Row((unit(7, 19), normal(40, 19), integers(-1, 7, 40))),
        Row((unit(3, 5, 70), normal(3, 90, 70), integers(-1, 5, 90)), dict(order=torch.arange(90).flip(0))),
        Row((unit(3, 5, 70), normal(3, 90, 70), integers(-1, 5, 90)), dict(select="hardest")),
    ],
}
OPERATORS = sorted(set(ops.__all__) & set(reference.__all__) - {"RankingResult"})
ON_THE_HOST = {"evaluate_ranking"}  # takes tensors of any device, answers with numbers, and its reference is NumPy
ROWS = [(name, n) for name in OPERATORS for n in range(len(TABLE.get(name, ())))]


def test_every_public_operator_has_a_row():
    assert set(OPERATORS) == set(TABLE)


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_row_on_the_cpu(generator, name, row):
    check(name, TABLE[name][row], "cpu", "auto", generator)


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_reference_makes_its_tensors_on_the_device_of_its_arguments(generator, name, row):
    """With another default device, a tensor made without naming one cannot meet the arguments."""
    made = make(TABLE[name][row], generator)
    with torch.device("meta"):
        results = evaluate(getattr(reference, name), TABLE[name][row], *made, "cpu", torch.float32)
    assert all(x.device.type == "cpu" for x in results)


GPU_ROWS = [(name, n, i) for name, n in ROWS for i in ("auto", "triton", "cuda") if i == "auto" or i in table()[name]]


@pytest.mark.cuda
@pytest.mark.parametrize(("name", "row", "impl"), GPU_ROWS)
def test_row_on_the_gpu(generator, name, row, impl):
    reason = table()[name].get(impl)
    if reason is not None:
        pytest.skip(reason)
    check(name, TABLE[name][row], "cuda", impl, generator)


def check(name, row, device, impl, generator):
    """Integers as in float64; floats within the budget of eager PyTorch on the same device; the same bits twice."""
    made = make(row, generator)
    plain = getattr(reference, name)
    exact = evaluate(plain, row, *made, "cpu", torch.float64)
    eager = evaluate(plain, row, *made, "cpu" if name in ON_THE_HOST else device, torch.float32)
    operator = partial(getattr(ops, name), impl=impl)
    got, again = (evaluate(operator, row, *made, device, torch.float32) for _ in range(2))
    for x, same, true, rival in zip(got, again, exact, eager, strict=True):
        assert name in ON_THE_HOST or x.device.type == device
        x, rival = x.cpu(), rival.cpu()
        assert torch.equal(x, same.cpu())
        if x.is_floating_point():
            assert_within_budget(x, true.double(), rival, terms=axes(made))
        else:
            assert torch.equal(x, true)


def make(row, generator):
    return [draw(x, generator) for x in row.arguments], {key: draw(x, generator) for key, x in row.options.items()}


def draw(x, generator):
    if isinstance(x, tuple):
        return tuple(draw(one, generator) for one in x)
    return x(generator) if callable(x) else x


def evaluate(function, row, arguments, options, device, dtype):
    """All results as a list of tensors, and then the gradients of their sum with fixed weights."""
    arguments = [move(x, device, dtype) for x in arguments]
    options = {key: move(x, device, dtype) for key, x in options.items()}
    leaves = [arguments[n].requires_grad_() for n in row.gradients]
    results = list(flatten(function(*arguments, **options)))
    if leaves:
        smooth = [x for x in results if x.requires_grad]
        weights = [torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device).view(x.shape) for x in smooth]
        results += torch.autograd.grad(smooth, leaves, weights)
    return [x.detach() for x in results]


def move(x, device, dtype):
    """A copy of a tensor, or of each in a tuple; anything else as it is."""
    if isinstance(x, tuple):
        return tuple(move(one, device, dtype) for one in x)
    if not isinstance(x, torch.Tensor):
        return x
    return x.to(device, dtype if x.is_floating_point() else x.dtype, copy=True)


def axes(made):
    """The lengths of all axes of all arguments: no element is a longer chain of sums, each along an axis."""
    if isinstance(made, dict):
        made = tuple(made.values())
    if isinstance(made, tuple | list):
        return sum(map(axes, made))
    return sum(made.shape) if isinstance(made, torch.Tensor) else 0


def flatten(results):
    if isinstance(results, torch.Tensor) and results.layout == torch.sparse_csr:
        return results.crow_indices(), results.col_indices(), results.values()
    if isinstance(results, torch.Tensor):
        return (results,)
    if isinstance(results, ops.RankingResult):
        return tuple(torch.from_numpy(np.asarray(x)).nan_to_num(-1) for x in astuple(results))  # NaN: no match
    return results
