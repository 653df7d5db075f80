"""Pooled and part features of the maps of a training step."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from salcr import ops, reference
from salcr.reference.published.pooling import semantic_pool as published_pool


def _step_maps(dtype: torch.dtype, device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The maps of a training step as after ReLU, channels last, and part tokens of unit length."""
    shape = (6, 64, 6, 3) if quick else (432, 2048, 18, 9)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).relu_().contiguous(memory_format=torch.channels_last)
    tokens = F.normalize(torch.randn(3, shape[1], generator=generator), dim=1)
    return x.to(device, dtype), tokens.to(device, dtype)


def _pool(function: Callable) -> Callable:
    """Forward alone."""
    return lambda x, tokens: [y.detach() for y in function(x.detach(), tokens.detach())]


def _pool_and_back(function: Callable) -> Callable:
    """The gradients of maps and tokens, forward and backward."""

    def step(x, tokens):
        leaves = x.requires_grad_(), tokens.requires_grad_()
        results = function(*leaves)
        return torch.autograd.grad(results, leaves, [torch.ones_like(y) for y in results])

    return step


def _compiled_semantic_pool(x, tokens):
    return torch.compile(reference.semantic_pool)(x, tokens)


def _pooling_case(name: str, note: str, run: Callable, transfers: int, dtype: torch.dtype = torch.float32) -> Case:
    variants = {
        "reference": reference.semantic_pool,
        "published": published_pool,
        "compiled": _compiled_semantic_pool,
        "cpp": partial(ops.semantic_pool, impl="cpp"),
        "triton": partial(ops.semantic_pool, impl="triton"),
    }
    if dtype != torch.float32:  # for GPUs: no CPU backend, and rounded where published code rounds
        del variants["published"], variants["cpp"]
    note = f"GeM and three forms of part features of [432, 2048, 18, 9] in {str(dtype).removeprefix('torch.')}, {note}"
    runs = {variant: run(function) for variant, function in variants.items()}
    floors = {
        "floor_bytes": lambda x, tokens: transfers * x.nbytes,
        "floor_flops": lambda x, tokens: transfers * 16 * x.numel(),  # each cell: its own token, three views' queries
    }
    return Case(name, note, partial(_step_maps, dtype), runs, close, **floors)


CASES = (
    _pooling_case("semantic_pool-forward", "forward", _pool, transfers=1),
    _pooling_case("semantic_pool", "forward and backward", _pool_and_back, transfers=3),
    _pooling_case("semantic_pool-forward-bfloat16", "forward", _pool, 1, torch.bfloat16),
    _pooling_case("semantic_pool-bfloat16", "forward and backward", _pool_and_back, 3, torch.bfloat16),
)
