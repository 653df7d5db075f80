"""Jaccard distance of k-reciprocal encodings, sparse inside, in PyTorch and SciPy."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from salcr.defaults import NEIGHBORS
from salcr.reference.knn import knn

BLOCK_PAIRS = 2048  # whose features are gathered at a time
TINY_DISTANCE = 1e-6  # rounding of float32: rows that are no farther apart have nothing to rank

Neighbors = tuple[torch.Tensor, torch.Tensor]


def jaccard_distance(
    features: torch.Tensor,
    *,
    k1: int = NEIGHBORS,
    k2: int = 6,
    scale: str = "none",
    include_self: bool = True,
    neighbors: Neighbors | None = None,
) -> torch.Tensor:
    """All distances, dense; see :func:`salcr.ops.jaccard_distance`."""
    distances = np.empty((len(features), len(features)), np.float32)
    for start, block in _rows(features, k1, k2, scale, include_self, neighbors):
        distances[start : start + len(block)] = block
    return torch.from_numpy(distances).to(features.device)


def jaccard_graph(
    features: torch.Tensor,
    *,
    k1: int = NEIGHBORS,
    k2: int = 6,
    max_distance: float,
    scale: str = "none",
    include_self: bool = True,
    neighbors: Neighbors | None = None,
) -> torch.Tensor:
    """The distances up to ``max_distance``, row by row; see :func:`salcr.ops.jaccard_graph`."""
    lengths, columns, values = [np.zeros(1, np.int64)], [], []
    for _, block in _rows(features, k1, k2, scale, include_self, neighbors):
        near = block <= np.float32(max_distance)
        lengths.append(near.sum(1))
        columns.append(near.nonzero()[1])
        values.append(block[near])
    arrays = np.cumsum(np.concatenate(lengths)), np.concatenate(columns), np.concatenate(values)
    parts = (torch.from_numpy(array).to(features.device) for array in arrays)
    with warnings.catch_warnings():
        # torch < 2.13 says that invariants are not checked even where check_invariants=False says so
        beta, unchecked = "CSR tensor support is in beta", "invariant checks are implicitly disabled"
        warnings.filterwarnings("ignore", f"Sparse ({beta}|{unchecked})", UserWarning)
        size = len(features), len(features)
        return torch.sparse_csr_tensor(*parts, size=size, device=features.device, check_invariants=False)


def farthest(features: torch.Tensor, search: Callable = knn) -> torch.Tensor:
    """The largest squared distance of each row, normalised, from another; infinite where rounding alone makes it."""
    found = 2 + 2 * search(features, 1, database=-features, metric="cosine")[0].squeeze(1)
    return torch.where(found > TINY_DISTANCE, found, torch.inf)


def _rows(features: torch.Tensor, k1: int, k2: int, scale: str, include_self: bool, neighbors: Neighbors | None):
    """Blocks of rows of the distances, with 0 on the diagonal, each with its first row."""
    from salcr.reference._reciprocal import encode, half, jaccard_rows

    far = None if scale == "none" else farthest(features).cpu().numpy()
    features = unit_rows(features)
    others = 0 if include_self else 1
    k1 = min(k1, len(features) - others)
    full = k1 + others
    ranks = (knn(features, full) if neighbors is None else neighbors)[1][:, :full].cpu().numpy()

    def distances(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        found = pair_distances(features, features, i, j)
        return found if far is None else found / far[i]

    encodings = encode(ranks, full, min(half(k1) + 1, full), distances, k2)
    for start, block in jaccard_rows(encodings, encodings):
        block = block.astype(np.float32)
        block[np.arange(len(block)), start + np.arange(len(block))] = 0
        yield start, block


def unit_rows(features: torch.Tensor) -> torch.Tensor:
    """Normalised rows: float64 stays float64, all else becomes float32."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def pair_distances(left: torch.Tensor, right: torch.Tensor, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """``2 - 2 left[i]·right[j]`` of unit rows, for the pairs (i, j)."""
    i, j = (torch.as_tensor(x, dtype=torch.int64, device=left.device).split(BLOCK_PAIRS) for x in (i, j))
    products = [(left[a] * right[b]).sum(1) for a, b in zip(i, j, strict=True)]
    return (2 - 2 * torch.cat(products)).cpu().numpy()
