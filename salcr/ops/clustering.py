"""From features to pseudo labels (SPEC 2, steps 1 to 7)."""

from collections.abc import Callable

import torch

from salcr import reference
from salcr.ops._checks import check_positive
from salcr.ops._dispatch import add_backend, pick
from salcr.ops.backends.cpp import dbscan as _dbscan_cpp
from salcr.ops.backends.cpp import jaccard as _jaccard_cpp
from salcr.ops.backends.triton import dbscan as _dbscan_triton
from salcr.ops.backends.triton import jaccard as _jaccard_triton
from salcr.ops.jaccard import PRECISIONS, check_encoding


def cluster(
    features: torch.Tensor, *, eps: float, min_samples: int = 4, k1: int = 30, k2: int = 6, impl: str = "auto"
) -> torch.Tensor:
    """Pseudo labels of features: DBSCAN on the Jaccard distances of their k-reciprocal encodings.

    Equivalent eager expression::

        dbscan(jaccard_graph(features, k1=k1, k2=k2, max_distance=eps), eps=eps, min_samples=min_samples)

    Nothing N×N is held, and nothing leaves the device. Below ``eps`` 1 the memory beside the features is of order N.

    Args:
        features: ``[N, D]``, float; normalised here.
        eps: largest distance of neighbours, positive; 0.6 for SYSU-MM01 and LLCM, 0.3 for RegDB.
        min_samples: points within ``eps`` that make a core point, itself counted.
        k1, k2: as in :func:`jaccard_distance`.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[N]``, int64, on the device of ``features``: labels from 0 on, numbered as scikit-learn does; noise is -1.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or option; NaN or Inf in a row (the message names the first).

    Source: SPEC 2.
    """
    check_positive("eps", eps)
    if min_samples < 1:
        raise ValueError(f"min_samples must be at least 1, got {min_samples}")
    check_encoding(features, k1, k2, impl)
    return pick("cluster", impl, features)(features.detach(), eps=eps, min_samples=min_samples, k1=k1, k2=k2)


def _composed(graph: Callable, labels: Callable) -> Callable:
    def cluster(features, *, eps, min_samples, k1, k2):
        return labels(graph(features, k1=k1, k2=k2, max_distance=eps), eps=eps, min_samples=min_samples)

    return cluster


add_backend("cluster", "cpu", _composed(_jaccard_cpp.jaccard_graph, _dbscan_cpp.dbscan))
add_backend(
    "cluster", "triton", _composed(_jaccard_triton.jaccard_graph, _dbscan_triton.labels_of_graph), dtypes=PRECISIONS
)
add_backend("cluster", "reference", reference.cluster)
