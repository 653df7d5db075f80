"""Losses and updates of memories in the form that published implementations use: a baseline, not for use.

The memory moves in ``backward``, sample after sample in Python. Written from the papers: Cluster Contrast (Dai et al.,
2021), Self-paced Contrastive Learning (Ge et al., 2020).
"""

import torch
import torch.nn.functional as F


class _Look(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, targets, memory, momentum, hard):
        ctx.save_for_backward(rows, targets)
        ctx.memory, ctx.momentum, ctx.hard = memory, momentum, hard
        return rows @ memory.T

    @staticmethod
    def backward(ctx, gradient):
        (rows, targets), memory = ctx.saved_tensors, ctx.memory
        back = gradient @ memory
        for x, y in _hardest(rows, targets, memory) if ctx.hard else zip(rows, targets.tolist(), strict=True):
            memory[y] = ctx.momentum * memory[y] + (1 - ctx.momentum) * x
            memory[y] /= memory[y].norm()
        return back, None, None, None, None


def cluster_memory_loss(
    memory: torch.Tensor,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    temp: float = 0.05,
    momentum: float = 0.2,
    hard: bool = False,
) -> torch.Tensor:
    """Mean cross entropy; see :class:`salcr.compat.ClusterMemory`, whose ``features`` are ``memory``."""
    logits = _Look.apply(F.normalize(inputs, dim=1), targets, memory, momentum, hard)
    return F.cross_entropy(logits / temp, targets)


def hybrid_memory_loss(
    memory: torch.Tensor,
    labels: torch.Tensor,
    inputs: torch.Tensor,
    indices: torch.Tensor,
    *,
    temp: float = 0.05,
    momentum: float = 0.2,
) -> torch.Tensor:
    """Cross entropy of similarities with all rows, averaged by class; see :class:`salcr.nn.HybridMemory`.

    ``labels [N]`` count classes from 0 on, an image in no cluster being one of its own.
    """
    similarity = _Look.apply(F.normalize(inputs, dim=1), indices, memory, momentum, False) / temp
    sizes = labels.bincount()
    of_classes = similarity.new_zeros(len(sizes), len(inputs)).index_add_(0, labels, similarity.T) / sizes[:, None]
    return F.cross_entropy(of_classes.T, labels[indices])


def _hardest(rows: torch.Tensor, targets: torch.Tensor, memory: torch.Tensor) -> list[tuple[torch.Tensor, int]]:
    """Of each class the row of the smallest cosine, the first of equals."""
    found = []
    for y in dict.fromkeys(targets.tolist()):
        mine = rows[targets == y]
        cosines = [float(x @ memory[y]) for x in mine]
        found.append((mine[cosines.index(min(cosines))], y))
    return found
