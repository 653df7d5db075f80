"""Agreement of labellings by sorting, on any device: no pairs of images."""

import torch


def label_agreement(labels: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """See :func:`salcr.ops.label_agreement`."""
    (number, size), (other_number, other_size) = _clusters(labels), _clusters(other)
    _, both = _clusters(number * len(labels) + other_number)
    both = torch.where((labels < 0) | (other < 0), 1, both)
    return both.float() / (size + other_size - both).float()


def _clusters(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each image its cluster, numbered from 0, and how many images that has; noise has one."""
    _, number, count = labels.unique(return_inverse=True, return_counts=True)
    return number, torch.where(labels < 0, 1, count[number])
