"""One entry a public operator: how its arguments are drawn, and who judges its results."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from tests.fuzz import judges
from tests.fuzz.draw import Draw
from tests.fuzz.judges import Arguments
from tests.ops.augmentation_problems import problem


@dataclass(frozen=True)
class Entry:
    """How to fuzz an operator.

    Attributes:
        draw: arguments by name, mostly right ones; ``sets`` are given by position.
        judge: what is wrong with a backend's results, see :mod:`tests.fuzz.judges`.
        magnitude: the largest magnitude that is summed on the way to a result, where that is not a result's own.
        changed: the argument that is changed in place, and is a result.
        says: words other than arguments' names that tell which argument an error is about.
        ragged: the shapes of results depend on values.
    """

    draw: Callable[[Draw], Arguments]
    judge: Callable = judges.continuous
    magnitude: Callable[[Arguments], float] = lambda arguments: 0.0
    changed: str | None = None
    says: tuple[str, ...] = ()
    ragged: bool = False


def knn(d: Draw) -> Arguments:
    width = d.size()
    queries, database = d.floats(d.size(), width), d.choice((None, d.floats(d.size(), width)))
    k = d.size(1, len(queries if database is None else database))
    return dict(queries=queries, k=k, database=database, metric=d.choice(("cosine", "sqeuclidean")))


def encoded(d: Draw, **options) -> Arguments:
    features, k1 = d.leaf(d.floats(d.size(2, 14), d.size(2, 6))), d.size(1, 9)
    neighbors = None
    if d.chance(0.6) and features.isfinite().all() and features.abs().max() < 1e15:
        from salcr import reference

        neighbors = reference.knn(features.detach().resolve_neg(), min(k1 + d.size(0, 2), len(features)))
    return dict(features=features, k1=k1, k2=d.size(1, 4), neighbors=neighbors) | options


def jaccard_distance(d: Draw) -> Arguments:
    return encoded(d, scale=d.choice(("none", "none", "farthest")), include_self=d.choice((True, True, False)))


def jaccard_graph(d: Draw) -> Arguments:
    return jaccard_distance(d) | dict(max_distance=d.choice((0.0, 0.3, 0.6, 0.999, 1.0, 7.0)))


def cluster(d: Draw) -> Arguments:
    return encoded(d, eps=d.choice((0.3, 0.6, 0.9, 1.0)), min_samples=d.size(1, 4))


def dbscan(d: Draw) -> Arguments:
    count = d.size(1, 12)
    distances = d.floats(count, count, positive=True)
    if d.chance(0.7):
        distances = d.laid(torch.minimum(distances, distances.mT))
    if d.chance(0.4):
        stored = torch.from_numpy(d.rng.random((count, count))) < 0.5
        pointers = torch.cat([torch.zeros(1, dtype=torch.int64), stored.sum(1).cumsum(0)])
        columns = stored.nonzero()[:, 1]
        if d.chance(0.15) and len(columns):
            broken = d.choice((pointers, columns))
            broken[d.size(0, len(broken) - 1)] = d.choice((-1, 3, 99, 2**40))
        index = d.choice((torch.int64, torch.int32))
        distances = torch.sparse_csr_tensor(
            pointers.to(index), columns.to(index), distances[stored], (count, count), check_invariants=False
        )
    return dict(distances=distances, eps=d.choice((0.2, 0.5, 1.0, 30.0)), min_samples=d.size(1, 5))


def costs(d: Draw, *lead: int) -> torch.Tensor:
    cost = d.floats(*lead, d.size(1, 7), d.size(1, 7))
    return d.leaf(cost if d.content in ("nan", "inf") else cost * d.choice((1.0, 1.0, 100.0)))


def linear_assignment(d: Draw) -> Arguments:
    cost = costs(d, *d.choice(((), (1,), (3,))))
    return dict(cost=cost, maximize=d.chance(0.3), return_duals=d.chance(0.5))


def bidirectional_assignment(d: Draw) -> Arguments:
    return dict(cost=costs(d))


def label_agreement(d: Draw) -> Arguments:
    count, clusters = d.size(1, 12), d.size(1, 5)
    return {name: d.integers(count, low=-1, high=clusters) for name in ("labels", "other")}


def sinkhorn(d: Draw) -> Arguments:
    cost = costs(d, *d.choice(((), (1,), (3,))))
    options = dict(lam=d.choice((5.0, 0.5, 50.0)), tol=d.choice((0.1, 1e-3)))
    return dict(cost=cost, **options, max_iter=d.size(1, 40), check_every=d.choice((10, 1, 3)))


def propagate_features(d: Draw) -> Arguments:
    width = d.size()
    return dict(visible=d.leaf(d.floats(d.size(), width)), infrared=d.floats(d.size(), width), k=d.size(1, 12))


def pair_votes(d: Draw) -> Arguments:
    width, rows, others = d.size(), d.size(), d.size()
    return dict(
        x=d.leaf(d.floats(rows, width)),
        x_labels=d.integers(rows, low=-1, high=min(rows, 4)),
        y=d.floats(others, width),
        y_labels=d.integers(others, low=-1, high=min(others, 4)),
        threshold=d.choice((0.0, 0.31, -0.2, 0.97)),
    )


def evaluate_ranking(d: Draw) -> Arguments:
    queries, images = d.size(1, 6), d.size(1, 12)
    arguments = dict(
        distances=d.floats(queries, images, positive=True),
        query_ids=d.integers(queries, low=0, high=4),
        gallery_ids=d.integers(images, low=0, high=4),
        query_cams=d.integers(queries, low=1, high=5),
        gallery_cams=d.integers(images, low=1, high=5),
        protocol=d.choice(("sysu", "regdb", "llcm", "market1501", "cuhk03")),
        max_rank=d.size(1, 20),
    )
    if d.chance(0.3):
        kind = d.choice((lambda x: x.tolist(), lambda x: x.int().numpy(), lambda x: x.numpy().astype("u8")))
        arguments |= {name: kind(x.resolve_neg()) for name, x in arguments.items() if name.endswith(("ids", "cams"))}
        arguments["distances"] = arguments["distances"].resolve_neg().float().numpy()
    return arguments


def two_sides(d: Draw, **options) -> Arguments:
    width = d.size(2, 6)
    return dict(query=d.leaf(d.floats(d.size(), width)), gallery=d.floats(d.size(), width), **options)


def rerank_k_reciprocal(d: Draw) -> Arguments:
    options = dict(lambda_value=d.choice((0.0, 0.3, 1.0)), power=d.choice((2.0, 1.0)))
    return two_sides(d, k1=d.size(1, 12), k2=d.size(1, 6), **options)


def rerank_gnn(d: Draw) -> Arguments:
    return two_sides(d, k1=d.size(1, 12), k2=d.size(1, 6), power=d.choice((2.0, 1.0, 0.5)))


def rerank_distances(d: Draw) -> Arguments:
    queries, images = d.size(1, 7), d.size(1, 9)
    shapes = dict(query_gallery=(queries, images), query_query=(queries, queries), gallery_gallery=(images, images))
    options = dict(
        k1=d.size(1, 12), k2=d.size(1, 6), lambda_value=d.choice((0.0, 0.3, 1.0)), power=d.choice((2.0, 1.0))
    )
    return {name: d.floats(*shape, positive=True) for name, shape in shapes.items()} | options


def augment(d: Draw) -> Arguments:
    sizes = dict(height=d.size(1, 8), width=d.size(1, 8), chain=d.size(1, 3), shift=d.choice((0, 2, 20)))
    generator = torch.Generator().manual_seed(d.size(0, 2**31))
    images, draws, rows, scalings = problem(generator, d.size(1, 6), d.size(1, 4), **sizes)
    dtype = d.choice((torch.float32, torch.bfloat16, torch.float16))
    if d.chance(0.2):
        return dict(images=d.laid(images), draws=None, dtype=dtype)
    return dict(images=d.laid(images), draws=d.laid(draws), rows=rows, scalings=scalings, dtype=dtype)


def rerank_cross_modality(d: Draw) -> Arguments:
    return two_sides(d, k=d.size(1, 15), eta=d.choice((0.0, 0.1, 1.0)))


def affinity_inference(d: Draw) -> Arguments:
    return two_sides(d, k1=d.size(1, 6), k2=d.size(1, 4))


def index_sets(d: Draw) -> Arguments:
    rows = d.size(1, 4)
    leads = d.choice((((rows,),), ((2, rows), (rows,), (1, rows)), ((),)))
    return dict(sets=[d.sets(*d.choice(leads), width=d.size(1, 6), below=12) for _ in range(d.size(1, 4))])


def cluster_centroids(d: Draw) -> Arguments:
    clusters = d.size(1, 4)
    labels = torch.cat([torch.arange(clusters), torch.from_numpy(d.rng.integers(-1, clusters, d.size(1, 9)))])
    labels = d.laid(labels[torch.from_numpy(d.rng.permutation(len(labels)))])
    features = d.leaf(d.floats(len(labels), d.size()))
    return dict(features=features, labels=labels, num_clusters=d.choice((None, clusters)))


def parts_and_rows(d: Draw) -> tuple[tuple[int, ...], int, int]:
    return d.choice(((), (), (3,))), d.size(), d.size()


def rows_of(d: Draw, lead: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return d.choice(((rows,), (*lead, rows)))


def temperature(d: Draw) -> float:
    return d.choice((0.05, 0.05, 1.0))


def precision(d: Draw) -> str:
    """What the formula in float64 has, too; the others are in tests/ops/test_precision.py."""
    return d.choice(("auto", "float32"))


def cluster_contrast(d: Draw) -> Arguments:
    (lead, rows, width), classes = parts_and_rows(d), d.size()
    targets, soft = d.integers(*rows_of(d, lead, rows), low=-1, high=classes), None
    if d.chance(0.4):
        targets, soft = None, d.floats(*rows_of(d, lead, rows), classes, positive=True)
    return dict(
        features=d.leaf(d.floats(*lead, rows, width)),
        memory=d.unit_rows(*lead, classes, width),
        targets=targets,
        soft_targets=soft,
        weights=d.choice((None, d.floats(*rows_of(d, lead, rows)))),
        temperature=temperature(d),
        reduction=d.choice(("mean", "sum", "none")),
        precision=precision(d),
    )


def cluster_contrast_sum(d: Draw) -> Arguments:
    lead, rows, width = parts_and_rows(d)
    memories, targets = [], []
    for _ in range(d.size(1, 3)):
        classes = d.size()
        memories.append(d.unit_rows(*lead, classes, width))
        targets.append(d.integers(*rows_of(d, lead, rows), low=-1, high=classes))
    features = d.leaf(d.floats(*lead, rows, width))
    options = dict(temperature=temperature(d), precision=precision(d))
    return dict(features=features, memories=memories, targets=targets, **options)


def update_cluster_memory_(d: Draw) -> Arguments:
    (lead, rows, width), classes = parts_and_rows(d), d.size()
    order = torch.from_numpy(d.rng.permutation(rows))
    return dict(
        memory=d.unit_rows(*lead, classes, width),
        features=d.leaf(d.floats(*lead, rows, width)),
        targets=d.integers(*rows_of(d, lead, rows), low=-1, high=classes),
        momentum=d.choice((0.1, 0.0, 1.0, 0.9)),
        order=d.choice((None, d.laid(order) if d.chance(0.8) else order[:1].expand(rows))),
        select=d.choice(("all", "hardest")),
    )


def instance_search(d: Draw) -> Arguments:
    (lead, rows, width), images = parts_and_rows(d), d.size(1, 12)
    features = d.leaf(d.floats(*lead, rows, width))
    return dict(
        features=features, memory=d.unit_rows(*lead, images, width), k=d.size(1, 14), temperature=temperature(d)
    )


def set_contrast(d: Draw) -> Arguments:
    (lead, rows, width), images = parts_and_rows(d), d.size(1, 12)
    features, memory = d.leaf(d.floats(*lead, rows, width)), d.unit_rows(*lead, images, width)
    positives = [
        d.sets(*rows_of(d, lead, rows), width=d.size(1, 5), below=images) for _ in range(d.choice((1, 1, 2, 3)))
    ]
    arguments = dict(
        features=features,
        memory=memory,
        positives=d.choice((positives, positives[0])),
        over=d.choice(("union", "each")),
        temperature=temperature(d),
        precision=precision(d),
    )
    known = d.choice(("nothing", "lse", "both"))
    if known != "nothing":
        from salcr import reference

        options = features.detach(), memory, 1
        _, lse, mean_row = reference.instance_search(*options, temperature=arguments["temperature"])
        arguments |= dict(lse=lse, mean_row=mean_row if known == "both" else None)
    return arguments


def feature_map(d: Draw, batch: int, width: int) -> torch.Tensor:
    x = d.floats(batch, width, d.size(1, 5), d.size(1, 4))
    return d.leaf(x.contiguous(memory_format=torch.channels_last) if d.chance(0.3) else x)


def batch_norm_relu(d: Draw) -> Arguments:
    x = feature_map(d, d.size(1, 4), width := d.size())
    arguments = dict(x=x, weight=d.leaf(d.floats(width)), bias=d.leaf(d.floats(width)), twice=d.chance(0.3))
    prefixes = [""]
    if d.chance(0.5):
        arguments |= dict(shortcut=d.leaf(d.floats(*x.shape)))
        if d.chance(0.5):
            arguments |= {f"shortcut_{name}": d.leaf(d.floats(width)) for name in ("weight", "bias")}
            prefixes.append("shortcut_")
    if d.chance(0.4):
        for prefix in prefixes:
            arguments |= {f"{prefix}mean": d.floats(width), f"{prefix}var": d.floats(width, positive=True)}
    return arguments | dict(eps=d.choice((1e-5, 1e-3)))


def gem_pool(d: Draw) -> Arguments:
    power, eps = d.choice((3.0, 1.0, 2.0, 2.5)), d.choice((1e-12, 1e-6))
    return dict(x=feature_map(d, d.size(1, 4), d.size()), p=power, eps=eps)


def part_prototypes(d: Draw, views: int = 1, **options: float) -> Arguments:
    x = feature_map(d, views * d.size(1, 3), width := d.size())
    parts = d.size(1, min(4, x[0, 0].numel()))
    return dict(x=x, tokens=d.leaf(d.floats(parts, width))) | options


def part_attention(d: Draw) -> Arguments:
    x = feature_map(d, d.size(1, 4), width := d.size())
    parts = d.size(1, min(4, x[0, 0].numel()))
    return dict(queries=d.leaf(d.floats(len(x), parts, width)), x=x)


def of_memories(arguments: Arguments) -> float:
    """Logits are products of unit rows with memory rows, divided by the temperature; a gradient has their square."""
    banks = [arguments["memory"]] if "memory" in arguments else arguments["memories"]
    longest = max(float(x.detach().double().norm(dim=-1).nan_to_num(0, 0).max()) for x in banks)
    logits = longest / float(arguments["temperature"])
    shortest = float(arguments["features"].detach().double().norm(dim=-1).nan_to_num(1).clamp_min(1e-12).min())
    return max(1.0, logits) * max(1.0, logits / min(1.0, shortest)) * of_factors(arguments)


def of_factors(arguments: Arguments) -> float:
    """Of the losses of rows: the largest weight, and the largest sum of soft targets."""
    largest = 1.0
    for name in ("soft_targets", "weights"):
        if (x := arguments.get(name)) is not None:
            sizes = x.detach().double().nan_to_num(0, 0, 0).abs()
            largest *= max(1.0, float((sizes.sum(-1) if name == "soft_targets" else sizes).max()))
    return largest


def of_maps(arguments: Arguments) -> float:
    """The gradient of a stripe's weights is a difference of products of cells, times a token or a query."""
    tensors = [x.detach().double() for x in arguments.values() if isinstance(x, torch.Tensor)]
    one, other = (float(x.nan_to_num(0, 0, 0).abs().max()) for x in tensors)
    return max(one, other, one * other)


