"""Pooling in C++: the map crosses the memory bus once forward, and once with its gradient backward."""

from collections.abc import Sequence

import torch


def pool_forward(
    x: torch.Tensor,
    parts: int = 0,
    *,
    tokens: torch.Tensor | None = None,
    queries: torch.Tensor | None = None,
    power: float | None = None,
    attend: bool = False,
    views: int = 1,
    authors_pg1: bool = False,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, list[torch.Tensor]]:
    """What is asked for of ``(means, scores, queries, weights, forms)``; see ``csrc/pooling.hpp`` for their shapes."""
    batch, width, cells = len(x), x.shape[1], x.shape[2] * x.shape[3]
    stripe = cells // parts if parts else 0
    means = x.new_empty(batch, width) if power is not None else None
    scores = x.new_empty(batch, parts, stripe) if tokens is not None else None
    queries = x.new_empty(batch, parts, width) if tokens is not None else queries
    weights = x.new_empty(batch, views, parts, stripe) if attend else None
    forms = [x.new_empty(batch, parts, width) for _ in range(views)] if attend else []
    arrays = dict(means=means, scores=scores, queries=queries, weights=weights, tokens=tokens)
    _call(
        *("pool_forward", x, parts, views, authors_pg1, power),
        **arrays | dict(zip(("own", "pg1", "pg2"), forms, strict=False)),
    )
    return means, scores, queries, weights, forms


def pool_backward(
    x: torch.Tensor,
    parts: int = 0,
    *,
    tokens: torch.Tensor | None = None,
    scores: torch.Tensor | None = None,
    queries: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    form_gradients: Sequence[torch.Tensor] = (),
    query_gradient: torch.Tensor | None = None,
    mean_gradient: torch.Tensor | None = None,
    power: float | None = None,
    views: int = 1,
    authors_pg1: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of ``(x, tokens, queries)`` from those of what :func:`pool_forward` returned (None: none)."""
    gradient = torch.empty_like(_rows(_dense(x)))
    token_gradient = None if tokens is None else x.new_empty(len(x) // views, *tokens.shape)
    if query_gradient is not None:
        query_gradient = query_gradient.clone(memory_format=torch.contiguous_format)
    elif parts:
        query_gradient = x.new_zeros(len(x), parts, x.shape[1])
    if tokens is not None and queries is None:
        queries = query_gradient  # prototypes alone: their values are not read
    arrays = dict(tokens=tokens, scores=scores, queries=queries, weights=weights, mean_gradient=mean_gradient)
    arrays |= dict(zip(("own_gradient", "pg1_gradient", "pg2_gradient"), form_gradients, strict=False))
    _call(
        *("pool_backward", x, parts, views, authors_pg1, power),
        **arrays,
        query_gradient=query_gradient,
        token_gradient=token_gradient,
        map_gradient=gradient,
    )
    gradient = (
        gradient.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2) if _channels_last(x) else gradient.view(x.shape)
    )
    return gradient, None if tokens is None else token_gradient.sum(0), query_gradient


def _call(
    function: str,
    x: torch.Tensor,
    parts: int,
    views: int,
    authors_pg1: bool,
    power: float | None,
    **arrays: torch.Tensor | None,
) -> None:
    from salcr import _C

    x = _dense(x)
    getattr(_C, function)(
        _rows(x).numpy(),
        channels_last=_channels_last(x),
        parts=parts,
        views=views,
        authors_pg1=authors_pg1,
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
    return (
        (x.permute(0, 2, 3, 1) if _channels_last(x) else x).detach().flatten(*((1, 2) if _channels_last(x) else (2, 3)))
    )
