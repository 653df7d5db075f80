"""What ends a residual block of a training step: batch norm, the shortcut and ReLU, and their gradients."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from salcr import ops, reference


def _block_end(dtype: torch.dtype, device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """The second stage's map of a step, channels last, weight and bias, and the shortcut's map."""
    samples, height, width = (2, 6, 64) if quick else (432 if device == "cuda" else 24, 36, 512)
    generator = torch.Generator().manual_seed(0)

    def rows() -> torch.Tensor:
        x = torch.randn(samples, height, height // 2, width, generator=generator)
        return x.permute(0, 3, 1, 2).to(device, dtype)

    weight, bias = 1 + 0.1 * torch.randn(2, width, generator=generator).to(device)
    x, shortcut = rows(), rows()
    y = F.batch_norm(x.float(), None, None, weight, bias, training=True) + shortcut
    return x, weight, bias, torch.where(y.abs() < 0.1, shortcut + 0.5, shortcut)  # away from ReLU's corner


def _by_torch(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, shortcut: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.relu_(F.batch_norm(x, None, None, weight, bias, training=True) + shortcut)
    return y, y


def _and_back(function: Callable) -> Callable:
    """Result and gradients where two consumers have a gradient each, as after a block."""

    def step(x, weight, bias, shortcut):
        leaves = [y.detach().requires_grad_() for y in (x, weight, bias, shortcut)]
        y, same = function(*leaves)
        found = torch.autograd.grad([y.view_as(y), same.view_as(y)], leaves, [x, shortcut])
        return [y.detach(), *found]

    return step


def _compiled(*inputs):
    return torch.compile(_by_torch)(*inputs)


def _formula(*inputs):
    y = reference.batch_norm_relu(*inputs)[0]
    return y, y


def _operator(impl: str) -> Callable:
    return lambda *inputs: ops.batch_norm_relu(*inputs, twice=True, impl=impl)[:2]


def _case(name: str, dtype: torch.dtype) -> Case:
    variants = {"reference": _formula, "published": _by_torch, "cpp": _operator("cpp"), "triton": _operator("triton")}
    if dtype != torch.float32:  # for GPUs
        variants["compiled"] = _compiled
        del variants["cpp"]
    note = (
        f"end of a residual block in {str(dtype).removeprefix('torch.')}, forward and backward: [432, 512, 36, 18] on "
        "a GPU, 24 images on the CPU"
    )
    runs = {variant: _and_back(function) for variant, function in variants.items()}
    passes = 12  # over the map, see kernels/batch_norm.py
    return Case(name, note, partial(_block_end, dtype), runs, close, floor_bytes=lambda x, *_: passes * x.nbytes)


CASES = (_case("batch_norm_relu", torch.float32), _case("batch_norm_relu-bfloat16", torch.bfloat16))
