"""Pooling by the formulas under autograd, which are run again for the gradient."""

import torch

from salcr import reference
from salcr.ops._checks import wide_dtype
from salcr.ops._parts import pooled_parts
from salcr.ops._register import reference_gradient


def pool(
    x: torch.Tensor,
    tokens: torch.Tensor | None,
    queries: torch.Tensor | None,
    views: int,
    power: float | None,
    attend: bool,
) -> tuple[torch.Tensor | None, ...]:
    """What is asked for; in place of what only a backward pass needs, zeros. See ``salcr::pool``."""
    means, prototypes, forms = _results(x, tokens, queries, views, power, attend)
    parts = pooled_parts(tokens, queries)
    stripe = x.shape[2] * x.shape[3] // max(1, parts)
    wide = wide_dtype(x)
    scores = None if tokens is None else x.new_zeros(len(x), parts, stripe, dtype=wide)
    weights = x.new_zeros(len(x), views, parts, stripe, dtype=wide) if attend else None
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
    *,
    create_graph: bool = False,
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of ``x``, ``tokens`` and ``queries``, None where there is no such input."""
    arguments = x, tokens, queries
    inputs = [y for y in arguments if y is not None]
    gradients = tuple(g for g in (mean_gradient, prototype_gradient, *form_gradients) if g is not None)

    def results(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        remaining = iter(leaves)
        map_, token, query = (None if y is None else next(remaining) for y in arguments)
        power_asked = power if mean_gradient is not None else None
        means, prototypes, forms = _results(map_, token, query, views, power_asked, len(form_gradients) > 0)
        prototypes = prototypes if prototype_gradient is not None else None
        return tuple(y for y in (means, prototypes, *forms) if y is not None)

    found = iter(reference_gradient(results, inputs, gradients, create_graph=create_graph))
    return tuple(None if y is None else next(found) for y in arguments)


def _results(x, tokens, queries, views, power, attend):
    wide = x.to(wide_dtype(x))
    means = None if power is None else (wide**power).mean((2, 3))
    prototypes = None if tokens is None else reference.part_prototypes(x, tokens).to(wide.dtype)
    if not attend:
        forms = []
    elif views == 1:
        forms = [reference.part_attention(queries, x)]
    else:
        forms = list(reference.semantic_parts(x, tokens))
    return means, prototypes, forms
