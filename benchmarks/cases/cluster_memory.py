"""Cluster memories of a stage-two step at SYSU-MM01's sizes: their contrast and their update."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close, close_in
from salcr import ops, reference
from salcr.defaults import MOMENTUM
from salcr.nn import HybridMemory
from salcr.ops.cluster_memory_update import update_cluster_memories_
from salcr.reference.published.cluster_memory import hybrid_memory_loss


def with_gradient(function: Callable, features, *arguments, **known) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and its gradient for the features."""
    leaf = features.detach().requires_grad_()
    loss = function(leaf, *arguments, **known)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def compiled(name: str) -> Callable:
    """``torch.compile`` of the reference."""
    return lambda *arguments, **options: torch.compile(getattr(reference, name))(*arguments, **options)


def _classes(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Part features of visible queries, a part memory, targets."""
    rows, columns, width = (48, 9, 64) if quick else (864, 600, 2048)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, rows, width, generator=generator)
    memory = F.normalize(torch.randn(3, columns, width, generator=generator), dim=-1)
    targets = torch.randint(columns, (rows,), generator=generator)
    return features.to(device), memory.to(device), targets.to(device)


def _soft_classes(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """The same with a distribution over clusters and a weight in place of each target."""
    features, memory, _ = _classes("cpu", quick)
    generator = torch.Generator().manual_seed(1)
    soft = torch.randn(features.shape[1], memory.shape[1], generator=generator).softmax(-1)
    weights = torch.rand(features.shape[1], generator=generator)
    return features.to(device), memory.to(device), soft.to(device), weights.to(device)


def _soft(function: Callable) -> Callable:
    def contrast(features, memory, soft, weights):
        return with_gradient(function, features, memory, soft_targets=soft, weights=weights)

    return contrast


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


def _epoch_of_steps(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Rows of all images, labels that leave an eighth of them alone, and features and images of some batches."""
    images, width, batches, batch = (60, 32, 3, 8) if quick else (12_936, 2048, 40, 64)
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(images, width, generator=generator), dim=-1)
    labels = torch.arange(images) // 17
    labels[::8] = len(labels) // 17 + 1 + torch.arange(len(labels[::8]))
    labels = labels.unique(return_inverse=True)[1]
    features = torch.randn(batches, batch, width, generator=generator)
    indices = torch.randint(images, (batches, batch), generator=generator)
    return tuple(x.to(device) for x in (rows, labels, features, indices))


def _published_steps(rows, labels, features, indices) -> tuple[torch.Tensor, ...]:
    found = [
        with_gradient(partial(hybrid_memory_loss, rows, labels), *batch)
        for batch in zip(features, indices, strict=True)
    ]
    return *map(torch.stack, zip(*found, strict=True)), rows


def _hybrid_steps(rows, labels, features, indices) -> tuple[torch.Tensor, ...]:
    memory, found = HybridMemory(rows, labels), []
    for batch in zip(features, indices, strict=True):
        found.append(with_gradient(memory.contrast, *batch))
        memory.update_(*batch)
    return *map(torch.stack, zip(*found, strict=True)), rows.copy_(memory.rows)


def _update_all(impl: str, *banks: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    memories, features, targets = (list(x) for x in zip(*banks, strict=True))
    orders = [torch.arange(len(y), device=y.device) for y in targets]
    update_cluster_memories_(memories, features, targets, orders, momentum=MOMENTUM, impl=impl)
    return memories


def _update_hardest(impl: str, *banks: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
    return [ops.update_cluster_memory_(*bank, select="hardest", impl=impl) for bank in banks]


def _update_bytes(*banks: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> int:
    """Every feature read, every row that changes read and written."""
    changed = (len(targets.unique()) * memory[..., 0, :].nbytes for memory, _, targets in banks)
    return sum(features.nbytes for _, features, _ in banks) + 2 * sum(changed)


EPSILONS = {"tf32": 2.0**-10, "bfloat16": 2.0**-7}
CONTRASTS = {
    "reference": reference.cluster_contrast,
    "compiled": compiled("cluster_contrast"),
    "cpp": partial(ops.cluster_contrast, impl="cpp"),
    "triton": partial(ops.cluster_contrast, impl="triton"),
}


def _in_precision(precision: str, epsilon: float) -> Case:
    """The contrast of float32 rows at less; the reference multiplies in float32."""
    contrasts = {impl: partial(ops.cluster_contrast, precision=precision, impl=impl) for impl in ("cpp", "triton")}
    contrasts = {"reference": reference.cluster_contrast, **contrasts}
    return Case(
        f"cluster_contrast-{precision}",
        f"3 x 864 part rows against 600 clusters each, width 2048, products in {precision}, forward and backward",
        _classes,
        {name: partial(with_gradient, function) for name, function in contrasts.items()},
        partial(close_in, epsilon),
    )


CASES = (
    Case(
        "cluster_contrast",
        "3 x 864 part rows against 600 clusters each, width 2048, forward and backward",
        _classes,
        {name: partial(with_gradient, function) for name, function in CONTRASTS.items()},
        close,
    ),
    _in_precision("tf32", EPSILONS["tf32"]),
    _in_precision("bfloat16", EPSILONS["bfloat16"]),
    Case(
        "cluster_contrast-soft",
        "3 x 864 part rows against 600 clusters each, width 2048, soft targets and weights, forward and backward",
        _soft_classes,
        {
            "reference": _soft(reference.cluster_contrast),
            "compiled": _soft(compiled("cluster_contrast")),
            "cpp": _soft(partial(ops.cluster_contrast, impl="cpp")),
            "triton": _soft(partial(ops.cluster_contrast, impl="triton")),
        },
        close,
    ),
    Case(
        "hybrid_memory",
        "40 batches of 64 against 12,936 images in 2,378 classes, width 2048: losses, gradients and updates",
        _epoch_of_steps,
        {"published": _published_steps, "auto": _hybrid_steps},
        close,
    ),
    Case(
        "update_cluster_memory_-hardest",
        "14 memories of 600 or 500 rows of 2048, 8,640 samples of which 12 a part move a row",
        _memory_step,
        {impl: partial(_update_hardest, impl) for impl in ("reference", "eager", "cpp", "triton")},
        close,
        floor_bytes=_update_bytes,
    ),
    Case(
        "update_cluster_memory_-step",
        "14 memories of 600 or 500 rows of 2048, 8,640 sequential updates, 12 identities x 12 images",
        _memory_step,
        {impl: partial(_update_all, impl) for impl in ("reference", "eager", "cpp", "triton")},
        close,
        floor_bytes=_update_bytes,
    ),
)
