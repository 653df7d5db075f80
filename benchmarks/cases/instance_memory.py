"""Instance memories of a stage-two step, at SYSU-MM01's sizes with its visible images."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close, close_in
from benchmarks.cases.cluster_memory import EPSILONS, compiled, with_gradient
from benchmarks.features import clustered
from salcr import ops, reference
from salcr.objectives import RefinementObjective
from salcr.reference.published import instance_memory

K = 30


def _images(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """All forms of the part features of a batch, and a memory whose rows lie in clusters of K: no ties at the K-th."""
    rows, columns, width = (24, 300, 1024) if quick else (1296, 22258, 2048)
    memory = torch.stack([clustered(columns, K, width, device, seed) for seed in (1, 2, 3)])
    generator = torch.Generator().manual_seed(0)
    seen = memory[:, torch.randint(columns, (rows,), generator=generator).to(device)]
    return seen + 2 * F.normalize(torch.randn(seen.shape, generator=generator), dim=-1).to(device), memory


def _sets_of_images(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """The same with a third of each row's neighbours as positives, and what the search knows already."""
    features, memory = _images(device, quick)
    neighbours, *known = ops.instance_search(features, memory, K)
    return features, memory, neighbours[..., ::3].contiguous(), *known


def _three_sets(device: str, quick: bool) -> tuple:
    """Each row's neighbours dealt out to three sets."""
    features, memory = _images(device, quick)
    neighbours, _ = ops.instance_neighbors(features, memory, K)
    return features, memory, [neighbours[..., n::3].contiguous() for n in range(3)]


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


def _set_contrast(function: Callable, features, memory, positives, lse, mean_row) -> tuple[torch.Tensor, torch.Tensor]:
    return with_gradient(function, features, memory, positives, lse=lse, mean_row=mean_row)


def _refine(losses: Callable) -> Callable:
    """Both losses and the gradient of their sum, forward and backward."""

    def step(objective, features, parts):
        leaves = features.requires_grad_(), parts.requires_grad_()
        whole, part = losses(objective, *leaves)
        return whole.detach(), part.detach(), *torch.autograd.grad(whole + part, leaves)

    return step


def _published_losses(objective, features, parts):
    return instance_memory.refinement_losses(features, parts, objective.whole.rows, objective.parts.rows)


def _same_search(outputs: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    assert torch.equal(outputs[0], expected[0])
    close(outputs[1:], expected[1:])


def _same_sets(outputs: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> float:
    """The error of the mean row, which alone is made in bfloat16."""
    _same_search(outputs[:2], expected[:2])
    return close_in(EPSILONS["bfloat16"], outputs[2:], expected[2:])


SEARCHES = {
    "eager": partial(ops.instance_search, impl="eager"),
    "compiled": compiled("instance_search"),
    "cpp": partial(ops.instance_search, impl="cpp"),
    "triton": partial(ops.instance_search, impl="triton"),
}
CONTRASTS = {
    "reference": reference.set_contrast,
    "compiled": compiled("set_contrast"),
    "cpp": partial(ops.set_contrast, impl="cpp"),
    "triton": partial(ops.set_contrast, impl="triton"),
}
CASES = (
    Case(
        "instance_search",
        "3 x 1,296 part rows against 22,258 images each, width 2048: 30 neighbours, log-sum-exp, mean row",
        _images,
        {name: partial(function, k=K) for name, function in SEARCHES.items()},
        _same_search,
    ),
    Case(
        "instance_search-bfloat16",
        "3 x 1,296 part rows against 22,258 images each, width 2048: 30 neighbours, log-sum-exp, mean row in bfloat16",
        _images,
        {
            "eager": partial(ops.instance_search, k=K, impl="eager"),
            "triton": partial(ops.instance_search, k=K, precision="bfloat16", impl="triton"),
        },
        _same_sets,
    ),
    Case(
        "set_contrast",
        "3 x 1,296 part rows with 10 positives each among 22,258 images, forward and backward, after the search "
        "(reference: autograd through all logits)",
        _sets_of_images,
        {name: partial(_set_contrast, function) for name, function in CONTRASTS.items()},
        close,
    ),
    Case(
        "set_contrast-each",
        "3 x 1,296 part rows with three sets of 10 positives among 22,258 images, forward and backward",
        _three_sets,
        {
            "reference": partial(with_gradient, partial(reference.set_contrast, over="each")),
            "cpp": partial(with_gradient, partial(ops.set_contrast, over="each", impl="cpp")),
            "triton": partial(with_gradient, partial(ops.set_contrast, over="each", impl="triton")),
        },
        close,
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
