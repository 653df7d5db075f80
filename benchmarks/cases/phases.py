"""Phases of an epoch that are operators one after the other, at SYSU-MM01's sizes, and as published code runs them.

The objective of a step alone is a phase too: :mod:`benchmarks.cases.stage_two`.
"""

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from benchmarks.cases.clustering import EPS
from benchmarks.features import clustered, pedestrians
from salcr import ops
from salcr.objectives import CrossLabels, associate
from salcr.reference.published import association, clustering

IMAGES = 22258, 11909
IMAGES_AN_IDENTITY = 56


def _training_features(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    counts, width = ((200, 150), 64) if quick else (IMAGES, 2048)
    return tuple(pedestrians(count, width, seed=seed).to(device) for seed, count in enumerate(counts))


def _cluster(*modalities: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    labels = [ops.cluster(features, eps=EPS) for features in modalities]
    return [
        (y, F.normalize(ops.cluster_centroids(F.normalize(x, dim=1), y), dim=1))
        for x, y in zip(modalities, labels, strict=True)
    ]


def _same_clusters(outputs, expected) -> None:
    for (labels, centroids), (expected_labels, expected_centroids) in zip(outputs, expected, strict=True):
        assert torch.equal(labels.cpu(), expected_labels), f"{(labels.cpu() != expected_labels).sum()} labels differ"
        close(centroids.cpu(), expected_centroids)


def _clustered_modalities(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Features and labels of both modalities, of the same identities; on the CPU a third of SYSU-MM01's images."""
    counts = (300, 200) if quick else IMAGES if device == "cuda" else tuple(count // 3 for count in IMAGES)
    inputs = []
    for seed, count in enumerate(counts, start=1):
        inputs.append(clustered(count, IMAGES_AN_IDENTITY, 256 if quick else 2048, device, seed))
        inputs.append(torch.arange(count, device=device) // IMAGES_AN_IDENTITY)
    return tuple(inputs)


def _same_cross_labels(outputs: CrossLabels, expected: tuple[torch.Tensor, ...]) -> None:
    for found, wanted in zip(outputs, expected, strict=True):
        assert torch.equal(found, wanted), f"{(found != wanted).sum()} of {len(wanted)} labels differ"


CASES = (
    Case(
        "clustering_phase",
        "features of 22,258 and 11,909 images of 2048 to labels and centroids (k1 30, k2 6, eps 0.6, min_samples 4)",
        _training_features,
        {"published": lambda *modalities: clustering.clustering_phase(modalities, eps=EPS), "auto": _cluster},
        _same_clusters,
        floor_bytes=lambda *modalities: sum(x.nbytes for x in modalities),
        floor_flops=lambda *modalities: sum(2 * len(x) * x.numel() for x in modalities),
        phase=True,
    ),
    Case(
        "association_phase",
        "propagation (k 30), refined labels, Sinkhorn both ways; 22,258 and 11,909 images of 2048 in clusters of 56 on "
        "a GPU, a third of them on the CPU",
        _clustered_modalities,
        {"published": association.associate, "auto": associate},
        _same_cross_labels,
        floor_bytes=lambda v, y_v, r, y_r: 2 * (v.nbytes + r.nbytes),
        floor_flops=lambda v, y_v, r, y_r: 2 * (len(v) * v.numel() + len(r) * (v.numel() + r.numel())),
        phase=True,
    ),
)
