"""What brings the clusters of both modalities together: propagation, assignment, transport."""

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.case import Case, close
from benchmarks.features import clustered, pedestrians
from salcr import ops
from salcr.objectives import CrossLabels, associate
from salcr.objectives.association import squared_distances
from salcr.reference.published import association, propagation

IMAGES, CLUSTERS, WIDTH = (22258, 11909), (600, 500), 2048  # of SYSU-MM01, visible and infrared
TIED = 2e-3  # share of rows that may differ: their k-th and next neighbour are nearer to each other than rounding


def _two_modalities(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The 30 nearest of every image are its cluster's in either modality, far from a tie."""
    count, width = (90, 256) if quick else (900, WIDTH)
    return tuple(clustered(count, 30, width, device, seed) for seed in (1, 2))


def _dataset(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    images, width = ((220, 120), 64) if quick else (IMAGES, WIDTH)
    return tuple(x.to(device) for x in pedestrians(sum(images), width).split(images))


def _epoch(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Features and clusters of both modalities: images by their nearest of some."""
    sides = []
    for x, clusters in zip(_dataset(device, quick), (6, 5) if quick else CLUSTERS, strict=True):
        labels = (x @ x[:clusters].mT).argmax(1)
        sides += [x, labels.unique(return_inverse=True)[1]]
    return tuple(sides)


def _plan_problem(device: str, quick: bool) -> tuple[torch.Tensor]:
    visible, infrared = _dataset(device, quick)
    return (squared_distances(infrared, visible[: 12 if quick else CLUSTERS[0]]),)


def _products(visible: torch.Tensor, infrared: torch.Tensor) -> None:
    """All inner products within both modalities, and once those across: what propagation is made of."""
    for x, y in ((visible, visible), (visible, infrared), (infrared, infrared)):
        for block in x.split(1024):
            block @ y.mT


def _epoch_products(visible, visible_labels, infrared, infrared_labels) -> None:
    """The same, and those with the other modality's centroids."""
    _products(visible, infrared)
    visible @ infrared[: CLUSTERS[1]].mT
    infrared @ visible[: CLUSTERS[0]].mT


def _product_flops(visible: torch.Tensor, infrared: torch.Tensor) -> int:
    return 2 * visible.shape[1] * (len(visible) ** 2 + len(visible) * len(infrared) + len(infrared) ** 2)


def _eager_epoch(*epoch: torch.Tensor) -> CrossLabels:
    with ops.use_backend("eager"):
        return associate(*epoch)


def _nearly_all(outputs: Sequence[torch.Tensor] | None, expected: Sequence[torch.Tensor]) -> None:
    """Rows agree, but for those at a tie; bare products have no result to compare."""
    for x, y in zip(outputs or (), expected if outputs else (), strict=True):
        different = (x != y) if y.dtype == torch.int64 else ((x - y).abs() > 1e-5).any(1)
        share = different.double().mean()
        assert share <= TIED, f"{share:.2%} of {len(y)} rows differ"


CASES = (
    Case(
        "propagate_features",
        "900 visible and 900 infrared features of 2048, k 30",
        _two_modalities,
        {
            "reference": partial(ops.propagate_features, impl="reference"),
            "published": propagation.propagate_features,
            "eager": partial(ops.propagate_features, impl="eager"),
            "cpp": partial(ops.propagate_features, impl="cpp"),
        },
        close,
        floor_bytes=lambda v, r: 2 * (v.nbytes + r.nbytes),
        floor_flops=lambda v, r: 2 * (len(v) * v.numel() + len(r) * (v.numel() + r.numel())),
    ),
    Case(
        "propagate_features-sysu",
        "22,258 visible and 11,909 infrared features of 2048, k 30; bare_products: the inner products alone, "
        "once across and in full within the modalities",
        _dataset,
        {impl: partial(ops.propagate_features, impl=impl) for impl in ("eager", "cpp")}
        | {"bare_products": _products},
        _nearly_all,
        floor_flops=_product_flops,
    ),
    Case(
        "sinkhorn",
        "11,909 infrared images to 600 visible clusters, λ 5",
        _plan_problem,
        {
            "reference": partial(ops.sinkhorn, impl="reference"),
            "published": association.sinkhorn,
            "cpp": partial(ops.sinkhorn, impl="cpp"),
            "triton": partial(ops.sinkhorn, impl="triton"),
        },
        close,
    ),
    Case(
        "association-sysu",
        "labels across 22,258 visible and 11,909 infrared images in 600 and 500 clusters: propagation, centroids, "
        "transport both ways; bare_products: the inner products alone",
        _epoch,
        {"eager": _eager_epoch, "auto": associate, "bare_products": _epoch_products},
        _nearly_all,
        phase=True,
    ),
)
