"""From features to pseudo labels."""

import torch

from salcr.defaults import NEIGHBORS
from salcr.ops._checks import check_integer, check_positive
from salcr.ops._dispatch import check_impl, share_backends
from salcr.ops.dbscan import dbscan
from salcr.ops.jaccard import Neighbors, jaccard_graph


def cluster(
    features: torch.Tensor,
    *,
    eps: float,
    min_samples: int = 4,
    k1: int = NEIGHBORS,
    k2: int = 6,
    neighbors: Neighbors | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """Pseudo labels of features: DBSCAN on the Jaccard distances of their k-reciprocal encodings.

    Equivalent eager expression::

        dbscan(jaccard_graph(features, k1=k1, k2=k2, max_distance=eps), eps=eps, min_samples=min_samples)

    Nothing N×N is held, and nothing leaves the device. Below ``eps`` 1 the memory beside the features is of order N.

    Args:
        features: ``[N, D]``, float; normalised here.
        eps: largest distance of neighbours, positive; 0.6 for SYSU-MM01 and LLCM, 0.3 for RegDB.
        min_samples: points within ``eps`` that make a core point, itself counted.
        k1, k2, neighbors: as in :func:`jaccard_distance`.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[N]``, int64, on the device of ``features``: labels from 0 on, numbered as scikit-learn does; noise is -1.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or option; NaN or Inf in a row (the message names the first).

    Example:
        >>> angles = torch.tensor([0.00, 0.01, 0.02, 0.03, 1.00, 1.01, 1.02, 1.03])  # two people, four images of each
        >>> features = torch.stack([angles.cos(), angles.sin()], dim=1)
        >>> ops.cluster(features, eps=0.6, k1=4, k2=2).tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]

    Source: docs/method.md, "Pseudo labels".
    """
    check_positive("eps", eps)
    check_integer("min_samples", min_samples)
    check_impl(impl)
    graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=eps, neighbors=neighbors, impl=impl)
    of_graph = "reference" if impl == "eager" else impl  # it has one form in plain Python
    return dbscan(graph, eps=eps, min_samples=min_samples, impl=of_graph)


share_backends("cluster", "jaccard_graph")
