"""Pseudo labels as SpCL and what came after it compute them: Jaccard distances, then DBSCAN."""

from typing import Any

import numpy as np
import torch

from salcr import ops
from salcr.compat._arrays import Array, as_tensor
from salcr.ops._sparse import csr_tensor

UNIT = 1e-3  # what the length of a row may differ from 1 by; in bfloat16, that dtype's epsilon


def compute_jaccard_distance(
    target_features: Array,
    k1: int = 20,
    k2: int = 6,
    print_flag: bool = True,
    search_option: int = 0,
    use_float16: bool = False,
    *,
    max_distance: float | None = None,
    fp16: bool = False,
    verbose: bool = True,
) -> Any:
    """Jaccard distances of k-reciprocal encodings; see :func:`salcr.ops.jaccard_distance`.

    Args:
        target_features: ``[N, D]``, float, unit rows; on a GPU the distances are computed there.
        k1, k2: neighbours of the sets, and those over which encodings are averaged.
        print_flag, search_option, use_float16, fp16, verbose: accepted, and without effect: nothing is printed, the
            search is exact on every device, and distances are float32.
        max_distance: return only distances up to this, sparse: all that DBSCAN with that ``eps`` needs, without an
            N×N array.

    Returns:
        ``[N, N]``, a float32 array, 40 GB for 100,000 images; with ``max_distance`` a ``scipy.sparse.csr_array`` that
        stores zeros, too.

    Raises:
        TypeError, ValueError: as :func:`salcr.ops.jaccard_distance`; a row that is not of unit length (published code
            takes rows as they are, salcr would normalise them).
    """
    features = as_tensor("target_features", target_features)
    _check_unit(features)
    if max_distance is None:
        return ops.jaccard_distance(features, k1=k1, k2=k2).cpu().numpy()
    from scipy import sparse

    graph = ops.jaccard_graph(features, k1=k1, k2=k2, max_distance=max_distance).cpu()
    parts = graph.values().numpy(), graph.col_indices().numpy(), graph.crow_indices().numpy()
    return sparse.csr_array(parts, shape=tuple(graph.shape))


class DBSCAN:
    """scikit-learn's ``DBSCAN(metric="precomputed")``, label for label; see :func:`salcr.ops.dbscan`.

    Args:
        eps: largest distance of neighbours, compared in float32.
        min_samples: points within ``eps`` that make a core point, itself counted.
        metric: ``"precomputed"`` alone.
        n_jobs: accepted, and without effect: threads are torch's.

    Attributes:
        labels_: ``[N]``, int64 array, of the last fit.
    """

    labels_: np.ndarray

    def __init__(
        self, eps: float = 0.5, min_samples: int = 5, metric: str = "precomputed", n_jobs: int | None = None
    ) -> None:
        if metric != "precomputed":
            raise ValueError(f"metric must be 'precomputed', got {metric!r}: give distances, not features")
        self.eps, self.min_samples, self.metric, self.n_jobs = eps, min_samples, metric, n_jobs

    def fit(self, distances: Any) -> "DBSCAN":
        """Cluster ``distances [N, N]``: an array, a SciPy sparse matrix, or a tensor, dense or CSR."""
        tensor = _csr(distances) if hasattr(distances, "tocsr") else as_tensor("distances", distances)
        self.labels_ = ops.dbscan(tensor, eps=self.eps, min_samples=self.min_samples).cpu().numpy()
        return self

    def fit_predict(self, distances: Any) -> np.ndarray:
        """The labels of :meth:`fit`: ``[N]``, int64, -1 for noise."""
        return self.fit(distances).labels_


def _csr(distances: Any) -> torch.Tensor:
    """A SciPy sparse matrix as torch.sparse_csr, entries that it has twice added up as SciPy does."""
    matrix = distances.tocsr()
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    parts = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data
    return csr_tensor(*map(torch.from_numpy, parts), width=matrix.shape[1])


def _check_unit(features: torch.Tensor) -> None:
    if features.ndim != 2 or not features.is_floating_point():
        return  # the operator says so
    unit = max(UNIT, torch.finfo(features.dtype).eps)
    off = ((features.float().norm(dim=1) - 1).abs() > unit).nonzero()
    if len(off):
        row = int(off[0])
        raise ValueError(
            f"target_features must be unit rows, row {row} has length {float(features[row].float().norm()):.4g}: "
            "normalise them, as salcr would"
        )
