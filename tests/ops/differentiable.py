"""Every differentiable operator, and those that make what it takes, each on a tiny problem: what all of them owe."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from salcr import ops
from salcr.ops._dispatch import table

TARGETS = torch.tensor([0, 3, 1, 2, 1])
SOFT_TARGETS, WEIGHTS = (torch.arange(20.0).view(5, 4).sin() + 1) / 4, torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5])
POSITIVES = torch.tensor([[0, 2], [1, -1], [2, 3], [0, -1], [1, 2]])


class Case(NamedTuple):
    """A call ``call(impl, *tensors)`` of an operator; the first ``learnable`` tensors have gradients."""

    operator: str
    call: Callable
    tensors: tuple[torch.Tensor, ...]
    learnable: int


def searched_contrast(impl, x, memory):
    _, lse, mean_row = ops.instance_search(x.detach(), memory, 2, temperature=0.5, impl=impl)
    return ops.set_contrast(x, memory, POSITIVES, temperature=0.5, lse=lse, mean_row=mean_row, impl=impl)


MEMORY_CALLS = {
    "cluster_contrast": lambda i, x, m: ops.cluster_contrast(x, m, TARGETS, temperature=0.5, impl=i),
    "cluster_contrast none": lambda i, x, m: ops.cluster_contrast(
        x, m, TARGETS, temperature=0.5, reduction="none", impl=i
    ),
    "cluster_contrast of soft targets": lambda i, x, m: ops.cluster_contrast(
        x, m, soft_targets=SOFT_TARGETS.to(x.dtype), weights=WEIGHTS.to(x.dtype), temperature=0.5, impl=i
    ),
    "cluster_contrast_sum": lambda i, x, m: ops.cluster_contrast_sum(
        x, [m, m.flip(-2)], [TARGETS, TARGETS], temperature=0.5, impl=i
    ),
    "set_contrast": lambda i, x, m: ops.set_contrast(x, m, POSITIVES, temperature=0.5, impl=i),
    "set_contrast of one": lambda i, x, m: ops.set_contrast(x, m, POSITIVES[:, :1], temperature=0.5, impl=i),
    "set_contrast with each of two": lambda i, x, m: ops.set_contrast(
        x, m, [POSITIVES, POSITIVES[:, 1:].flip(0)], over="each", temperature=0.5, impl=i
    ),
    "set_contrast after a search": searched_contrast,
}
POOLING_CALLS = {
    "gem_pool": lambda i, x: ops.gem_pool(x, impl=i),
    "gem_pool of another power": lambda i, x: ops.gem_pool(x, 4.5, impl=i),
    "part_prototypes": lambda i, x, tokens: ops.part_prototypes(x, tokens, impl=i),
    "part_attention": lambda i, x, queries: ops.part_attention(queries, x, impl=i),
    "semantic_parts": lambda i, x, tokens: ops.semantic_parts(x, tokens, impl=i),
    "semantic_pool": lambda i, x, tokens: ops.semantic_pool(x, tokens, impl=i),
}
NORM_CALLS = {
    "batch_norm_relu": lambda i, x, w, b: ops.batch_norm_relu(x, w, b, impl=i)[0],
    "batch_norm_relu with a shortcut": lambda i, x, w, b, shortcut: ops.batch_norm_relu(x, w, b, shortcut, impl=i)[0],
    "batch_norm_relu with a norm of the shortcut": lambda i, x, w, b, shortcut, v, c: ops.batch_norm_relu(
        x, w, b, shortcut, shortcut_weight=v, shortcut_bias=c, impl=i
    )[0],
}
DIFFERENTIABLE = [*MEMORY_CALLS, *POOLING_CALLS, *NORM_CALLS]
OTHERS = {
    "instance_search": lambda i, x, m: ops.instance_search(x, m, 2, temperature=0.5, impl=i),
    "instance_search of all": lambda i, x, m: ops.instance_search(x, m, 9, temperature=0.5, impl=i),
    "update_cluster_memory_ of the hardest": lambda i, x, m: ops.update_cluster_memory_(
        m.clone(), x, TARGETS, select="hardest", impl=i
    ),
    "update_cluster_memory_": lambda i, x, m: ops.update_cluster_memory_(m.clone(), x, TARGETS, impl=i),
    "cluster_centroids": lambda i, x: ops.cluster_centroids(x, TARGETS, impl=i),
}


def case(name: str, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Case:
    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    operator = name.split()[0]
    if name in POOLING_CALLS:
        rows = dict(part_attention=random(3, 2, 4)).get(operator, random(2, 4))
        tensors = random(3, 4, 3, 2).relu() + 0.1, rows
        tensors = tensors[:1] if operator == "gem_pool" else tensors
        return Case("pool", POOLING_CALLS[name], tensors, len(tensors))
    if name in NORM_CALLS:
        norms = 2 if "norm of" in name else 1
        tensors = tuple(random(*shape) for _ in range(norms) for shape in ((3, 4, 3, 2), (4,), (4,)))
        tensors += (random(3, 4, 3, 2),) if "a shortcut" in name else ()
        return Case(operator, NORM_CALLS[name], tensors, len(tensors))
    tensors = random(2, 5, 3), F.normalize(random(2, 4, 3), dim=-1)
    if name in MEMORY_CALLS:
        return Case(operator, MEMORY_CALLS[name], tensors, 1)
    tensors = (tensors[0][0],) if name == "cluster_centroids" else tensors
    return Case(operator, OTHERS[name], tensors, 0)


def backends(names: list[str]) -> list:
    """``(name, impl)`` for every backend of an operator on the CPU, the reference aside."""
    known, pairs = table(), []
    for name in names:
        operator = "pool" if name in POOLING_CALLS else name.split()[0]
        for impl, lack in known[operator].items():
            if impl in ("cpp", "eager"):
                pairs.append(pytest.param(name, impl, marks=pytest.mark.skipif(lack is not None, reason=str(lack))))
    return pairs


def results(call: Callable, impl: str, tensors, learnable: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the call returns, and the gradients of a weighted sum of it."""
    leaves = [x.clone().requires_grad_(n < learnable) for n, x in enumerate(tensors)]
    found = call(impl, *leaves)
    found = [found] if isinstance(found, torch.Tensor) else list(found)
    gradients = torch.autograd.grad(weighted(found), leaves[:learnable]) if learnable else ()
    return [x.detach() for x in found], list(gradients)


