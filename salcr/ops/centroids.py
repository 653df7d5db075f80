"""Centroids of clusters."""

import torch

from salcr import reference
from salcr.ops._checks import check_integer, check_same, check_tensor, check_values, values_are_known
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import SINGLE_AND_DOUBLE
from salcr.ops._register import register
from salcr.ops.backends.cpp import centroids as _cpp
from salcr.ops.backends.triton import centroids as _triton


def cluster_centroids(
    features: torch.Tensor, labels: torch.Tensor, num_clusters: int | None = None, *, impl: str = "auto"
) -> torch.Tensor:
    """Mean feature of every cluster.

    Equivalent eager expression::

        torch.stack([features[labels == c].mean(0) for c in range(num_clusters)])

    Nothing is normalised, before or after. Sums run in a fixed order, so equal inputs give equal bits.

    Args:
        features: ``[N, D]``, float. Read without a gradient; sums are taken in float64.
        labels: ``[N]``, int64 in ``[0, num_clusters)``; rows with -1 are left out.
        num_clusters: number of clusters; by default the largest label plus one (0 where all rows are left out).
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[num_clusters, D]`` of the dtype of ``features``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or device, a label outside ``[-1, num_clusters)``, or a cluster
            without a member; the message names it.

    Example:
        >>> features, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 1])
        >>> ops.cluster_centroids(features, labels).tolist()
        [[2.0, 0.0], [0.0, 5.0]]

    Source: docs/method.md, "Centroids" and "DAGI".
    """
    check_tensor("features", features, ndim=2)
    check_tensor("labels", labels, ndim=1, floating=False)
    check_same("labels", labels, "features", features, dtype=False)
    if labels.shape[0] != features.shape[0]:
        raise ValueError(f"labels has {labels.shape[0]} entries, features {features.shape[0]} rows")
    if num_clusters is None:
        check_values("labels", labels)
    else:
        check_integer("num_clusters", num_clusters, 0)
    return torch.ops.salcr.cluster_centroids(features.detach(), labels, num_clusters, check_impl(impl))


def _centroids(features, labels, num_clusters, impl):
    if num_clusters is None:
        num_clusters = max(0, int(labels.max()) + 1)
    _check_members(labels, num_clusters)
    if num_clusters == 0:
        return features.new_empty(0, features.shape[1])
    return pick("cluster_centroids", impl, features)(features, labels, num_clusters)


def _check_members(labels: torch.Tensor, num_clusters: int) -> None:
    """Labels are in ``[-1, num_clusters)``, and every cluster has a row. Synchronises with the device once."""
    if values_are_known():
        return
    first = min(num_clusters, len(labels) + 1)  # with more clusters than labels one of these has no member
    empty = torch.ones(first + 2, dtype=torch.bool, device=labels.device)
    empty.index_fill_(0, labels.clamp(-1, first) + 1, False)  # the first place is of noise, the last of larger labels
    smallest, largest, some_empty = torch.stack([*labels.aminmax(), empty[1:-1].any().long()]).tolist()
    if smallest < -1 or largest >= num_clusters:
        raise ValueError(f"labels must be in [-1, {num_clusters}), got {smallest} to {largest}")
    if some_empty:
        left = num_clusters - len(labels[labels >= 0].unique())
        at = int(empty[1:].nonzero()[0])
        raise ValueError(f"cluster {at} has no member ({left} of {num_clusters} clusters are empty)")


def _fake_centroids(features, labels, num_clusters, impl):
    if num_clusters is None:
        num_clusters = torch.library.get_ctx().new_dynamic_size(min=0)
    return features.new_empty(num_clusters, features.shape[1])


add_backend("cluster_centroids", "cpp", _cpp.cluster_centroids, dtypes=SINGLE_AND_DOUBLE)
add_backend("cluster_centroids", "triton", _triton.cluster_centroids)
add_backend("cluster_centroids", "reference", reference.cluster_centroids)
register(
    "cluster_centroids",
    "(Tensor features, Tensor labels, SymInt? num_clusters, str impl) -> Tensor",
    _centroids,
    _fake_centroids,
)
