"""What ends a residual block of a training step: batch norm, the shortcut and ReLU, and their gradients.

The shortcut of a stage's first block has a norm, too: ``batch_norm_relu-both``.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from salcr import ops, reference


def _block_end(dtype: torch.dtype, both: bool, device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """The second stage's map of a step, channels last, weight and bias, the shortcut's map, and its weight and bias."""
    samples, height, width = (2, 6, 64) if quick else (432 if device == "cuda" else 24, 36, 512)
    generator = torch.Generator().manual_seed(0)

    def rows() -> torch.Tensor:
        x = torch.randn(samples, height, height // 2, width, generator=generator)
        return x.permute(0, 3, 1, 2).to(device, dtype)

    def norm() -> torch.Tensor:
        return 1 + 0.1 * torch.randn(2, width, generator=generator).to(device)

    x, shortcut = rows(), rows()
    inputs = x, *norm(), shortcut, *(norm() if both else ())
    while (near := _sum(*(y.float() for y in inputs)).abs() < 0.1).any():
        shortcut[near] += 0.5  # away from ReLU's corner
    return inputs


def _sum(x, weight, bias, shortcut, *norm):
    y = F.batch_norm(x, None, None, weight, bias, training=True)
    return y + (F.batch_norm(shortcut, None, None, *norm, training=True) if norm else shortcut)


def _by_torch(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.relu_(_sum(*inputs))
    return y, y


def _and_back(function: Callable) -> Callable:
    """Result and gradients where two consumers have a gradient each, as after a block."""

    def step(*inputs):
        leaves = [y.detach().requires_grad_() for y in inputs]
        y, same = function(*leaves)
        found = torch.autograd.grad([y.view_as(y), same.view_as(y)], leaves, [inputs[0], inputs[3]])
        return [y.detach(), *found]

    return step


def _compiled(*inputs):
    return torch.compile(_by_torch)(*inputs)


def _named(x, weight, bias, shortcut, *norm):
    names = "shortcut_weight", "shortcut_bias"
    return dict(x=x, weight=weight, bias=bias, shortcut=shortcut) | dict(zip(names, norm, strict=False))


def _formula(*inputs):
    y = reference.batch_norm_relu(**_named(*inputs))[0]
    return y, y


def _operator(impl: str) -> Callable:
    return lambda *inputs: ops.batch_norm_relu(**_named(*inputs), twice=True, impl=impl)[:2]


def _case(name: str, dtype: torch.dtype, both: bool = False) -> Case:
    variants = {"reference": _formula, "published": _by_torch, "cpp": _operator("cpp"), "triton": _operator("triton")}
    if dtype != torch.float32:  # for GPUs
        variants["compiled"] = _compiled
        del variants["cpp"]
    what = "end of a residual block" + (" whose shortcut has a norm, too," if both else "")
    note = (
        f"{what} in {str(dtype).removeprefix('torch.')}, forward and backward: [432, 512, 36, 18] on "
        "a GPU, 24 images on the CPU"
    )
    runs = {variant: _and_back(function) for variant, function in variants.items()}
    passes = 15 if both else 12  # over the map, see kernels/batch_norm.py
    inputs = partial(_block_end, dtype, both)
    return Case(name, note, inputs, runs, close, floor_bytes=lambda x, *_: passes * x.nbytes)


CASES = (
    _case("batch_norm_relu", torch.float32),
    _case("batch_norm_relu-bfloat16", torch.bfloat16),
    _case("batch_norm_relu-both", torch.float32, both=True),
    _case("batch_norm_relu-both-bfloat16", torch.bfloat16, both=True),
)
