"""Batch norm with ReLU by the formula under autograd, which is run again for the gradient."""

import torch

from salcr import reference
from salcr.ops._register import reference_gradient


def batch_norm_relu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    shortcut: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(y, mean, var)``; see ``salcr::batch_norm_relu``."""
    return reference.batch_norm_relu(x, weight, bias, shortcut, mean=mean, var=var, eps=eps)


def batch_norm_relu_backward(
    gradients: list[torch.Tensor],
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    shortcut: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    y: torch.Tensor,
    given: bool,
    eps: float,
    *,
    create_graph: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of ``x``, ``weight``, ``bias`` and ``shortcut``."""
    statistics = dict(mean=mean, var=var) if given else {}

    def result(*inputs):
        return (reference.batch_norm_relu(*inputs, **statistics, eps=eps)[0],)

    inputs = [x, weight, bias] if shortcut is None else [x, weight, bias, shortcut]
    found = reference_gradient(result, inputs, (sum(gradients[1:], gradients[0]),), create_graph=create_graph)
    return *found, *([None] if shortcut is None else [])
