"""From features to pseudo labels: the reference's graph and the reference's labels."""

import torch

from salcr.defaults import NEIGHBORS
from salcr.reference.dbscan import dbscan
from salcr.reference.jaccard import jaccard_graph


def cluster(
    features: torch.Tensor, *, eps: float, min_samples: int = 4, k1: int = NEIGHBORS, k2: int = 6
) -> torch.Tensor:
    """DBSCAN of Jaccard distances; see :func:`salcr.ops.cluster`."""
    return dbscan(jaccard_graph(features, k1=k1, k2=k2, max_distance=eps), eps=eps, min_samples=min_samples)
