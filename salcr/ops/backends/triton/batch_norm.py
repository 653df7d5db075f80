"""Batch norm with ReLU on the GPU, in Triton."""

import torch


def batch_norm_relu(
    maps: list[torch.Tensor],
    parameters: list[torch.Tensor],
    shortcut: torch.Tensor | None,
    statistics: list[torch.Tensor],
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """``(y, mean, var, ...)``; see ``salcr::batch_norm_relu``."""
    from salcr.kernels.batch_norm import batch_norm_relu

    return batch_norm_relu(maps, parameters, shortcut, statistics, eps)


def batch_norm_relu_backward(
    gradients: list[torch.Tensor],
    maps: list[torch.Tensor],
    parameters: list[torch.Tensor],
    statistics: list[torch.Tensor],
    y: torch.Tensor,
    shortcut: bool,
    given: bool,
    eps: float,
) -> list[torch.Tensor]:
    """Gradients of ``maps`` and ``parameters`` and, where there is one without a norm, the shortcut."""
    from salcr.kernels.batch_norm import batch_norm_relu_backward

    first, again = gradients if len(gradients) > 1 else (gradients[0], None)
    return batch_norm_relu_backward(first, again, maps, parameters, statistics, y, eps, given=given, shortcut=shortcut)
