"""Centroids of clusters (docs/method.md, "Centroids"), in plain PyTorch."""

import torch


def cluster_centroids(features: torch.Tensor, labels: torch.Tensor, num_clusters: int | None = None) -> torch.Tensor:
    """Mean of the rows of each label, over rows sorted by label; see :func:`salcr.ops.cluster_centroids`."""
    if num_clusters is None:
        num_clusters = int(labels.max()) + 1
    labels, order = labels.sort(stable=True)
    bounds = torch.searchsorted(labels, torch.arange(num_clusters + 1, device=labels.device))
    members = features[order[int(bounds[0]) : int(bounds[-1])]].double()
    return torch.segment_reduce(members, "mean", lengths=bounds.diff(), axis=0).to(features.dtype)
