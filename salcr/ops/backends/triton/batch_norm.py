"""Batch norm with ReLU on the GPU, in Triton."""

import torch


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
    from salcr.kernels.batch_norm import batch_norm_relu

    return batch_norm_relu(x, weight, bias, shortcut, mean, var, eps)


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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of ``x``, ``weight``, ``bias`` and, where there is one, the shortcut."""
    from salcr.kernels.batch_norm import batch_norm_relu_backward

    first, again = gradients if len(gradients) > 1 else (gradients[0], None)
    return batch_norm_relu_backward(first, again, x, y, weight, bias, mean, var, eps, given=given, shortcut=shortcut)
