"""Pseudo labels of an epoch, of each modality alone, and how they compare with hidden identities."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from salcr import ops
from salcr.data.records import NO_IDENTITY
from salcr.engine.config import Clustering
from salcr.ops._checks import known_values

logger = logging.getLogger("salcr")


class ClusteringError(ValueError):
    """A modality has fewer than two clusters and there are no earlier labels to keep."""


def pseudo_labels(
    features: Mapping[str, torch.Tensor], settings: Clustering, previous: Sequence[torch.Tensor] | None
) -> tuple[torch.Tensor, ...]:
    """DBSCAN labels of the features ``[N, D]`` of each modality, int64 ``[N]`` on the CPU, -1 for noise.

    With fewer than two clusters the ``previous`` epoch's labels are kept. That features are finite is not looked at.

    Raises:
        ClusteringError: fewer than two clusters and no previous labels; names eps and the distances' quantiles.
    """
    options = dict(eps=settings.eps, min_samples=settings.min_samples, k1=settings.k1, k2=settings.k2)
    with known_values():
        found = on_host([ops.cluster(f, **options) for f in features.values()])
    earlier = [None] * len(found) if previous is None else previous
    sides = zip(features, found, earlier, strict=True)
    return tuple(y if y.max() >= 1 else _kept(side, features[side], y, settings, before) for side, y, before in sides)


def on_host(vectors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The ``vectors`` of a device on the CPU, for which one copy is waited for."""
    return torch.cat(list(vectors)).cpu().split([len(x) for x in vectors])


def label_metrics(labels: torch.Tensor, identities: np.ndarray) -> dict[str, Any]:
    """Clusters, share of noise, and ARI and NMI of the clustered images against their hidden identities.

    Images of unknown identity are in neither of the last two, which are left out where no identity is known.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    labels = labels.numpy()
    found = {"clusters": int(labels.max()) + 1, "noise": round(float((labels < 0).mean()), 4)}
    kept = (labels >= 0) & (identities != NO_IDENTITY)
    if kept.any():
        found["ari"] = round(float(adjusted_rand_score(identities[kept], labels[kept])), 4)
        found["nmi"] = round(float(normalized_mutual_info_score(identities[kept], labels[kept])), 4)
    return found


def commonest_identities(labels: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """The most frequent known identity of each cluster, ``[K]``, the smallest of equals.

    It is ``NO_IDENTITY`` for a cluster without an image of known identity.
    """
    commonest = np.full(labels.max() + 1, NO_IDENTITY, dtype=np.int64)
    known = identities != NO_IDENTITY
    for cluster in np.unique(labels[known & (labels >= 0)]):
        values, counts = np.unique(identities[known & (labels == cluster)], return_counts=True)
        commonest[cluster] = values[counts.argmax()]
    return commonest


def _kept(
    modality: str, features: torch.Tensor, labels: torch.Tensor, settings: Clustering, previous: torch.Tensor | None
) -> torch.Tensor:
    """The ``previous`` labels, in place of ``labels`` that have fewer than two clusters."""
    found = int(labels.max()) + 1
    if previous is not None:
        logger.warning("%s clusters at eps %g: %d, keeping the previous epoch's labels", modality, settings.eps, found)
        return previous
    near = ops.jaccard_graph(features, k1=settings.k1, k2=settings.k2, max_distance=0.999).values()
    near = near[near > 0] if (near > 0).any() else near
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = np.quantile(near.cpu().numpy(), levels)
    change = (
        "smaller clustering.eps or clustering.k1"
        if found
        else "larger clustering.eps or smaller clustering.min_samples"
    )
    raise ClusteringError(
        f"clusters of at least {settings.min_samples} {modality} images at eps {settings.eps}: {found}, and "
        f"training needs two; Jaccard distances below 1 between {len(features)} images have quantiles "
        + ", ".join(f"{level:.0%}: {q:.3f}" for level, q in zip(levels, quantiles, strict=True))
        + f"; a {change} makes more"
    )
