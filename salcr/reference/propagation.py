"""Cross-modality feature propagation (docs/method.md, "Feature propagation"), in plain PyTorch."""

import torch
import torch.nn.functional as F

from salcr.defaults import NEIGHBORS


def propagate_features(
    visible: torch.Tensor, infrared: torch.Tensor, *, k: int = NEIGHBORS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over the neighbours in both modalities, normalised; see :func:`salcr.ops.propagate_features`."""
    visible, infrared = F.normalize(visible, dim=-1), F.normalize(infrared, dim=-1)
    return _propagate(visible, infrared, k), _propagate(infrared, visible, k)


def _propagate(own: torch.Tensor, other: torch.Tensor, k: int) -> torch.Tensor:
    total = neighbour_weights(own @ own.T, k) @ own + neighbour_weights(own @ other.T, k) @ other
    return F.normalize(torch.where(total.any(1, keepdim=True), total, own), dim=-1)


def neighbour_weights(similarity: torch.Tensor, k: int) -> torch.Tensor:
    """Rows of a graph: the ``k`` largest and all that equal the k-th, clamped at 0, divided by their sum."""
    kth = similarity.topk(min(k, similarity.shape[1])).values[:, -1:]
    weights = torch.where(similarity >= kth, similarity, 0).clamp_min(0)
    total = weights.sum(1, keepdim=True)
    return weights / torch.where(total > 0, total, 1)
