"""Centroids on the CPU, in C++."""

import torch


def cluster_centroids(features: torch.Tensor, labels: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """See :func:`salcr.ops.cluster_centroids`."""
    from salcr import _C

    centroids = features.new_empty(num_clusters, features.shape[1])
    arrays = (x.contiguous().numpy() for x in (features, labels, centroids))
    _C.cluster_centroids(*arrays, torch.get_num_threads())
    return centroids
