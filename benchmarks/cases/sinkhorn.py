"""Optimal transport of images to the clusters of the other modality."""

from functools import partial

import torch

from benchmarks.case import Case, close
from benchmarks.cases.propagation import dataset
from salcr import ops
from salcr.objectives.association import squared_distances
from salcr.reference.published import association


def _costs(device: str, quick: bool) -> tuple[torch.Tensor]:
    visible, infrared = dataset(device, quick)
    return (squared_distances(infrared, visible[: 12 if quick else 600]),)


CASES = (
    Case(
        "sinkhorn",
        "11,909 infrared images to 600 visible clusters, λ 5",
        _costs,
        {
            "reference": partial(ops.sinkhorn, impl="reference"),
            "published": association.sinkhorn,
            "cpp": partial(ops.sinkhorn, impl="cpp"),
            "triton": partial(ops.sinkhorn, impl="triton"),
        },
        close,
    ),
)
