"""DAGI, dual association and global learning (docs/method.md, "DAGI"): labels across modalities, the global loss."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from salcr import ops
from salcr.defaults import NEIGHBORS
from salcr.nn import ClusterMemory, MemoryContrasts, MemoryUpdate, contrast_sum, update_memories_
from salcr.objectives.association import Association, answered, association_named
from salcr.ops._precision import without_autocast


class CrossLabels(NamedTuple):
    """Labels of an epoch (or of a batch), all int64: each modality's own clusters, and the other's."""

    visible: torch.Tensor  # [N_v] in [0, K_v)
    visible_to_infrared: torch.Tensor  # [N_v] in [0, K_r)
    infrared: torch.Tensor  # [N_r] in [0, K_r)
    infrared_to_visible: torch.Tensor  # [N_r] in [0, K_v)

    def of_batch(self, visible_rows: torch.Tensor, infrared_rows: torch.Tensor) -> "CrossLabels":
        """The labels of a batch, given its rows of either modality."""
        return CrossLabels(
            self.visible[visible_rows],
            self.visible_to_infrared[visible_rows],
            self.infrared[infrared_rows],
            self.infrared_to_visible[infrared_rows],
        )

    def visible_side(self) -> torch.Tensor:
        """Visible clusters of the 3S rows [visible, augmented, infrared] of a batch."""
        return torch.cat([self.visible, self.visible, self.infrared_to_visible])

    def infrared_side(self) -> torch.Tensor:
        """Infrared clusters of the 3S rows [visible, augmented, infrared] of a batch."""
        return torch.cat([self.visible_to_infrared, self.visible_to_infrared, self.infrared])


@without_autocast
def associate(
    visible: torch.Tensor,
    visible_labels: torch.Tensor,
    infrared: torch.Tensor,
    infrared_labels: torch.Tensor,
    *,
    k: int = NEIGHBORS,
    association: str = "ot",
    sinkhorn: Mapping[str, float] | None = None,
    num_clusters: tuple[int, int] | None = None,
) -> CrossLabels:
    """Refined own labels and cross labels of an epoch's images.

    Propagates the features across modalities, takes plain centroids of the clusters, gives every image the nearest
    centroid of its own modality (inner product) and asks the named strategy for its cluster of the other.

    Args:
        visible: ``[N_v, D]`` float, features of the visible images that are in a cluster.
        visible_labels: ``[N_v]`` int64 in ``[0, K_v)``: no noise.
        infrared: ``[N_r, D]``.
        infrared_labels: ``[N_r]`` in ``[0, K_r)``.
        k: neighbours of the propagation graphs; 30 on SYSU-MM01, 8 on RegDB.
        association: name of a strategy: ``ot``, ``hungarian``, ``graph`` or one registered by
            :func:`salcr.objectives.register_association`.
        sinkhorn: options of :func:`salcr.ops.sinkhorn` for the strategy ``ot``; by default its own.
        num_clusters: ``(K_v, K_r)``; by default the largest labels plus one.

    Raises:
        ValueError: an unknown strategy, one whose labels are no clusters, or what the operators raise.

    Source: docs/method.md, "DAGI" and "Association".
    """
    association_named(association)  # known before anything is computed
    visible, infrared = ops.propagate_features(visible, infrared, k=k)
    count_v, count_r = num_clusters or (None, None)
    centroids_v = ops.cluster_centroids(visible, visible_labels, count_v)
    centroids_r = ops.cluster_centroids(infrared, infrared_labels, count_r)
    own_v, own_r = (visible @ centroids_v.mT).argmax(1), (infrared @ centroids_r.mT).argmax(1)
    state = Association(visible, infrared, own_v, own_r, centroids_v, centroids_r, sinkhorn or {})
    v_to_r, r_to_v = answered(association, state)
    return CrossLabels(own_v, v_to_r, own_r, r_to_v)


class GlobalObjective(nn.Module):
    """Contrast of all 3S global features with both modalities' cluster memories: ``L_g`` (docs/method.md, "DAGI")."""

    def __init__(self, visible: ClusterMemory, infrared: ClusterMemory) -> None:
        super().__init__()
        self.visible, self.infrared = visible, infrared

    def loss(self, f: torch.Tensor, labels: CrossLabels) -> torch.Tensor:
        """``f [3S, D]`` = [visible, augmented, infrared] and the batch's labels."""
        return contrast_sum(*self.contrasts(f, labels))

    def contrasts(self, f: torch.Tensor, labels: CrossLabels) -> MemoryContrasts:
        """What :meth:`loss` is the sum of."""
        return MemoryContrasts(f, (self.visible, self.infrared), (labels.visible_side(), labels.infrared_side()))

    def updates(self, f: torch.Tensor, labels: CrossLabels, order: torch.Tensor) -> list[MemoryUpdate]:
        """Of both memories with all samples, in ``order [3S]``."""
        _, *sides = self.contrasts(f, labels)
        return [MemoryUpdate(memory, f, targets, order) for memory, targets in zip(*sides, strict=True)]

    def update_(self, f: torch.Tensor, labels: CrossLabels, order: torch.Tensor) -> None:
        """Make :meth:`updates`."""
        update_memories_(self.updates(f, labels, order))
