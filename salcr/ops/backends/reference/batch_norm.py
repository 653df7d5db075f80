"""Batch norm with ReLU by the formula under autograd, which is run again for the gradient."""

import torch

from salcr import reference
from salcr.ops._register import reference_gradient
from salcr.reference.batch_norm import normalise


def batch_norm_relu(
    maps: list[torch.Tensor],
    parameters: list[torch.Tensor],
    shortcut: torch.Tensor | None,
    statistics: list[torch.Tensor],
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """``(y, mean, var, ...)``; see ``salcr::batch_norm_relu``."""
    (x, *others), (weight, bias, *norm) = maps, parameters
    shortcut = others[0] if others else shortcut
    of_shortcut = dict(zip(("shortcut_weight", "shortcut_bias"), norm, strict=False))
    given = dict(zip(("mean", "var", "shortcut_mean", "shortcut_var"), statistics, strict=False))
    return reference.batch_norm_relu(x, weight, bias, shortcut, **of_shortcut, **given, eps=eps)


def batch_norm_relu_backward(
    gradients: list[torch.Tensor],
    maps: list[torch.Tensor],
    parameters: list[torch.Tensor],
    statistics: list[torch.Tensor],
    y: torch.Tensor,
    shortcut: bool,
    given: bool,
    eps: float,
    *,
    create_graph: bool = False,
) -> list[torch.Tensor]:
    """Gradients of ``maps`` and ``parameters`` and, where there is one without a norm, the shortcut."""
    left = torch.where(y <= 0, 0, sum(gradients[1:], gradients[0]))
    of_maps, of_parameters = [], []
    for n, x in enumerate(maps):
        used = statistics[2 * n : 2 * n + 2] if given else (None, None)

        def result(x, weight, bias, used=used):
            return (normalise(x, weight, bias, *used, eps)[0].to(x.dtype),)

        inputs = [x, *parameters[2 * n : 2 * n + 2]]
        of_x, *others = reference_gradient(result, inputs, (left,), create_graph=create_graph)
        of_maps.append(of_x)
        of_parameters += others
    return [*of_maps, *of_parameters, *([left] if shortcut else [])]
