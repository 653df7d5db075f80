"""From neighbours to labels: inputs and variants of the registry's cases on SPEC 2, everything after the kNN search."""

import numpy as np
import torch

from benchmarks.features import pedestrians
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


def same_labels(outputs: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(outputs.cpu(), expected.cpu()), f"{(outputs.cpu() != expected.cpu()).sum()} labels differ"