def of_norms(arguments: Arguments) -> float:
    """A gradient is a difference of sums over all rows, of products of what is divided by the deviation."""
    known = {name: x.detach().double() for name, x in arguments.items() if isinstance(x, torch.Tensor)}
    prefixes, magnitude = ("", "shortcut_") if "shortcut_weight" in known else ("",), 0.0
    for prefix, x in zip(prefixes, (known["x"], known.get("shortcut")), strict=False):
        x = x.nan_to_num(0, 0, 0)
        var = known.get(f"{prefix}var", x.var((0, 2, 3), correction=0))
        inverse = float((var.nan_to_num(1, 1, 1).clamp_min(0) + arguments["eps"]).rsqrt().max())
        largest = float(x.abs().max()) + float(known.get(f"{prefix}mean", var).nan_to_num(0, 0, 0).abs().max())
        weight = float(known[f"{prefix}weight"].nan_to_num(0, 0, 0).abs().max())
        normalised = max(1.0, largest * inverse)
        magnitude += 2 * x[:, 0].numel() * normalised**2 * max(1.0, weight * inverse, weight)
    return magnitude


def of_chains(arguments: Arguments) -> float:
    """As :func:`of_maps`, twice in a row: the prototypes that a token's weights make ask the maps for attention."""
    x = arguments["x"].detach().double().nan_to_num(0, 0, 0)
    return of_maps(arguments) * max(1.0, float(x.abs().max()) ** 2)


