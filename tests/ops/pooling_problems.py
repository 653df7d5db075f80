"""Inputs of the pooling operators, and all their results and gradients, for the tests of every backend."""

import torch

from salcr import ops, reference
from tests.ops.contract import assert_within_budget


def problem(generator, parts=3, batch=6, width=8, size=(6, 3), dtype=torch.float64, channels_last=False):
    """A map as after ReLU, tokens and queries."""
    x = torch.randn(batch, width, *size, generator=generator, dtype=torch.float64).relu().to(dtype)
    tokens = torch.randn(parts, width, generator=generator, dtype=torch.float64).to(dtype)
    queries = torch.randn(batch, parts, width, generator=generator, dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x, tokens, queries


def everything(module, x, tokens, queries, **impl):
    """All results of all operators of the family, by ``ops`` or by ``reference``."""
    return (
        module.gem_pool(x, **impl),
        module.gem_pool(x, 2.0, 1e-3, **impl),
        module.part_prototypes(x, tokens, **impl),
        module.part_attention(queries, x, **impl),
        *module.semantic_parts(x, tokens, **impl),
        *module.semantic_pool(x, tokens, authors_pg1=True, **impl),
        *module.semantic_pool(x, tokens, p=2.0, **impl),
    )


def results_and_gradients(module, *arguments, **impl):
    """Gradients of the sum of the results with weights of either sign."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    results = everything(module, *leaves, **impl)
    weights = [torch.linspace(-0.5, 1.5, y.numel(), dtype=torch.float64).view_as(y).to(y) for y in results]
    return *(y.detach() for y in results), *torch.autograd.grad(results, leaves, weights)


def check_budget(impl, *arguments):
    """Results and gradients within the budget of eager PyTorch on the same device and in the same precision."""
    got, eager = results_and_gradients(ops, *arguments, impl=impl), results_and_gradients(reference, *arguments)
    exact = results_and_gradients(reference, *(x.double() for x in arguments))
    for found, true, rival in zip(got, exact, eager, strict=True):
        assert_within_budget(found, true, rival)
