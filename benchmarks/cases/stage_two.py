"""The whole stage-two objective of a step as a benchmark: losses, gradients of the features, updated memories."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from salcr import ops
from salcr.engine.stage_two import StageTwoObjective, StepQueries, total
from salcr.models import TrainingFeatures
from salcr.nn import ClusterMemory
from salcr.objectives import CrossLabels, GlobalObjective, PartObjective, RefinementObjective
from salcr.reference.published import objective

Inputs = tuple[TrainingFeatures, CrossLabels, StageTwoObjective, Sequence[torch.Tensor]]


def step_inputs(device: str, quick: bool, images: tuple[int, int], samples: int, width: int) -> Inputs:
    """A batch of ``samples`` positions, its labels, the modules of an epoch and the orders of their updates.

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
    losses = StageTwoObjective(dagi, PartObjective(*(unit(3, k, width) for k in clusters)), gpcr, weight=0.5)
    orders = tuple(torch.randperm(n * samples, generator=generator).to(device) for n in (3, 6, 6, 3, 3))
    return TrainingFeatures(base.repeat(3, 1) + noise[0, 0], base.repeat(3, 1) + noise[1:]), labels, losses, orders


def memories(losses: StageTwoObjective) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Rows of the cluster memories: of both modalities, and of the parts A, B, C and E."""
    banks, parts = losses.dagi, losses.fgsal
    return [banks.visible.rows, banks.infrared.rows], [bank.rows for bank in (parts.a, parts.b, parts.c, parts.e)]


def images_of(losses: StageTwoObjective) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of either modality's instance memories."""
    return [(side.whole.rows, side.parts.rows) for side in losses.gpcr]


def update_(losses: StageTwoObjective, f: torch.Tensor, queries: StepQueries, orders: Sequence[torch.Tensor]) -> None:
    """As :meth:`StageTwoObjective.update_`, in orders that are given."""
    losses.dagi.update_(f, queries.labels, orders[0])
    losses.fgsal.update_(queries.parts, orders[1:])


def _published(features, labels, losses, orders) -> tuple[torch.Tensor, ...]:
    f, parts = (x.requires_grad_() for x in features)
    whole, of_parts = memories(losses)
    loss = objective.stage_two_loss(f, parts, labels, whole, of_parts, images_of(losses))
    gradients = torch.autograd.grad(loss, (f, parts))
    with torch.no_grad():
        objective.stage_two_update_(f, parts, labels, whole, of_parts, orders)
    return loss.detach(), *gradients, *whole, *of_parts


def _trained(features, labels, losses, orders) -> tuple[torch.Tensor, ...]:
    """As training does it."""
    features = TrainingFeatures(*(x.requires_grad_() for x in features))
    queries = losses.queries(features, labels)
    loss = total(losses.losses(features, queries))
    gradients = torch.autograd.grad(loss, features)
    update_(losses, features.f, queries, orders)
    whole, of_parts = memories(losses)
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


def _product_bytes(features, labels, losses, orders) -> int:
    """Every memory read, every row read and its gradient written."""
    banks = [rows for kind in (*memories(losses), *images_of(losses)) for rows in kind]
    return 2 * sum(x.nbytes for x in features) + sum(bank.nbytes for bank in banks)


def _product_pairs(features, labels, losses, orders) -> list[tuple[torch.Tensor, torch.Tensor]]:
    queries, (whole, of_parts) = losses.queries(features, labels), memories(losses)
    pairs = [(features.f, rows) for rows in whole]
    pairs += [(x, rows) for (x, _), rows in zip(queries.parts.by_kind(), of_parts, strict=True)]
    rows = features.parts.flatten(1, 2)
    return pairs + [pair for f, parts in images_of(losses) for pair in ((features.f, f), (rows, parts))]


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
