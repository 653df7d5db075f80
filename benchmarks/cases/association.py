"""The association of an epoch: what brings the clusters of both modalities together."""

import torch

from benchmarks.case import Case
from benchmarks.cases.propagation import bare_products, dataset, nearly_all
from salcr import ops
from salcr.objectives import CrossLabels, associate

CLUSTERS = 600, 500  # visible and infrared, as of SYSU-MM01


def _epoch(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Features and clusters of both modalities: images by their nearest of some."""
    sides = []
    for x, clusters in zip(dataset(device, quick), (6, 5) if quick else CLUSTERS, strict=True):
        labels = (x @ x[:clusters].mT).argmax(1)
        sides += [x, labels.unique(return_inverse=True)[1]]
    return tuple(sides)


def _eager_epoch(*epoch: torch.Tensor) -> CrossLabels:
    with ops.use_backend("eager"):
        return associate(*epoch)


def _epoch_products(visible, visible_labels, infrared, infrared_labels) -> None:
    """Those of propagation, and those with the other modality's centroids."""
    bare_products(visible, infrared)
    visible @ infrared[: CLUSTERS[1]].mT
    infrared @ visible[: CLUSTERS[0]].mT


CASES = (
    Case(
        "association-sysu",
        "labels across 22,258 visible and 11,909 infrared images in 600 and 500 clusters: propagation, centroids, "
        "transport both ways; bare_products: the inner products alone",
        _epoch,
        {"eager": _eager_epoch, "auto": associate, "bare_products": _epoch_products},
        nearly_all,
        phase=True,
    ),
)
