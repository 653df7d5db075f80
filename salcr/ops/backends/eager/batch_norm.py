"""Batch norm with ReLU by PyTorch's own kernels, on any device.

On CPUs these are right only where all maps are dense and lie in the same order, so they get no others.
"""

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
    x, _ = _dense(x)
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (y.to(wide).contiguous() for y in (weight, bias))
    if mean is None:  # running averages with momentum 1 are the statistics of the batch
        mean, unbiased, rows = torch.zeros_like(weight), torch.zeros_like(weight), x.numel() // x.shape[1]
        y = torch.native_batch_norm(x, weight, bias, mean, unbiased, True, 1.0, eps)[0]
        var = unbiased * ((rows - 1) / rows)
    else:
        y = torch.native_batch_norm(x, weight, bias, mean.contiguous(), var.contiguous(), False, 0.0, eps)[0]
    y = y if shortcut is None else y.add_(shortcut)
    return y.relu_(), mean, var


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
    x, layout = _dense(x)
    wide_weight, mean, var = (y.to(mean.dtype).contiguous() for y in (weight, mean, var))
    left = torch.ops.aten.threshold_backward(sum(gradients[1:], gradients[0]), y, 0).contiguous(memory_format=layout)
    statistics = mean, var, mean, (var + eps).rsqrt()
    of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
        left, x, wide_weight, *statistics, not given, eps, [True] * 3
    )
    return of_x, of_weight.to(weight.dtype), of_bias.to(bias.dtype), left if shortcut else None


def _dense(x: torch.Tensor) -> tuple[torch.Tensor, torch.memory_format]:
    in_rows = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if in_rows else torch.contiguous_format
    return x.contiguous(memory_format=layout), layout
