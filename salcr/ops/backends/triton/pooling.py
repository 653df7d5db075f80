"""Pooling on the GPU, in Triton."""

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
    from salcr.kernels.pooling import pool_forward

    parts = pooled_parts(tokens, queries)
    means, scores, found, weights, forms = pool_forward(
        x, parts, tokens=tokens, queries=queries, power=power, attend=attend, views=views
    )
    return means, scores, None if tokens is None else found, weights, forms


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
    from salcr.kernels.pooling_backward import pool_backward

    of_x, of_tokens, of_queries = pool_backward(
        x,
        pooled_parts(tokens, queries),
        tokens=tokens,
        scores=scores,
        queries=queries if tokens is None else prototypes,
        weights=weights if form_gradients else None,
        form_gradients=form_gradients,
        query_gradient=prototype_gradient,
        mean_gradient=mean_gradient,
        power=power,
        views=views,
    )
    return of_x, of_tokens, None if of_queries is None else of_queries.to(x.dtype)
