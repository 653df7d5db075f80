"""What is measured: a case is one operator or one group of calls at sizes of real runs, with its variants.

Sizes come from SPEC 5 and 6; ``quick`` sizes only show that a case works. A variant is named ``published``
(:mod:`salcr.reference.published`), or like the ``impl`` that it asks its operators for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import pseudo_labels, stage_two
from salcr import ops, reference
from salcr.objectives import RefinementObjective
from salcr.reference.published import gpcr, jaccard, memory_update, propagation

MAX_DISTANCE = 0.6


@dataclass(frozen=True)
class Case:
    """One row of the registry.

    Args:
        name: unique; ``--only`` matches it.
        note: the sizes, in words.
        make_inputs: ``(device, quick) -> inputs``, the same at every call. Every variant gets a copy of its own, which
            it may change in place.
        variants: name → function of the inputs. The first is the one that the others have to match.
        check: ``(outputs, outputs_of_the_first) -> None``, raises where they do not match.
        floor_bytes: of the inputs: what has to be read and written at least; given where memory is the limit.
    """

    name: str
    note: str
    make_inputs: Callable[[str, bool], Sequence]
    variants: dict[str, Callable]
    check: Callable[[object, object], None]
    floor_bytes: Callable[..., int] | None = None


def close(outputs: torch.Tensor | Sequence[torch.Tensor], expected: torch.Tensor | Sequence[torch.Tensor]) -> None:
    """Each tensor, in units of the largest magnitude expected in it, within PyTorch's tolerances of its dtype."""
    if isinstance(expected, torch.Tensor):
        outputs, expected = (outputs,), (expected,)
    for x, y in zip(outputs, expected, strict=True):
        unit = y.abs().max()
        torch.testing.assert_close(x / unit, y / unit)


def same_ranking(outputs: ops.RankingResult, expected: ops.RankingResult) -> None:
    """Equal counts; the means agree to the rounding of a float64 sum."""
    assert outputs.valid_queries == expected.valid_queries
    for name in ("cmc", "mAP", "mINP"):
        np.testing.assert_allclose(getattr(outputs, name), getattr(expected, name), rtol=1e-12, err_msg=name)


