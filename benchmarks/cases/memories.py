"""Cluster memories and instance memories of a stage-two step."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from benchmarks.features import clustered
from salcr import ops
from salcr.objectives import RefinementObjective
from salcr.reference.published import instance_memory


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


def _update_bytes(*banks: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> int:
    """Every feature read, every row that changes read and written."""
    changed = (len(targets.unique()) * memory[..., 0, :].nbytes for memory, _, targets in banks)
    return sum(features.nbytes for _, features, _ in banks) + 2 * sum(changed)


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


def _refinement_bytes(objective: RefinementObjective, features: torch.Tensor, parts: torch.Tensor) -> int:
    """Memories and rows read, the rows' gradients written."""
    return objective.whole.rows.nbytes + objective.parts.rows.nbytes + 2 * (features.nbytes + parts.nbytes)


def _refine(losses: Callable) -> Callable:
    """Both losses and the gradient of their sum, forward and backward."""

    def step(objective, features, parts):
        leaves = features.requires_grad_(), parts.requires_grad_()
        whole, part = losses(objective, *leaves)
        return whole.detach(), part.detach(), *torch.autograd.grad(whole + part, leaves)

    return step


def _published_losses(objective, features, parts):
    return instance_memory.refinement_losses(features, parts, objective.whole.rows, objective.parts.rows)


CASES = (
    Case(
        "update_cluster_memory_-step",
        "14 memories of 600 or 500 rows of 2048, 8,640 sequential updates, 12 identities x 12 images",
        _memory_step,
        {
            "reference": _update_all(partial(ops.update_cluster_memory_, impl="reference")),
            "eager": _update_all(partial(ops.update_cluster_memory_, impl="eager")),
            "cpp": _update_all(partial(ops.update_cluster_memory_, impl="cpp")),
            "triton": _update_all(partial(ops.update_cluster_memory_, impl="triton")),
        },
        close,
        floor_bytes=_update_bytes,
    ),
    Case(
        "refinement",
        "GPCR of one modality, 1,800 images: 432 global and 3 x 1,296 part rows of 2048, forward and backward",
        _refinement_step,
        {"published": _refine(_published_losses), "auto": _refine(RefinementObjective.loss)},
        close,
        floor_bytes=_refinement_bytes,
        floor_flops=lambda rows, f, parts: 4 * len(rows.whole.rows) * (f.numel() + parts.numel()),
    ),
)
