"""From features to pseudo labels, by the reference's graph and the reference's labels; how two labellings agree."""

import torch

from salcr.defaults import NEIGHBORS
from salcr.reference.dbscan import dbscan
from salcr.reference.jaccard import jaccard_graph, unit_rows


def cluster(
    features: torch.Tensor, *, eps: float, min_samples: int = 4, k1: int = NEIGHBORS, k2: int = 6
) -> torch.Tensor:
    """DBSCAN of Jaccard distances; see :func:`salcr.ops.cluster`."""
    return dbscan(jaccard_graph(features, k1=k1, k2=k2, max_distance=eps), eps=eps, min_samples=min_samples)


def label_agreement(labels: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Counts of all pairs; see :func:`salcr.ops.label_agreement`."""
    one, two = _together(labels), _together(other)
    return (one & two).sum(1).float() / (one | two).sum(1).float()


def pair_votes(
    x: torch.Tensor, x_labels: torch.Tensor, y: torch.Tensor, y_labels: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Similar pairs of all, summed by cluster; see :func:`salcr.ops.pair_votes`."""
    similar = unit_rows(x) @ unit_rows(y).T >= threshold
    rows, columns = (y == torch.arange(int(y.max()) + 1, device=y.device)[:, None] for y in (x_labels, y_labels))
    return (rows.double() @ similar.double() @ columns.double().T).long()


def _together(labels: torch.Tensor) -> torch.Tensor:
    """``[N, N]``: which images share a cluster, each with itself."""
    same = (labels[:, None] == labels) & (labels >= 0)
    return same | torch.eye(len(labels), dtype=torch.bool, device=labels.device)
