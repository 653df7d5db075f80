"""Feature propagation across modalities, at a size without ties and at SYSU-MM01's."""

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.case import Case, close
from benchmarks.features import clustered, pedestrians
from salcr import ops
from salcr.reference.published import propagation

IMAGES, WIDTH = (22258, 11909), 2048  # of SYSU-MM01, visible and infrared
TIED = 2e-3  # share of rows that may differ: their k-th and next neighbour are nearer to each other than rounding


def dataset(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of both modalities."""
    images, width = ((220, 120), 64) if quick else (IMAGES, WIDTH)
    return tuple(x.to(device) for x in pedestrians(sum(images), width).split(images))


def bare_products(visible: torch.Tensor, infrared: torch.Tensor) -> None:
    """All inner products within both modalities, and once those across: what propagation is made of."""
    for x, y in ((visible, visible), (visible, infrared), (infrared, infrared)):
        for block in x.split(1024):
            block @ y.mT


def nearly_all(outputs: Sequence[torch.Tensor] | None, expected: Sequence[torch.Tensor]) -> None:
    """Rows agree, but for those at a tie; bare products have no result to compare."""
    for x, y in zip(outputs or (), expected if outputs else (), strict=True):
        different = (x != y) if y.dtype == torch.int64 else ((x - y).abs() > 1e-5).any(1)
        share = different.double().mean()
        assert share <= TIED, f"{share:.2%} of {len(y)} rows differ"


def _without_ties(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The 30 nearest of every image are its cluster's in either modality, far from a tie."""
    count, width = (90, 256) if quick else (900, WIDTH)
    return tuple(clustered(count, 30, width, device, seed) for seed in (1, 2))


def _product_flops(visible: torch.Tensor, infrared: torch.Tensor) -> int:
    return 2 * visible.shape[1] * (len(visible) ** 2 + len(visible) * len(infrared) + len(infrared) ** 2)


CASES = (
    Case(
        "propagate_features",
        "900 visible and 900 infrared features of 2048, k 30",
        _without_ties,
        {
            "reference": partial(ops.propagate_features, impl="reference"),
            "published": propagation.propagate_features,
            "eager": partial(ops.propagate_features, impl="eager"),
            "cpp": partial(ops.propagate_features, impl="cpp"),
            "triton": partial(ops.propagate_features, impl="triton"),
        },
        close,
        floor_bytes=lambda v, r: 2 * (v.nbytes + r.nbytes),
        floor_flops=lambda v, r: 2 * (len(v) * v.numel() + len(r) * (v.numel() + r.numel())),
    ),
    Case(
        "propagate_features-sysu",
        "22,258 visible and 11,909 infrared features of 2048, k 30; bare_products: the inner products alone, "
        "once across and in full within the modalities",
        dataset,
        {
            "eager": partial(ops.propagate_features, impl="eager"),
            "cpp": partial(ops.propagate_features, impl="cpp"),
            "triton": partial(ops.propagate_features, impl="triton"),
            "bare_products": bare_products,
        },
        nearly_all,
        floor_flops=_product_flops,
    ),
)
