"""What brings the clusters of both modalities together (SPEC 4): propagation, assignment, transport."""

from functools import partial

import torch

from benchmarks.case import Case, close
from benchmarks.features import clustered
from salcr import ops
from salcr.reference.published import propagation


def _two_modalities(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The 30 nearest of every image are its cluster's in either modality, far from a tie."""
    count, width = (90, 256) if quick else (900, 2048)
    return tuple(clustered(count, 30, width, device, seed) for seed in (1, 2))


CASES = (
    Case(
        "propagate_features",
        "900 visible and 900 infrared features of 2048, k 30",
        _two_modalities,
        {
            "reference": partial(ops.propagate_features, impl="reference"),
            "published": propagation.propagate_features,
        },
        close,
    ),
)
