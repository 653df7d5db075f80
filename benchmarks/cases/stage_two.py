"""The whole stage-two objective of a step as a benchmark: losses, gradients of the features, updated memories."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from salcr import ops
from salcr.nn import ClusterMemory
from salcr.objectives import CrossLabels, GlobalObjective, PartObjective, PartQueries, RefinementObjective
from salcr.objectives.fgsal import ROWS
from salcr.reference.published import objective

WEIGHT = 0.5  # λ₂


class Modules(NamedTuple):
    """Those of an epoch, which :class:`salcr.engine.stage_two.StageTwoObjective` holds in training."""

    dagi: GlobalObjective
    fgsal: PartObjective
    gpcr: tuple[RefinementObjective, RefinementObjective]


Inputs = tuple[tuple[torch.Tensor, torch.Tensor], CrossLabels, Modules, Sequence[torch.Tensor]]


def step_inputs(device: str, quick: bool, images: tuple[int, int], samples: int, width: int) -> Inputs:
    """Global and part features of ``samples`` positions, their labels, an epoch's modules, the orders of updates.

    ``images`` of either modality are in the instance memories; there are as many clusters as on SYSU-MM01.
    """
    clusters = (9, 7) if quick else (600, 500)
    count = (300, 240) if quick else images
    generator = torch.Generator().manual_seed(0)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, generator=generator), dim=-1).to(device)

    base = torch.randn(samples, width, generator=generator).to(device)
    gpcr = tuple(RefinementObjective(unit(n, width), unit(3, n, width)) for n in count)
    for side in gpcr:  # the first images of a memory resemble the batch, so that its views share neighbours
        for rows in (side.whole.rows, side.parts.rows):
            rows[..., :samples, :] = F.normalize(base + 0.5 * base.norm(dim=1, keepdim=True) * unit(samples, width))
    noise = torch.randn(4, 3, 3 * samples, width, generator=generator).to(device)
    chosen = [
        torch.randperm(k, generator=generator)[:12].repeat_interleave(-(-samples // min(12, k))) for k in clusters
    ]
    labels = CrossLabels(*(chosen[n][:samples].to(device) for n in (0, 1, 1, 0)))
    dagi = GlobalObjective(*(ClusterMemory(unit(k, width)) for k in clusters))
    modules = Modules(dagi, PartObjective(*(unit(3, k, width) for k in clusters)), gpcr)
    orders = tuple(torch.randperm(n * samples, generator=generator).to(device) for n in (3, *ROWS))
    return (base.repeat(3, 1) + noise[0, 0], base.repeat(3, 1) + noise[1:]), labels, modules, orders


def memories(modules: Modules) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Rows of the cluster memories: of both modalities, and of the parts A, B, C and E."""
    banks, parts = modules.dagi, modules.fgsal
    return [banks.visible.rows, banks.infrared.rows], [bank.rows for bank in parts.memories]


def images_of(modules: Modules) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of either modality's instance memories."""
    return [(side.whole.rows, side.parts.rows) for side in modules.gpcr]


def update_(
    modules: Modules, f: torch.Tensor, labels: CrossLabels, queries: PartQueries, orders: Sequence[torch.Tensor]
) -> None:
    """All cluster memories, in orders that are given."""
    modules.dagi.update_(f, labels, orders[0])
    modules.fgsal.update_(queries, orders[1:])


def _published(features, labels, modules, orders) -> tuple[torch.Tensor, ...]:
    f, parts = (x.requires_grad_() for x in features)
    whole, of_parts = memories(modules)
    loss = objective.stage_two_loss(f, parts, labels, whole, of_parts, images_of(modules))
    gradients = torch.autograd.grad(loss, (f, parts))
    with torch.no_grad():
        objective.stage_two_update_(f, parts, labels, whole, of_parts, orders)
    return loss.detach(), *gradients, *whole, *of_parts


def _trained(features, labels, modules, orders) -> tuple[torch.Tensor, ...]:
    """As training does it."""
    f, parts = (x.requires_grad_() for x in features)
    queries = modules.fgsal.queries(parts, labels)
    refined = [term for side in modules.gpcr for term in side.loss(f, parts)]
    loss = modules.dagi.loss(f, labels) + modules.fgsal.loss(queries) + WEIGHT * sum(refined)
    gradients = torch.autograd.grad(loss, (f, parts))
    update_(modules, f, labels, queries, orders)
    whole, of_parts = memories(modules)
    return loss.detach(), *gradients, *whole, *of_parts


def _without_kernels(*inputs) -> tuple[torch.Tensor, ...]:
    with ops.use_backend("eager"):
        return _trained(*inputs)


def _bare_products(*inputs) -> None:
    """The matrix products that a step cannot do without: logits and gradient of every row and memory, nothing else."""
    for x, memory in _product_pairs(*inputs):
        (x @ memory.mT) @ memory


def _product_flops(*inputs) -> int:
    """Logits and gradient of every row and memory."""
    return sum(4 * x.numel() * memory.shape[-2] for x, memory in _product_pairs(*inputs))


def _product_bytes(features, labels, modules, orders) -> int:
    """Every memory read, every row read and its gradient written."""
    banks = [rows for kind in (*memories(modules), *images_of(modules)) for rows in kind]
    return 2 * sum(x.nbytes for x in features) + sum(bank.nbytes for bank in banks)


def _product_pairs(features, labels, modules, orders) -> list[tuple[torch.Tensor, torch.Tensor]]:
    (f, parts), (whole, of_parts) = features, memories(modules)
    pairs = [(f, rows) for rows in whole]
    pairs += [(x, rows) for (x, _), rows in zip(modules.fgsal.queries(parts, labels).by_kind(), of_parts, strict=True)]
    parts = parts.flatten(1, 2)
    return pairs + [pair for images in images_of(modules) for pair in zip((f, parts), images, strict=True)]


def _close(outputs: Sequence[torch.Tensor] | None, expected: Sequence[torch.Tensor]) -> None:
    """``bare_products`` has no outputs: it is there for its time."""
    if outputs is not None:
        close(outputs, expected)


def _make_inputs(images: tuple[int, int], device: str, quick: bool) -> Inputs:
    return step_inputs(device, quick, images, *((8, 64) if quick else (144, 2048)))


def _case(name: str, images: tuple[int, int]) -> Case:
    return Case(
        name,
        "losses, gradients and updates of a step, 144 images a view, 3 parts of 2048, 600 and 500 clusters; "
        f"instance memories of {images[0]:,} and {images[1]:,} images",
        partial(_make_inputs, images),
        {"published": _published, "eager": _without_kernels, "auto": _trained, "bare_products": _bare_products},
        _close,
        floor_bytes=_product_bytes,
        floor_flops=_product_flops,
        phase=True,
    )


CASES = (
    _case("stage_two_objective", (22258, 11909)),
    _case("stage_two_objective-tenth", (2226, 1191)),
)
