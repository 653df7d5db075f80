"""Agreement of labellings by sorting, votes of pairs block by block: any device, nothing N×N."""

import torch

from salcr.reference.jaccard import unit_rows

BLOCK_PAIRS = 2**22


def label_agreement(labels: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """See :func:`salcr.ops.label_agreement`."""
    (number, size), (other_number, other_size) = _clusters(labels), _clusters(other)
    _, both = _clusters(number * len(labels) + other_number)
    both = torch.where((labels < 0) | (other < 0), 1, both)
    return both.float() / (size + other_size - both).float()


def pair_votes(
    x: torch.Tensor, x_labels: torch.Tensor, y: torch.Tensor, y_labels: torch.Tensor, threshold: float
) -> torch.Tensor:
    """See :func:`salcr.ops.pair_votes`: with ``y`` in the order of labels, a running count has the sums of clusters."""
    x, x_labels = unit_rows(x)[x_labels >= 0], x_labels[x_labels >= 0]
    y_labels, order = y_labels.sort()
    columns = unit_rows(y)[order].T.contiguous()
    votes = x_labels.new_zeros(int(x_labels.max()) + 1 if len(x_labels) else 0, int(y_labels[-1]) + 1)
    ends = torch.searchsorted(y_labels, torch.arange(-1, votes.shape[1], device=y.device), right=True)
    height = max(1, BLOCK_PAIRS // len(y_labels))
    for rows, labels in zip(x.split(height), x_labels.split(height), strict=True) if len(x) else ():
        similar = (rows @ columns >= threshold).cumsum(1, dtype=torch.int32)
        counts = torch.nn.functional.pad(similar, (1, 0))[:, ends].diff(dim=1)
        votes.index_add_(0, labels, counts.long())
    return votes


def _clusters(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each image its cluster, numbered from 0, and how many images that has; noise has one."""
    _, number, count = labels.unique(return_inverse=True, return_counts=True)
    return number, torch.where(labels < 0, 1, count[number])