def weighted(found) -> torch.Tensor:
    """One number that depends on every element, with weights of its own and to the second degree."""
    found = [found] if isinstance(found, torch.Tensor) else found
    weights = (torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype).view(x.shape) for x in found)
    return sum(((x + x.square()) * w).sum() for x, w in zip(found, weights, strict=True))


def spoilt(
    tensors, generator: torch.Generator, spots: int, values=(torch.nan, torch.inf, -torch.inf)
) -> Iterator[tuple[str, float, list[torch.Tensor]]]:
    """The tensors with one of ``values`` at one of ``spots`` places of one of them, and a description of it."""
    for n, x in enumerate(tensors):
        for value in values:
            for place in torch.randperm(x.numel(), generator=generator)[:spots].tolist():
                changed = [y.clone() for y in tensors]
                changed[n].view(-1)[place] = value
                yield f"{value} at {place} of argument {n}", value, changed


def check_nonfinite(name: str, impl: str, generator: torch.Generator, spots: int = 4, **values) -> None:
    """What is not finite with the reference is not finite with ``impl``, after NaN or Inf in any argument.

    Neighbours are the same after NaN; Inf makes a logit of Inf or, split for tensor cores, of NaN.
    """
    _, call, tensors, learnable = case(name, generator)
    for what, value, changed in spoilt(tensors, generator, spots, **values):
        expected, got = (results(call, i, changed, learnable) for i in ("reference", impl))
        for exact, found in zip(expected[0] + expected[1], got[0] + got[1], strict=True):
            same = torch.equal(found, exact) if math.isnan(value) else found.shape == exact.shape
            assert not (found.isfinite() & ~exact.isfinite()).any(), f"{what} gives {found} instead of {exact}"
            assert found.is_floating_point() or same, f"{what} gives {found} instead of {exact}"


def check_overlong(name: str, impl: str, generator: torch.Generator, dtype: torch.dtype) -> None:
    """What a row whose square overflows makes is what a row of NaN makes, and not what a row of zeros does."""
    _, call, (x, memory), learnable = case(name, generator, dtype)
    found = []
    for value in (torch.finfo(dtype).max / 4, torch.nan):
        changed = x.clone()
        changed[1, 2] = value
        values, gradients = results(call, impl, [changed, memory], learnable)
        found.append([y if y.dtype == torch.int64 else y.isfinite() for y in values + gradients])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def check_left_out(name: str, impl: str, generator: torch.Generator, value: float) -> None:
    """A row of ``value`` with no target and no positive changes no loss and no other row's gradient; its own is 0."""
    x, memory = case(name, generator).tensors
    left_out = torch.arange(5) == 3
    rows = POSITIVES.masked_fill(left_out[:, None], -1) if name == "set_contrast" else TARGETS.masked_fill(left_out, -1)
    several = name == "cluster_contrast_sum"
    given = ([memory, memory.flip(-2)], [rows, rows]) if several else (memory, rows)
    spoilt = x.clone()
    spoilt[:, 3] = value
    found, expected = (y.requires_grad_() for y in (spoilt, x.clone()))
    losses = [getattr(ops, name)(y, *given, impl=impl) for y in (found, expected)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, y)[0] for loss, y in zip(losses, (found, expected), strict=True)]
    torch.testing.assert_close(*gradients)
    assert not gradients[0][:, left_out].any()


def check_second_derivative_is_an_error(name: str, impl: str, generator: torch.Generator, dtype: torch.dtype) -> None:
    """The first derivative of a recorded backward pass is that of an unrecorded one; another names the operator."""
    operator, call, tensors, learnable = case(name, generator, dtype)
    _, expected = results(call, impl, tensors, learnable)
    leaves = [x.clone().requires_grad_(n < learnable) for n, x in enumerate(tensors)]
    gradients = torch.autograd.grad(weighted(call(impl, *leaves)), leaves[:learnable], create_graph=True)
    for found, plain in zip(gradients, expected, strict=True):
        assert torch.equal(found, plain)
    with pytest.raises(NotImplementedError, match=f'salcr::{operator} has no second derivative .* impl="reference"'):
        sum(g.square().sum() for g in gradients).backward()
