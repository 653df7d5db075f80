"""Centroids on the GPU, in Triton."""

import torch


def cluster_centroids(features: torch.Tensor, labels: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """See :func:`salcr.ops.cluster_centroids`."""
    from salcr.kernels import centroids

    return centroids.cluster_centroids(features.contiguous(), labels, num_clusters)
