"""The whole stage-two objective of a step as a benchmark: losses, gradients of the features, updated memories."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from salcr import ops, reference
from salcr.reference.published import objective

Inputs = tuple  # features, parts, labels, memories, part memories, images, orders: as stage_two_loss and _update_ take


def make_inputs(device: str, quick: bool, images: tuple[int, int] = (22258, 11909)) -> Inputs:
    """SYSU-MM01's sizes: ``images`` of either modality in its instance memories."""
    return step_inputs(device, quick, images, *((8, 64) if quick else (144, 2048)))


def step_inputs(device: str, quick: bool, images: tuple[int, int], samples: int, width: int) -> Inputs:
    """The same for a batch of ``samples`` positions and features of ``width``."""
    clusters = (9, 7) if quick else (600, 500)
    count = (300, 240) if quick else images
    generator = torch.Generator().manual_seed(0)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, generator=generator), dim=-1).to(device)

    base = torch.randn(samples, width, generator=generator).to(device)
    images = tuple((unit(n, width), unit(3, n, width)) for n in count)
    for modality in images:  # the first images of a memory resemble the batch, so that its views share neighbours
        for rows in modality:
            rows[..., :samples, :] = F.normalize(base + 0.5 * base.norm(dim=1, keepdim=True) * unit(samples, width))
    noise = torch.randn(4, 3, 3 * samples, width, generator=generator).to(device)
    chosen = [
        torch.randperm(k, generator=generator)[:12].repeat_interleave(-(-samples // min(12, k))) for k in clusters
    ]
    labels = tuple(chosen[n][:samples].to(device) for n in (0, 1, 1, 0))
    memories = tuple(unit(k, width) for k in clusters)
    parts = tuple(unit(3, k, width) for k in (*clusters, *clusters))
    orders = tuple(torch.randperm(n * samples, generator=generator).to(device) for n in (3, 6, 6, 3, 3))
    return base.repeat(3, 1) + noise[0, 0], base.repeat(3, 1) + noise[1:], labels, memories, parts, images, orders


def published(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return _step(objective.stage_two_loss, objective.stage_two_update_, *inputs)


def vectorised(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Eager PyTorch, all parts in one call, autograd through the logits."""
    return _step(functools.partial(_loss, reference), functools.partial(_update_, reference), *inputs)


def fused(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The operators, as training calls them."""
    return _step(functools.partial(_loss, ops), functools.partial(_update_, ops), *inputs)


def bare_products(*inputs: torch.Tensor) -> None:
    """The matrix products that a step cannot do without: logits and gradient of every row and memory, nothing else."""
    for x, memory in _product_pairs(*inputs):
        (x @ memory.mT) @ memory


def product_flops(*inputs: torch.Tensor) -> int:
    """Logits and gradient of every row and memory."""
    return sum(4 * x.numel() * memory.shape[-2] for x, memory in _product_pairs(*inputs))


def product_bytes(*inputs: torch.Tensor) -> int:
    """Every memory read, every row read and its gradient written."""
    features, parts, _, memories, part_memories, images, _ = inputs
    banks = [*memories, *part_memories, *(rows for modality in images for rows in modality)]
    return 2 * (features.nbytes + parts.nbytes) + sum(bank.nbytes for bank in banks)


def _product_pairs(features, parts, labels, memories, part_memories, images, orders) -> list[tuple[torch.Tensor, ...]]:
    samples = len(labels[0])
    visible, infrared = (x.flatten(1, 2) for x in parts.split((2 * samples, samples), dim=2))
    pairs = [(features, m) for m in memories]
    pairs += list(zip((visible, visible, infrared, infrared), part_memories, strict=True))
    pairs += [pair for whole, part in images for pair in ((features, whole), (parts.flatten(1, 2), part))]
    return pairs


def _step(loss, update_, features, parts, labels, memories, part_memories, images, orders):
    features, parts = features.detach().requires_grad_(), parts.detach().requires_grad_()
    value = loss(features, parts, labels, memories, part_memories, images)
    gradients = torch.autograd.grad(value, (features, parts))
    with torch.no_grad():
        update_(features, parts, labels, memories, part_memories, orders)
    return value.detach(), *gradients, *memories, *part_memories


def _queries(parts, labels):
    own_v, to_r, own_r, to_v = labels
    visible, infrared = (x.flatten(1, 2) for x in parts.split((2 * len(own_v), len(own_v)), dim=2))
    sides = torch.cat([own_v, own_v, to_v]), torch.cat([to_r, to_r, own_r])
    return visible, infrared, (own_v.repeat(6), to_r.repeat(6)), (to_v.repeat(3), own_r.repeat(3)), sides


def _loss(room, features, parts, labels, memories, part_memories, images):
    visible, infrared, of_visible, of_infrared, sides = _queries(parts, labels)
    loss = room.cluster_contrast_sum(features, memories, sides)
    loss = loss + room.cluster_contrast_sum(visible, part_memories[:2], of_visible)
    loss = loss + room.cluster_contrast_sum(infrared, part_memories[2:], of_infrared)
    rows, size = parts.flatten(1, 2), len(features)
    for whole, part in images:
        top, lse, mean_row = _search(room, features, whole)
        agreed = room.intersect_sets(*top.chunk(3)).repeat(3, 1)
        loss = loss + 0.5 * room.set_contrast(features, whole, agreed, lse=lse, mean_row=mean_row)
        top_parts, lse, mean_row = _search(room, rows, part)
        others = room.unite_sets(top_parts.roll(size, dims=1), top_parts.roll(2 * size, dims=1))
        chosen = room.intersect_sets(others, top.repeat(3, 1))
        loss = loss + 0.5 * room.set_contrast(rows, part, chosen, lse=lse, mean_row=mean_row)
    return loss


def _search(room, rows, memory):
    """The vectorised form has no use for the mean row."""
    return room.instance_search(rows, memory) if room is ops else (*room.instance_neighbors(rows, memory), None)


def _update_(room, features, parts, labels, memories, part_memories, orders):
    visible, infrared, of_visible, of_infrared, sides = _queries(parts, labels)
    for memory, targets in zip(memories, sides, strict=True):
        room.update_cluster_memory_(memory, features, targets, order=orders[0])
    kinds = zip((visible, visible, infrared, infrared), (*of_visible, *of_infrared), orders[1:], strict=True)
    for memory, (rows, targets, order) in zip(part_memories, kinds, strict=True):
        room.update_cluster_memory_(memory, rows, targets, order=order)


def _case(name: str, images: tuple[int, int]) -> Case:
    return Case(
        name,
        "losses, gradients and updates of a step, 144 images a view, 3 parts of 2048, 600 and 500 clusters; "
        f"instance memories of {images[0]:,} and {images[1]:,} images",
        functools.partial(make_inputs, images=images),
        {"published": published, "vectorised": vectorised, "auto": fused, "bare_products": bare_products},
        _close,
        floor_bytes=product_bytes,
        floor_flops=product_flops,
        phase=True,
    )


def _close(outputs: Sequence[torch.Tensor] | None, expected: Sequence[torch.Tensor]) -> None:
    """``bare_products`` has no outputs: it is there for its time."""
    if outputs is not None:
        close(outputs, expected)


CASES = (
    _case("stage_two_objective", (22258, 11909)),
    _case("stage_two_objective-tenth", (2226, 1191)),
)
