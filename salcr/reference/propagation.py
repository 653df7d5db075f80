"""Cross-modality feature propagation (SPEC 4, CMFP), in plain PyTorch."""

import torch
import torch.nn.functional as F

BLOCK_ENTRIES = 1 << 24  # similarities held at a time


def propagate_features(
    visible: torch.Tensor, infrared: torch.Tensor, *, k: int = 30
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over the neighbours in both modalities, normalised; see :func:`salcr.ops.propagate_features`."""
    visible, infrared = F.normalize(visible, dim=-1), F.normalize(infrared, dim=-1)
    return propagate_rows(visible, visible, infrared, k), propagate_rows(infrared, infrared, visible, k)


def propagate_rows(rows: torch.Tensor, own: torch.Tensor, other: torch.Tensor, k: int) -> torch.Tensor:
    """New features of ``rows``, some of the unit features ``own`` of a modality, block by block."""
    size = max(1, BLOCK_ENTRIES // max(len(own), len(other)))
    return torch.cat([_propagate_block(block, own, other, k) for block in rows.split(size)])


def _propagate_block(block: torch.Tensor, own: torch.Tensor, other: torch.Tensor, k: int) -> torch.Tensor:
    total = _neighbour_mean(block, own, k) + _neighbour_mean(block, other, k)
    return F.normalize(torch.where(total.any(1, keepdim=True), total, block), dim=-1)


def _neighbour_mean(block: torch.Tensor, database: torch.Tensor, k: int) -> torch.Tensor:
    """Mean of each row's k nearest in ``database``, weighted by positive similarity; zeros where there is none."""
    similarity = block @ database.T
    kth = similarity.topk(min(k, len(database))).values[:, -1:]
    weight = torch.where(similarity >= kth, similarity, 0).clamp_min(0)
    total = weight.sum(1, keepdim=True)
    weight = weight / torch.where(total > 0, total, 1)
    row, column = weight.nonzero(as_tuple=True)
    start = torch.searchsorted(row, torch.arange(len(block), device=row.device))
    return F.embedding_bag(column, database, start, mode="sum", per_sample_weights=weight[row, column])
