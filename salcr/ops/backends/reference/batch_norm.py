"""Batch norm with ReLU by the formula under autograd, which is run again for the gradient."""

import torch

from salcr import reference
from salcr.ops._register import reference_gradient
from salcr.reference.batch_norm import normalise


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
    mean: torch.Tensor,
    var: torch.Tensor,
    y: torch.Tensor,
    shortcut: bool,
    given: bool,
    eps: float,
    *,
    create_graph: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of ``x``, ``weight``, ``bias`` and, where there is one, the shortcut."""
    statistics = (mean, var) if given else (None, None)
    left = torch.where(y <= 0, 0, sum(gradients[1:], gradients[0]))

    def result(x, weight, bias):
        return (normalise(x, weight, bias, *statistics, eps)[0].to(x.dtype),)

    found = reference_gradient(result, [x, weight, bias], (left,), create_graph=create_graph)
    return *found, left if shortcut else None
