"""Inputs of the pooling operators, and all their results and gradients, for the tests of every backend."""

import math

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
        *module.semantic_pool(x, tokens, **impl),
        *module.semantic_pool(x, tokens, p=2.0, **impl),
    )


def training_step(module, x, tokens, queries, **impl):
    """What a training step asks for."""
    return module.semantic_pool(x, tokens, **impl)


def results_and_gradients(module, *arguments, calls=everything, **impl):
    """Gradients of the sum of the results with weights of either sign."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    results = calls(module, *leaves, **impl)
    weights = [torch.linspace(-0.5, 1.5, y.numel(), dtype=torch.float64).view_as(y).to(y) for y in results]
    gradients = torch.autograd.grad(results, leaves, weights, allow_unused=True)
    return *(y.detach() for y in results), *(g for g in gradients if g is not None)


def check_budget(impl, *arguments, calls=everything):
    """Results and gradients within the budget of eager PyTorch on the same device and in the same precision."""
    got = results_and_gradients(ops, *arguments, calls=calls, impl=impl)
    eager = results_and_gradients(reference, *arguments, calls=calls)
    exact = results_and_gradients(reference, *(x.double() for x in arguments), calls=calls)
    batch, width, *size = arguments[0].shape
    for found, true, rival in zip(got, exact, eager, strict=True):
        assert_within_budget(found, true, rival, terms=width + batch * math.prod(size))  # a token's gradient


def check_repeats(impl, *arguments, calls=everything):
    """The same bits twice, in the memory format of the map."""
    first, second = (results_and_gradients(ops, *arguments, calls=calls, impl=impl) for _ in range(2))
    for x, same in zip(first, second, strict=True):
        assert torch.equal(x, same)


EDGES = "saturated on", "saturated off", "constant", "zero"


def edge_case(case, x, tokens):
    """Token scores of ±hundreds on every cell, or a map of one value."""
    if case.startswith("saturated"):
        return x + 0.1, tokens.abs() * (1e3 if case == "saturated on" else -1e3)
    return torch.full_like(x, 0.5 if case == "constant" else 0.0), tokens


def check_edge_case(impl, case, x, tokens):
    """Finite results and gradients; where a limit is known, that."""
    x, tokens = (y.requires_grad_() for y in edge_case(case, x, tokens))
    pooled, *forms = ops.semantic_pool(x, tokens, impl=impl)
    results = pooled, ops.part_prototypes(x, tokens, impl=impl), *forms
    gradients = torch.autograd.grad(sum(y.float().sum() for y in results), (x, tokens))
    for y in (*results, *gradients):
        assert torch.isfinite(y).all()
    parts, cells = len(tokens), x.detach().double().flatten(2)
    run = cells.shape[2] // parts
    stripes = cells[:, :, : parts * run].unflatten(2, (parts, run))
    if case == "saturated on":
        tolerance = run * torch.finfo(x.dtype).eps
        torch.testing.assert_close(results[1].double(), stripes.mean(3).mT, rtol=tolerance, atol=0)
    if case in ("constant", "zero"):
        torch.testing.assert_close(results[1:], tuple(stripes[..., 0].mT.to(x.dtype) for _ in range(4)))
    if case == "zero":
        assert (pooled < 2e-4).all() and not gradients[1].any()


def on_gpu(generator, **options):
    return [x.cuda() for x in problem(generator, **options)]
