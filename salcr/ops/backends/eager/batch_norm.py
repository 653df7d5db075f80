"""Batch norm with ReLU by PyTorch's own kernels, on any device.

On CPUs these are right only where all maps are dense and lie in the same order, so they get no others.
"""

import torch

from salcr.ops._checks import wide_dtype


def batch_norm_relu(
    maps: list[torch.Tensor],
    parameters: list[torch.Tensor],
    shortcut: torch.Tensor | None,
    statistics: list[torch.Tensor],
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """``(y, mean, var, ...)``; see ``salcr::batch_norm_relu``."""
    results: list[torch.Tensor] = []
    used: list[torch.Tensor] = []
    for n, x in enumerate(_dense(maps)[0]):
        weight, bias = (p.to(wide_dtype(x)).contiguous() for p in parameters[2 * n : 2 * n + 2])
        if statistics:
            mean, var = (s.contiguous() for s in statistics[2 * n : 2 * n + 2])
            y = torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]
        else:  # running averages with momentum 1 are the statistics of the batch
            mean, unbiased, rows = torch.zeros_like(weight), torch.zeros_like(weight), x.numel() // x.shape[1]
            y = torch.native_batch_norm(x, weight, bias, mean, unbiased, True, 1.0, eps)[0]
            var = unbiased * ((rows - 1) / rows)
        results.append(y)
        used += mean, var
    y, *others = results
    for other in others if shortcut is None else [shortcut]:
        y.add_(other)
    return y.relu_(), *used


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
    maps, layout = _dense(maps)
    left = torch.ops.aten.threshold_backward(sum(gradients[1:], gradients[0]), y, 0).contiguous(memory_format=layout)
    of_maps: list[torch.Tensor] = []
    of_parameters: list[torch.Tensor] = []
    for n, x in enumerate(maps):
        norm = slice(2 * n, 2 * n + 2)
        mean, var = (s.contiguous() for s in statistics[norm])
        weight = parameters[norm][0].to(mean.dtype).contiguous()
        used = mean, var, mean, (var + eps).rsqrt()
        of_x, *others = torch.ops.aten.native_batch_norm_backward(left, x, weight, *used, not given, eps, [True] * 3)
        of_maps.append(of_x)
        of_parameters += (g.to(p.dtype) for g, p in zip(others, parameters[norm], strict=True))
    return [*of_maps, *of_parameters, *([left] if shortcut else [])]


def _dense(maps: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.memory_format]:
    """The maps in the memory format of the first, and that."""
    in_rows = maps[0].is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if in_rows else torch.contiguous_format
    return [x.contiguous(memory_format=layout) for x in maps], layout
