"""Jaccard distance in the form that published implementations use: the baseline of benchmarks, not for use.

Encodings are a dense N×N array, and every step visits the images one by one in Python: sets, encodings, and one row of
distances after the other through an inverted index. The results are those of :mod:`salcr.reference.jaccard`.
"""

from collections.abc import Callable

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
    encodings = encode(ranks, ranks.shape[1], k2, lambda i, j: 2 - 2 * features[j] @ features[i], features.dtype)
    distances = jaccard_rows(encodings, len(features))
    np.fill_diagonal(distances, 0)
    return np.maximum(distances, 0)


def encode(
    ranks: np.ndarray, k1: int, k2: int, distances: Callable[[int, np.ndarray], np.ndarray], dtype: np.dtype
) -> np.ndarray:
    """Dense encodings ``[N, N]`` from ranks and the distances of image i to images j, given as a function of both."""
    count = len(ranks)
    sets = [_reciprocal(ranks, i, k1) for i in range(count)]
    half_sets = [_reciprocal(ranks, i, int(np.around(k1 / 2))) for i in range(count)]
    encodings = np.zeros((count, count), dtype)
    for i in range(count):
        expanded = sets[i]
        for c in sets[i]:
            if 3 * len(np.intersect1d(half_sets[c], sets[i])) > 2 * len(half_sets[c]):
                expanded = np.append(expanded, half_sets[c])
        expanded = np.unique(expanded)
        weights = np.exp(-distances(i, expanded))
        encodings[i, expanded] = weights / weights.sum()

    if k2 > 1:
        averaged = np.zeros_like(encodings)
        for i in range(count):
            averaged[i] = encodings[ranks[i, :k2]].mean(0)
        encodings = averaged
    return encodings


def jaccard_rows(encodings: np.ndarray, rows: int) -> np.ndarray:
    """The first ``rows`` rows of the Jaccard distances, through an inverted index."""
    count = len(encodings)
    holders = [np.flatnonzero(encodings[:, column]) for column in range(count)]
    distances = np.zeros((rows, count), np.float32)
    for i in range(rows):
        shared = np.zeros(count, encodings.dtype)
        for column in np.flatnonzero(encodings[i]):
            members = holders[column]
            shared[members] += np.minimum(encodings[i, column], encodings[members, column])
        distances[i] = 1 - shared / (2 - shared)
    return distances


def _reciprocal(ranks: np.ndarray, i: int, k: int) -> np.ndarray:
    forward = ranks[i, : k + 1]
    backward = ranks[forward, : k + 1]
    return forward[np.nonzero(backward == i)[0]]
