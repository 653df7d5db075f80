"""DBSCAN on given distances."""

import numpy as np
import torch

from salcr import reference
from salcr.ops._checks import check_integer, check_positive, check_values, values_are_known
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._register import register
from salcr.ops.backends.cpp import dbscan as _cpp
from salcr.ops.backends.triton import dbscan as _triton


def dbscan(distances: torch.Tensor, *, eps: float, min_samples: int = 4, impl: str = "auto") -> torch.Tensor:
    """Cluster labels by density.

    Equivalent eager expression::

        sklearn.cluster.DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distances)

    The labels are the same number for number: clusters are numbered by their smallest core index, a border point takes
    the smallest cluster number among its core neighbours, noise is -1. A core point has at least ``min_samples`` points
    within ``eps``, itself counted. Distances and ``eps`` are compared in float32.

    Args:
        distances: ``[N, N]`` of a floating dtype, symmetric (this is not checked): dense, or torch.sparse_csr as
            :func:`jaccard_graph` gives it. Entries that a sparse matrix does not store are far, except those on the
            diagonal: as in scikit-learn, a point without a diagonal entry is its own neighbour, and one with an entry
            above ``eps`` is not. Sparse distances are never made dense.
        eps: largest distance of neighbours, positive and finite.
        min_samples: points within ``eps`` that make a core point, at least 1.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[N]``, int64, on the device of ``distances``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, layout, ``eps`` or ``min_samples``; NaN among the distances; a
            sparse matrix whose pointers or columns are out of range.

    Example:
        >>> positions = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 50.0])
        >>> distances = (positions[:, None] - positions).abs()
        >>> ops.dbscan(distances, eps=1.5, min_samples=2).tolist()
        [0, 0, 0, 1, 1, -1]

    Source: docs/method.md, "DBSCAN"; A Density-Based Algorithm for Discovering Clusters (Ester et al., 1996).
    """
    if not isinstance(distances, torch.Tensor):
        raise TypeError(f"distances must be a torch.Tensor, got {type(distances).__name__}")
    if distances.layout not in (torch.strided, torch.sparse_csr):
        raise TypeError(f"distances must be dense or torch.sparse_csr, got {distances.layout}")
    if not distances.is_floating_point():
        raise TypeError(f"distances must be floating point, got {distances.dtype}")
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or distances.shape[0] == 0:
        raise ValueError(f"distances must be [N, N] with N > 0, got shape {tuple(distances.shape)}")
    check_positive("eps", eps)
    check_integer("min_samples", min_samples)
    impl = check_impl(impl)
    check_values("distances", distances)
    distances = distances.detach()
    if distances.layout == torch.strided:
        return torch.ops.salcr.dbscan(distances, float(eps), min_samples, impl)
    return _dbscan(distances, eps, min_samples, impl)


def _dbscan(distances, eps, min_samples, impl):
    if not values_are_known():
        _check_distances(distances)
    eps = float(np.float32(min(eps, float(np.finfo(np.float32).max))))
    return pick("dbscan", impl, distances)(distances, eps=eps, min_samples=int(min_samples))


def _fake_dbscan(distances, eps, min_samples, impl):
    return distances.new_empty(len(distances), dtype=torch.int64)


def _check_distances(distances: torch.Tensor) -> None:
    """No NaN, and of a CSR matrix pointers and columns, which torch does not look at unless it is asked to.

    Synchronises with the device once.
    """
    if distances.layout == torch.strided:
        has_nan = distances.isnan().any()
    else:
        pointers, columns, count = distances.crow_indices(), distances.col_indices(), len(distances)
        ascend = (pointers[0] == 0) & (pointers[-1] == len(columns)) & (pointers.diff() >= 0).all()
        inside = ((columns >= 0) & (columns < count)).all()
        ascend, inside, has_nan = torch.stack([ascend, inside, distances.values().isnan().any()]).tolist()
        if not ascend:
            raise ValueError("distances has row pointers that do not ascend from 0 to the number of its entries")
        if not inside:
            raise ValueError(
                f"distances has columns outside [0, {count}): {int(columns.min())} to {int(columns.max())}"
            )
    if has_nan:
        raise ValueError("distances contains NaN")


add_backend("dbscan", "cpp", _cpp.dbscan)
add_backend("dbscan", "triton", _triton.dbscan)
add_backend("dbscan", "reference", reference.dbscan)
register("dbscan", "(Tensor distances, float eps, SymInt min_samples, str impl) -> Tensor", _dbscan, _fake_dbscan)