def _ranking_case(name: str, protocol: str, queries: int, gallery: int, identities: int) -> Case:
    def make_inputs(device, quick):
        q, g, ids = (queries // 50, gallery // 10, identities // 10) if quick else (queries, gallery, identities)
        generator = torch.Generator().manual_seed(0)
        query_ids, gallery_ids = torch.arange(q) % ids, torch.arange(g) % ids
        distances = torch.rand(q, g, generator=generator) - 0.3 * (query_ids[:, None] == gallery_ids)
        cameras = (torch.randint(low, high, (n,), generator=generator) for low, high, n in ((1, 7, q), (1, 7, g)))
        return tuple(x.to(device) for x in (distances, query_ids, gallery_ids, *cameras))

    def variant(impl):
        return lambda *inputs: ops.evaluate_ranking(*inputs, protocol=protocol, impl=impl)

    note = f"{queries} queries, {gallery} gallery images, {identities} identities, {protocol} protocol"
    return Case(name, note, make_inputs, {impl: variant(impl) for impl in ("reference", "cpu")}, same_ranking)


def _memory_step(device: str, quick: bool) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Memory, features and targets of the 14 memories of a stage-two step: four groups of parts, two global ones."""
    ids, images, width, clusters = (3, 4, 32, (9, 7)) if quick else (12, 12, 2048, (600, 500))
    generator = torch.Generator().manual_seed(0)

    def bank(parts, num_clusters, views):
        lead = () if parts is None else (parts,)
        chosen = torch.randperm(num_clusters, generator=generator)[:ids].repeat_interleave(images)
        memory = F.normalize(torch.randn(*lead, num_clusters, width, generator=generator), dim=-1)
        features = torch.randn(*lead, views * ids * images, width, generator=generator)
        return tuple(x.to(device) for x in (memory, features, chosen.repeat(views)))

    sizes = [(None, clusters[0], 3), (None, clusters[1], 3)]
    sizes += [(3, num_clusters, views) for views in (6, 3) for num_clusters in clusters]
    return [bank(*size) for size in sizes]


def _update_all(function: Callable) -> Callable:
    return lambda *banks: [function(*bank) for bank in banks]


def clustered(count: int, per_cluster: int, width: int, device: str, seed: int) -> torch.Tensor:
    """Unit features ``[count, width]``, neighbours in rows of one cluster: cosine 0.41 within it and about 0 outside.

    The centres are those of every other call with the same width.
    """
    centres = torch.randn(-(-count // per_cluster), width, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    centres, noise = F.normalize(centres, dim=-1), F.normalize(noise, dim=-1)
    return F.normalize(centres.repeat_interleave(per_cluster, 0)[:count] + 1.2 * noise, dim=-1).to(device)


def _two_modalities(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The 30 nearest of every image are its cluster's in either modality, far from a tie."""
    count, width = (90, 256) if quick else (900, 2048)
    return tuple(clustered(count, 30, width, device, seed) for seed in (1, 2))


def _one_modality(device: str, quick: bool) -> tuple[torch.Tensor]:
    return (clustered(*((150, 25, 64) if quick else (2000, 25, 2048)), device, seed=1),)


def same_graph(outputs: torch.Tensor, expected: torch.Tensor) -> None:
    """The same distances up to MAX_DISTANCE, from a dense or a CSR matrix; pairs within 1e-5 of it may come or go."""
    outputs, expected = _near(outputs), _near(expected)
    unsure = (torch.minimum(outputs, expected) - MAX_DISTANCE).abs() <= 1e-5
    torch.testing.assert_close(outputs.masked_fill(unsure, 0), expected.masked_fill(unsure, 0))


def _near(distances: torch.Tensor) -> torch.Tensor:
    if distances.layout == torch.strided:
        return distances.where(distances <= MAX_DISTANCE, torch.inf)
    dense = distances.values().new_full(distances.shape, torch.inf)
    rows = torch.arange(len(dense), device=dense.device).repeat_interleave(distances.crow_indices().diff())
    dense[rows, distances.col_indices()] = distances.values()
    return dense


def _refinement_step(device: str, quick: bool) -> tuple[RefinementObjective, torch.Tensor, torch.Tensor]:
    """Instance memories of clusters of 30, and a batch that sees 144 of the images in three views and three forms.

    Every eighth row sees another image than its position's, so that some neighbour sets have nothing in common.
    """
    count, width, batch = (600, 1024, 8) if quick else (1800, 2048, 144)
    rows = torch.stack([clustered(count, 30, width, device, seed) for seed in range(1, 5)])
    generator = torch.Generator().manual_seed(0)
    shown = torch.randperm(count, generator=generator)[:batch].repeat(3, 3)
    shown[:, ::8] = torch.randint(count, shown[:, ::8].shape, generator=generator)
    seen = rows[:, shown.to(device)]
    seen = seen + 2 * F.normalize(torch.randn(seen.shape, generator=generator), dim=-1).to(device)
    return RefinementObjective(rows[0], rows[1:]), seen[0, 0].clone(), seen[1:].clone()


def _refine(losses: Callable) -> Callable:
    """Both losses and the gradient of their sum, forward and backward."""

    def step(objective, features, parts):
        leaves = features.requires_grad_(), parts.requires_grad_()
        whole, part = losses(objective, *leaves)
        return whole.detach(), part.detach(), *torch.autograd.grad(whole + part, leaves)

    return step


def _published_losses(objective, features, parts):
    return gpcr.refinement_losses(features, parts, objective.whole.rows, objective.parts.rows)


def _labels_case(name: str, count: int, options: dict, what: str) -> Case:
    note = f"{count} features of 2048, {what}: from neighbours (k1 30, k2 6) to labels (eps 0.6, min_samples 4)"
    variants = {"published": pseudo_labels.published, "cpu": pseudo_labels.cpu}
    return Case(name, note, partial(pseudo_labels.searched, count, options), variants, pseudo_labels.same_labels)


def _step_maps(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The maps of a training step as after ReLU, channels last, and part tokens of unit length."""
    shape = (6, 64, 6, 3) if quick else (432, 2048, 18, 9)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).relu_().contiguous(memory_format=torch.channels_last)
    return x.to(device), F.normalize(torch.randn(3, shape[1], generator=generator), dim=1).to(device)


def _pool(function: Callable) -> Callable:
    """Forward alone."""
    return lambda x, tokens: [y.detach() for y in function(x.detach(), tokens.detach())]


def _pool_and_back(function: Callable) -> Callable:
    """The gradients of maps and tokens, forward and backward."""

    def step(x, tokens):
        leaves = x.requires_grad_(), tokens.requires_grad_()
        results = function(*leaves)
        return torch.autograd.grad(results, leaves, [torch.ones_like(y) for y in results])

    return step


def _compiled_semantic_pool(x, tokens):
    return torch.compile(reference.semantic_pool)(x, tokens)


def _pooling_case(name: str, note: str, run: Callable, transfers: int) -> Case:
    variants = {impl: partial(ops.semantic_pool, impl=impl) for impl in ("cpu", "triton")}
    variants = {"reference": reference.semantic_pool, "compiled": _compiled_semantic_pool, **variants}
    note = f"GeM and three forms of part features of [432, 2048, 18, 9] in float32, {note}"
    runs = {variant: run(function) for variant, function in variants.items()}
    return Case(name, note, _step_maps, runs, close, floor_bytes=lambda x, tokens: transfers * x.nbytes)


CASES = (
    _ranking_case("evaluate_ranking-sysu", "sysu", 3803, 301, 96),
    _ranking_case("evaluate_ranking-regdb", "regdb", 2060, 2060, 206),
    Case(
        "update_cluster_memory_-step",
        "14 memories of 600 or 500 rows of 2048, 8,640 sequential updates, 12 identities x 12 images",
        _memory_step,
        {
            "reference": _update_all(partial(ops.update_cluster_memory_, impl="reference")),
            "published": _update_all(memory_update.update_cluster_memory_),
            "cpu": _update_all(partial(ops.update_cluster_memory_, impl="cpu")),
        },
        close,
    ),
    Case(
        "jaccard_graph",
        "2,000 features of 2048 in clusters of 25, k1 30, k2 6, distances up to 0.6 (published: all)",
        _one_modality,
        {
            "reference": partial(ops.jaccard_graph, max_distance=MAX_DISTANCE, impl="reference"),
            "published": jaccard.jaccard_distance,
            "cpu": partial(ops.jaccard_graph, max_distance=MAX_DISTANCE, impl="cpu"),
        },
        same_graph,
    ),
    _labels_case("labels-visible", 22258, {}, "clusters and 5 to 10 % noise"),
    _labels_case("labels-infrared", 11909, {}, "clusters and 5 to 10 % noise"),
    _labels_case("labels-hubs", 22258, pseudo_labels.HUBS, "hubs, more than half noise"),
    Case(
        "propagate_features",
        "900 visible and 900 infrared features of 2048, k 30",
        _two_modalities,
        {
            "reference": partial(ops.propagate_features, impl="reference"),
            "published": propagation.propagate_features,
        },
        close,
    ),
    Case(
        "refinement",
        "GPCR of one modality, 1,800 images: 432 global and 3 x 1,296 part rows of 2048, forward and backward",
        _refinement_step,
        {"published": _refine(_published_losses), "auto": _refine(RefinementObjective.loss)},
        close,
    ),
    _pooling_case("semantic_pool-forward", "forward", _pool, transfers=1),
    _pooling_case("semantic_pool", "forward and backward", _pool_and_back, transfers=3),
    Case(
        "stage_two_objective",
        "losses, gradients and updates of a step, 144 images a view, 3 parts of 2048, 600 and 500 clusters; instance "
        "memories of SYSU-MM01's 22,258 and 11,909 images on a GPU, of a tenth of them on the CPU",
        stage_two.make_inputs,
        {"published": stage_two.published, "vectorised": stage_two.vectorised, "auto": stage_two.fused},
        close,
    ),
)
