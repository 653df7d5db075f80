"""Pooling in C++: the map crosses the memory bus once forward, and once with its gradient backward.

``csrc/pooling.hpp`` has the shapes of all arrays; those not given are not asked for.
"""

import torch

from salcr.ops._parts import pooled_parts


def pool(
    x: torch.Tensor,
    tokens: torch.Tensor | None,
    queries: torch.Tensor | None,
    views: int,
    power: float | None,
    attend: bool,
) -> tuple[torch.Tensor | None, ...]:
    """``(means, scores, prototypes, weights, forms)``; see ``salcr::pool``."""
    batch, width, cells = len(x), x.shape[1], x.shape[2] * x.shape[3]
    parts = pooled_parts(tokens, queries)
    stripe = cells // parts if parts else 0
    means = None if power is None else x.new_empty(batch, width)
    scores = None if tokens is None else x.new_empty(batch, parts, stripe)
    prototypes = None if tokens is None else x.new_empty(batch, parts, width)
    weights = x.new_empty(batch, views, parts, stripe) if attend else None
    forms = [x.new_empty(batch, parts, width) for _ in range(views if attend else 0)]
    _call(
        "pool_forward",
        x,
        parts,
        views,
        power,
        means=means,
        tokens=tokens,
        scores=scores,
        queries=queries if tokens is None else prototypes,
        weights=weights,
        **dict(zip(("own", "pg1", "pg2"), forms, strict=False)),
    )
    return means, scores, prototypes, weights, forms


def pool_backward(
    x: torch.Tensor,
    tokens: torch.Tensor | None,
    queries: torch.Tensor | None,
    scores: torch.Tensor | None,
    prototypes: torch.Tensor | None,
    weights: torch.Tensor | None,
    mean_gradient: torch.Tensor | None,
    prototype_gradient: torch.Tensor | None,
    form_gradients: list[torch.Tensor],
    views: int,
    power: float | None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of ``x``, ``tokens`` and ``queries``."""
    parts = pooled_parts(tokens, queries)
    gradient = torch.empty_like(_rows(_dense(x)))
    token_gradient = None if tokens is None else x.new_empty(len(x) // views, *tokens.shape)
    query_gradient = None  # holds what is known already, and takes what the maps send back
    if prototype_gradient is not None:
        query_gradient = prototype_gradient.clone(memory_format=torch.contiguous_format)
    elif parts:
        query_gradient = x.new_zeros(len(x), parts, x.shape[1])
    _call(
        "pool_backward",
        x,
        parts,
        views,
        power if mean_gradient is not None else None,
        tokens=tokens,
        scores=scores,
        queries=queries if tokens is None else prototypes,
        weights=weights if form_gradients else None,
        mean_gradient=mean_gradient,
        query_gradient=query_gradient,
        token_gradient=token_gradient,
        map_gradient=gradient,
        **dict(zip(("own_gradient", "pg1_gradient", "pg2_gradient"), form_gradients, strict=False)),
    )
    if _channels_last(x):
        gradient = gradient.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
    else:
        gradient = gradient.view(x.shape)
    return gradient, None if tokens is None else token_gradient.sum(0), query_gradient


def _call(
    function: str, x: torch.Tensor, parts: int, views: int, power: float | None, **arrays: torch.Tensor | None
) -> None:
    from salcr import _C

    x = _dense(x)
    getattr(_C, function)(
        _rows(x).numpy(),
        channels_last=_channels_last(x),
        parts=parts,
        views=views,
        power=power or 0.0,
        threads=torch.get_num_threads(),
        **{name: None if a is None else a.detach().contiguous().numpy() for name, a in arrays.items()},
    )


def _channels_last(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _dense(x: torch.Tensor) -> torch.Tensor:
    return x if _channels_last(x) else x.contiguous()


def _rows(x: torch.Tensor) -> torch.Tensor:
    """``[B, H*W, D]`` or ``[B, D, H*W]``, as it lies in memory."""
    x = x.detach()
    return x.permute(0, 2, 3, 1).flatten(1, 2) if _channels_last(x) else x.flatten(2)
