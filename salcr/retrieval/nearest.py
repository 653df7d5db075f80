"""The features of an index that are nearest to given ones: exactly, or refined."""

import warnings
from collections.abc import Callable

import numpy as np
import torch

from salcr import ops
from salcr.ops.knn import knn_by_codes, reads_in_place
from salcr.retrieval.codes import read_codes, warn_of_damage
from salcr.retrieval.storage import Storage

BLOCK_BYTES = 1 << 24
"""Features in float32 that are in memory at a time in an exact search that copies them."""
CANDIDATES = 200
"""Images that a k-reciprocal re-ranking looks at, at least."""
FEW = 100
"""Codes are read where at most one in so many features is asked for: with more to find they rule out too few."""

Found = tuple[torch.Tensor, torch.Tensor]


def nearest(storage: Storage, queries: torch.Tensor, top: int) -> Found:
    """Cosines ``[Q, top]``, largest first, and rows ``[Q, top]`` of the index's features nearest to ``queries [Q, D]``.

    Equal cosines come in the order of their rows, as in :func:`salcr.ops.knn`. Whatever the index holds, a small part
    of its features is in memory: on the CPU those in float16, or their codes where it has some, are read once from the
    file, in one search, and others are copied and searched block by block.
    """
    features = mapped(storage.shared_features())
    if reads_in_place(queries, features):
        return _by_codes(storage, queries, top, features) or ops.knn(queries, top, database=features)
    block = max(1, BLOCK_BYTES // (4 * storage.manifest.dimension))
    values = queries.new_empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, storage.manifest.rows, block):
        features = read_features(storage, start, min(start + block, storage.manifest.rows), queries.device)
        found, at = ops.knn(queries, min(top, len(features)), database=features)
        values, order = torch.cat([values, found], 1).sort(dim=1, descending=True, stable=True)
        indices = torch.cat([indices, at + start], 1).gather(1, order)
        values, indices = values[:, :top], indices[:, :top]
    return values, indices


def propagated(storage: Storage, queries: torch.Tensor, infrared: torch.Tensor, top: int) -> Found:
    """CMFP over the whole index and all queries together, then the nearest of the propagated features.

    Args:
        infrared: ``[Q]``, bool: the modality of each query.
    """
    rows = storage.manifest.rows
    everything = torch.cat([read_features(storage, 0, rows, queries.device), queries])
    side = torch.cat([torch.from_numpy(storage.infrared()).to(infrared.device), infrared]).to(queries.device)
    if side.all() or not side.any():
        raise ValueError(
            f"cmfp propagates features between visible and infrared images, and the index and the queries hold "
            f"{'infrared' if side.any() else 'visible'} ones alone: choose another refinement"
        )
    everything[~side], everything[side] = ops.propagate_features(everything[~side], everything[side])
    return ops.knn(everything[rows:], top, database=everything[:rows])


def reranked(storage: Storage, queries: torch.Tensor, infrared: torch.Tensor, top: int) -> Found:
    """k-reciprocal re-ranking of the candidates nearest to each query, one query at a time.

    Scores are one less the re-ranked distance. Candidates are :data:`CANDIDATES`, or ``5 * top`` where that is more.
    """
    _, candidates = nearest(storage, queries, min(max(CANDIDATES, 5 * top), storage.manifest.rows))
    features = storage.features(0, storage.manifest.rows)
    scores, rows = [], []
    for query, near in zip(queries, candidates, strict=True):
        near = near.sort().values  # equal distances come in the order of their rows
        gallery = torch.from_numpy(features[near.numpy(force=True)]).to(queries.device, torch.float32)
        distances, order = ops.rerank_k_reciprocal(query[None], gallery)[0].sort(stable=True)
        scores.append(1 - distances[:top])
        rows.append(near[order[:top]])
    return torch.stack(scores), torch.stack(rows)


REFINEMENTS: dict[str, Callable[[Storage, torch.Tensor, torch.Tensor, int], Found]] = {
    "cmfp": propagated,
    "k_reciprocal": reranked,
}


def mapped(array: np.ndarray) -> torch.Tensor:
    """A tensor of an array that is mapped read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nobody writes to it
        return torch.from_numpy(array)


def read_features(storage: Storage, start: int, end: int, device: torch.device) -> torch.Tensor:
    """Rows ``start`` to ``end`` of the features in float32, on ``device``."""
    return torch.from_numpy(storage.features(start, end)).to(device, torch.float32)


def _by_codes(storage: Storage, queries: torch.Tensor, top: int, features: torch.Tensor) -> Found | None:
    """What a search in all features finds; None where they have no codes, or wrong ones, or codes do not pay."""
    codes = read_codes(storage) if FEW * top <= len(features) else None
    if codes is None:
        return None
    found = knn_by_codes(queries, top, features, mapped(codes))
    if found is None:
        warn_of_damage(storage, "features that it picks are not those it is of")
    return found
