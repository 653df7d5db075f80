"""Batch norm, a shortcut and ReLU, in plain PyTorch."""

import torch


def batch_norm_relu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    shortcut: torch.Tensor | None = None,
    *,
    mean: torch.Tensor | None = None,
    var: torch.Tensor | None = None,
    shortcut_weight: torch.Tensor | None = None,
    shortcut_bias: torch.Tensor | None = None,
    shortcut_mean: torch.Tensor | None = None,
    shortcut_var: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, ...]:
    """``relu(batch_norm(x) + shortcut)`` and the statistics used; see :func:`salcr.ops.batch_norm_relu`."""
    y, *statistics = normalise(x, weight, bias, mean, var, eps)
    if shortcut is not None and shortcut_weight is not None and shortcut_bias is not None:
        shortcut, *others = normalise(shortcut, shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var, eps)
        statistics += others
    y = y if shortcut is None else y + shortcut
    return y.relu().to(x.dtype), *(found.detach() for found in statistics)


def normalise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batch norm alone, in float32 at least, and the statistics used."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if mean is None or var is None:
        var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
    columns = (-1, 1, 1)
    scale = weight.to(wide.dtype) * (var + eps).rsqrt()
    return (wide - mean.view(columns)) * scale.view(columns) + bias.to(wide.dtype).view(columns), mean, var
