"""Pseudo labels as published implementations compute them: a baseline of benchmarks, not for use. From the paper.

Dense N×N distances (:mod:`.jaccard`), scikit-learn's DBSCAN of them, and a Python loop over clusters for the centroids.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from salcr.reference.published.jaccard import distances_of_neighbours, jaccard_distance


def clustering_phase(
    modalities: Sequence[torch.Tensor], *, eps: float, min_samples: int = 4, k1: int = 30, k2: int = 6
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(labels, unit centroids) of each modality's features ``[N, D]``: what an epoch does before its first step."""
    found = []
    for features in modalities:
        labels = pseudo_labels(features, eps=eps, min_samples=min_samples, k1=k1, k2=k2)
        rows = F.normalize(features, dim=1).cpu()
        centroids = torch.stack([rows[labels == cluster].mean(0) for cluster in range(int(labels.max()) + 1)])
        found.append((labels, F.normalize(centroids, dim=1)))
    return found


def pseudo_labels(
    features: torch.Tensor, *, eps: float, min_samples: int = 4, k1: int = 30, k2: int = 6
) -> torch.Tensor:
    """Features ``[N, D]`` to labels ``[N]``, on the CPU."""
    return torch.from_numpy(_dbscan(jaccard_distance(features, k1=k1, k2=k2).cpu().numpy(), eps, min_samples))


def labels_of_neighbours(
    features: torch.Tensor, ranks: torch.Tensor, *, k2: int, eps: float, min_samples: int = 4
) -> torch.Tensor:
    """Everything after the neighbour search: unit features ``[N, D]`` and ranks ``[N, k1]`` to labels."""
    distances = distances_of_neighbours(features.cpu().numpy(), ranks.cpu().numpy(), k2)
    return torch.from_numpy(_dbscan(distances, eps, min_samples))


def _dbscan(distances: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    from sklearn.cluster import DBSCAN

    return DBSCAN(eps=np.float32(eps), min_samples=min_samples, metric="precomputed").fit_predict(distances)