def of_exponents(arguments: Arguments) -> float:
    cost = arguments["cost"].detach().double()
    return 1 + float(arguments["lam"]) * float(cost.max() - cost.min())


contrast = partial(Entry, magnitude=of_memories)
pooling = partial(Entry, magnitude=of_maps)
OPERATORS: dict[str, Entry] = {
    "affinity_inference": Entry(affinity_inference, judges.close_to_exact),
    "augment": Entry(augment, judges.pixels, says=("scaling",)),
    "batch_norm_relu": Entry(batch_norm_relu, judges.normalised, magnitude=of_norms),
    "bidirectional_assignment": Entry(bidirectional_assignment, judges.both_assignments),
    "cluster": Entry(cluster, judges.same_clusters),
    "cluster_centroids": Entry(cluster_centroids, says=("cluster ",)),
    "cluster_contrast": contrast(cluster_contrast),
    "cluster_contrast_sum": contrast(cluster_contrast_sum, says=("memory",)),
    "dbscan": Entry(dbscan, judges.identical),
    "evaluate_ranking": Entry(evaluate_ranking, judges.figures, says=("gallery",)),
    "gem_pool": Entry(gem_pool),
    "instance_neighbors": contrast(instance_search, judges.neighbour_sets),
    "instance_search": contrast(instance_search, judges.neighbour_sets),
    "intersect_sets": Entry(index_sets, judges.python_sets(set.intersection)),
    "jaccard_distance": Entry(jaccard_distance, judges.same_distances, magnitude=lambda _: 1.0),
    "jaccard_graph": Entry(jaccard_graph, judges.same_graph, ragged=True),
    "knn": Entry(knn, judges.nearest),
    "label_agreement": Entry(label_agreement, judges.identical),
    "linear_assignment": Entry(linear_assignment, judges.assignment),
    "pair_votes": Entry(pair_votes, judges.votes),
    "part_attention": pooling(part_attention),
    "part_prototypes": pooling(part_prototypes),
    "progressive_matching": Entry(bidirectional_assignment, judges.first_round),
    "propagate_features": Entry(propagate_features, magnitude=lambda _: 1.0),
    "rerank_cross_modality": Entry(rerank_cross_modality, judges.close_to_exact),
    "rerank_distances": Entry(rerank_distances, partial(judges.close_to_exact, unit_rows=False)),
    "rerank_gnn": Entry(rerank_gnn, judges.close_to_exact),
    "rerank_k_reciprocal": Entry(rerank_k_reciprocal, judges.close_to_exact),
    "semantic_parts": Entry(partial(part_prototypes, views=3), magnitude=of_chains),
    "semantic_pool": Entry(partial(part_prototypes, views=3, p=3.0, eps=1e-12), magnitude=of_chains),
    "set_contrast": contrast(set_contrast, judges.contrast_with_sets, says=("sets[",)),
    "sinkhorn": Entry(sinkhorn, judges.transport_plan, magnitude=of_exponents),
    "unite_sets": Entry(index_sets, judges.python_sets(set.union)),
    "update_cluster_memory_": Entry(update_cluster_memory_, changed="memory"),
}
