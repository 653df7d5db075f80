"""Batch norm with ReLU on the CPU, in C++. Maps that are not channels-last are copied."""

import torch


def batch_norm_relu(
    maps: list[torch.Tensor],
    parameters: list[torch.Tensor],
    shortcut: torch.Tensor | None,
    statistics: list[torch.Tensor],
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """``(y, mean, var, ...)``; see ``salcr::batch_norm_relu``."""
    from salcr import _C

    y, used = _empty(maps[0]), statistics or [torch.empty_like(p) for p in parameters]
    arrays = [*map(_rows, maps)], [*map(_array, parameters)], _rows(shortcut), [*map(_array, used)], _rows(y)
    _C.batch_norm_relu(*arrays, given=bool(statistics), eps=eps, threads=torch.get_num_threads())
    return y, *used


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
    from salcr import _C

    first, again = gradients if len(gradients) > 1 else (gradients[0], None)
    of_maps, of_parameters = [_empty(x) for x in maps], [torch.empty_like(s) for s in statistics]
    of_shortcut = [_empty(y)] if shortcut else []
    arrays = [*map(_rows, maps)], [*map(_array, parameters)], [*map(_array, statistics)], _rows(y)
    results = [*map(_rows, of_maps)], [*map(_array, of_parameters)], _rows(of_shortcut[0] if shortcut else None)
    options = dict(given=given, eps=eps, threads=torch.get_num_threads())
    _C.batch_norm_relu_backward(_rows(first), _rows(again), *arrays, *results, **options)
    return [*of_maps, *of_parameters, *of_shortcut]


def _empty(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _rows(x: torch.Tensor | None):
    """``[B * H * W, C]``, or None."""
    if x is None:
        return None
    return x.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(0, 2).numpy()


def _array(x: torch.Tensor):
    return x.detach().contiguous().numpy()
