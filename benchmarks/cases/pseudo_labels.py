"""Pseudo labels (SPEC 2): the Jaccard graph, and everything after the kNN search."""

from functools import partial

import numpy as np
import torch

from benchmarks.case import Case, same_graph, same_labels
from benchmarks.features import clustered, pedestrians
from salcr import ops
from salcr.ops._jaccard_cpp import graph_of_neighbours, neighbours
from salcr.reference.published import jaccard

EPS, K1, K2, MIN_SAMPLES = 0.6, 30, 6, 4
HUBS = dict(spread=2.0, hubs=0.01)  # of pedestrians: more than half of the images are noise


def searched(count: int, options: dict, device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Unit features, ranks and inner products of ``count`` images."""
    features = pedestrians(*((400, 64) if quick else (count, 2048)), **options)
    return tuple(x.to(device) for x in neighbours(features, K1))


def published(features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Dense encodings, one image after the other, and scikit-learn's DBSCAN of dense distances."""
    from sklearn.cluster import DBSCAN

    distances = jaccard.distances_of_neighbours(features.cpu().numpy(), ranks.cpu().numpy(), K2)
    model = DBSCAN(eps=np.float32(EPS), min_samples=MIN_SAMPLES, metric="precomputed")
    return torch.from_numpy(model.fit_predict(distances))


def cpu(features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    graph = graph_of_neighbours(features, ranks, products, K2, EPS)
    return ops.dbscan(graph, eps=EPS, min_samples=MIN_SAMPLES, impl="cpu")


def _one_modality(device: str, quick: bool) -> tuple[torch.Tensor]:
    return (clustered(*((150, 25, 64) if quick else (2000, 25, 2048)), device, seed=1),)


def _labels_case(name: str, count: int, options: dict, what: str) -> Case:
    note = f"{count} features of 2048, {what}: from neighbours (k1 30, k2 6) to labels (eps 0.6, min_samples 4)"
    variants = {"published": published, "cpu": cpu}
    return Case(name, note, partial(searched, count, options), variants, same_labels)


CASES = (
    Case(
        "jaccard_graph",
        "2,000 features of 2048 in clusters of 25, k1 30, k2 6, distances up to 0.6 (published: all)",
        _one_modality,
        {
            "reference": partial(ops.jaccard_graph, max_distance=EPS, impl="reference"),
            "published": jaccard.jaccard_distance,
            "cpu": partial(ops.jaccard_graph, max_distance=EPS, impl="cpu"),
        },
        partial(same_graph, max_distance=EPS),
    ),
    _labels_case("labels-visible", 22258, {}, "clusters and 5 to 10 % noise"),
    _labels_case("labels-infrared", 11909, {}, "clusters and 5 to 10 % noise"),
    _labels_case("labels-hubs", 22258, HUBS, "hubs, more than half noise"),
)
