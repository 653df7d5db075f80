"""The operators of :mod:`salcr.ops.pooling` over an engine: C++ or Triton.

Each operator is a pair of functions: forward ``(*inputs, *options) -> (outputs, saved)`` and backward
``(gradients, inputs, saved, *options) -> gradients of the inputs``. What is saved is float32, or float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch


class Operator(NamedTuple):
    forward: Callable
    backward: Callable


class Engine(NamedTuple):
    """``pool_forward`` and ``pool_backward``, with the arguments of those of :mod:`salcr.ops.backends.cpp.pooling`."""

    pool_forward: Callable
    pool_backward: Callable


def fused_operators(load: Callable[[], Engine]) -> dict[str, Operator]:
    """The operators over the engine that ``load`` imports at the first call."""

    def gem_forward(x, p, eps):
        means, *_ = load().pool_forward(x, power=p)
        return [_root(means, p, eps, x.dtype)], [means]

    def gem_backward(gradients, inputs, saved, p, eps):
        mean_gradient = _root_backward(gradients[0], *saved, p, eps)
        return load().pool_backward(*inputs, mean_gradient=mean_gradient, power=p)[:1]

    def prototypes_forward(x, tokens):
        _, scores, prototypes, *_ = load().pool_forward(x, len(tokens), tokens=tokens)
        return [prototypes.to(x.dtype)], [scores]

    def prototypes_backward(gradients, inputs, saved):
        x, tokens = inputs
        (gradient,), (scores,) = gradients, saved
        return load().pool_backward(x, len(tokens), tokens=tokens, scores=scores, query_gradient=gradient)[:2]

    def attention_forward(queries, x):
        *_, weights, forms = load().pool_forward(x, queries.shape[1], queries=queries, attend=True)
        return forms, [weights]

    def attention_backward(gradients, inputs, saved):
        queries, x = inputs
        gradient, _, query_gradient = load().pool_backward(
            x, queries.shape[1], queries=queries, weights=saved[0], form_gradients=gradients
        )
        return query_gradient.to(x.dtype), gradient

    def parts_forward(x, tokens, authors_pg1, power=None):
        means, *saved, forms = load().pool_forward(
            x, len(tokens), tokens=tokens, power=power, attend=True, views=3, authors_pg1=authors_pg1
        )
        return forms, [*saved, means]

    def parts_backward(gradients, inputs, saved, authors_pg1, power=None, mean_gradient=None):
        x, tokens = inputs
        scores, prototypes, weights = saved[:3]
        return load().pool_backward(
            *(x, len(tokens)),
            tokens=tokens,
            scores=scores,
            queries=prototypes,
            weights=weights,
            form_gradients=gradients,
            mean_gradient=mean_gradient,
            power=power,
            views=3,
            authors_pg1=authors_pg1,
        )[:2]

    def semantic_parts_forward(x, tokens, authors_pg1):
        forms, saved = parts_forward(x, tokens, authors_pg1)
        return forms, saved[:3]

    def semantic_pool_forward(x, tokens, p, eps, authors_pg1):
        forms, saved = parts_forward(x, tokens, authors_pg1, p)
        return [_root(saved[3], p, eps, x.dtype), *forms], saved

    def semantic_pool_backward(gradients, inputs, saved, p, eps, authors_pg1):
        mean_gradient = _root_backward(gradients[0], saved[3], p, eps)
        return parts_backward(gradients[1:], inputs, saved, authors_pg1, p, mean_gradient)

    return {
        "gem_pool": Operator(gem_forward, gem_backward),
        "part_prototypes": Operator(prototypes_forward, prototypes_backward),
        "part_attention": Operator(attention_forward, attention_backward),
        "semantic_parts": Operator(semantic_parts_forward, parts_backward),
        "semantic_pool": Operator(semantic_pool_forward, semantic_pool_backward),
    }


def _root(means: torch.Tensor, p: float, eps: float, dtype: torch.dtype) -> torch.Tensor:
    return (means + eps).pow(1 / p).to(dtype)


def _root_backward(gradient: torch.Tensor, means: torch.Tensor, p: float, eps: float) -> torch.Tensor:
    return gradient.to(means.dtype) * (means + eps).pow(1 / p - 1) / p
