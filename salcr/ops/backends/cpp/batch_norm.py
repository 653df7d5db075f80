"""Batch norm with ReLU on the CPU, in C++. Maps that are not channels-last are copied."""

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
    from salcr import _C

    given = mean is not None
    mean, var = (mean, var) if given else (torch.empty_like(weight), torch.empty_like(weight))
    y = _empty(x)
    arrays = _rows(x), *map(_array, (weight, bias)), _rows(shortcut), *map(_array, (mean, var)), _rows(y)
    _C.batch_norm_relu(*arrays, given=given, eps=eps, threads=torch.get_num_threads())
    return y, mean, var


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
    from salcr import _C

    first, again = gradients if len(gradients) > 1 else (gradients[0], None)
    found = _empty(x), torch.empty_like(mean), torch.empty_like(mean), _empty(x) if shortcut else None
    arrays = _rows(first), _rows(again), _rows(x), *map(_array, (weight, bias, mean, var)), _rows(y)
    results = _rows(found[0]), *map(_array, found[1:3]), _rows(found[3])
    _C.batch_norm_relu_backward(*arrays, *results, given=given, eps=eps, threads=torch.get_num_threads())
    return found


def _empty(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _rows(x: torch.Tensor | None):
    """``[B * H * W, C]``, or None."""
    if x is None:
        return None
    return x.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(0, 2).numpy()


def _array(x: torch.Tensor):
    return x.detach().contiguous().numpy()
