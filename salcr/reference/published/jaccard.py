"""Jaccard distance in the form that published implementations use: the baseline of benchmarks, not for use.

Encodings are a dense N×N array, and every step visits the images one by one in Python: sets, encodings, and one row of
distances after the other through an inverted index. The results are those of :mod:`salcr.reference.jaccard`.
"""

import numpy as np
import torch

from salcr.reference.jaccard import unit_rows
from salcr.reference.knn import knn


def jaccard_distance(features: torch.Tensor, *, k1: int = 30, k2: int = 6) -> torch.Tensor:
    """All distances, dense; arguments and result as :func:`salcr.ops.jaccard_distance`."""
    device, features = features.device, unit_rows(features)
    ranks = knn(features, min(k1, len(features)))[1]
    distances = distances_of_neighbours(features.cpu().numpy(), ranks.cpu().numpy(), k2)
    return torch.from_numpy(distances).to(device)


def distances_of_neighbours(features: np.ndarray, ranks: np.ndarray, k2: int) -> np.ndarray:
    """Everything after the neighbour search: unit features ``[N, D]`` and ranks ``[N, k1]`` to distances."""
    count, k1 = ranks.shape
    sets = [_reciprocal(ranks, i, k1) for i in range(count)]
    half_sets = [_reciprocal(ranks, i, int(np.around(k1 / 2))) for i in range(count)]
    encodings = np.zeros((count, count), features.dtype)
    for i in range(count):
        expanded = sets[i]
        for c in sets[i]:
            if 3 * len(np.intersect1d(half_sets[c], sets[i])) > 2 * len(half_sets[c]):
                expanded = np.append(expanded, half_sets[c])
        expanded = np.unique(expanded)
        weights = np.exp(-(2 - 2 * features[expanded] @ features[i]))
        encodings[i, expanded] = weights / weights.sum()

    if k2 > 1:
        averaged = np.zeros_like(encodings)
        for i in range(count):
            averaged[i] = encodings[ranks[i, :k2]].mean(0)
        encodings = averaged

    holders = [np.flatnonzero(encodings[:, column]) for column in range(count)]
    distances = np.zeros((count, count), np.float32)
    for i in range(count):
        shared = np.zeros(count, encodings.dtype)
        for column in np.flatnonzero(encodings[i]):
            rows = holders[column]
            shared[rows] += np.minimum(encodings[i, column], encodings[rows, column])
        distances[i] = 1 - shared / (2 - shared)
    np.fill_diagonal(distances, 0)
    return np.maximum(distances, 0)


def _reciprocal(ranks: np.ndarray, i: int, k: int) -> np.ndarray:
    forward = ranks[i, : k + 1]
    backward = ranks[forward, : k + 1]
    return forward[np.nonzero(backward == i)[0]]
