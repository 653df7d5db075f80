"""Batch norm, a shortcut and ReLU of a map ``[B, C, H, W]``, and their gradients, in as few passes as there can be.

Source: batch normalization (Ioffe and Szegedy, 2015); running moments and their merging: Chan, Golub and LeVeque, 1979.

The map is ``R = B·H·W`` rows of C channels, as channels-last memory has them; others are copied. A pass reads or writes
it once. Statistics take a pass (``moments_kernel``, whose blocks of rows ``merge_kernel`` puts together), what follows
from them two, or three with a shortcut (``apply_kernel``). The gradient is the same again: ``sums_kernel`` makes the
two sums of each channel and ``input_kernel`` the gradient from them. Which entries ReLU has kept is found from ``x``
where there is no shortcut. Where there is one it is read from the result, once: ``sums_kernel`` then writes the
gradient that is left, which is the shortcut's, for ``input_kernel`` to read. A result that two consumers have comes
with two gradients, which are added as they are read. Passes of a training step, against eager PyTorch's:

    ======================== ======= ======== ===== =====
    \\                        forward backward sum   eager
    ======================== ======= ======== ===== =====
    ReLU                     3       5        8     13
    shortcut, ReLU           4       7        11    16
    shortcut, ReLU, twice    4       8        12    19
    ======================== ======= ======== ===== =====

torch.compile fuses PyTorch's own norms, too: 106 GB a step of stage two outside of convolutions and pooling (ResNet-50,
432 images, bfloat16), counted once by hand in what PyTorch 2.11 generates for an H100. With this operator it is some
94 GB, by the passes above and what is generated around them. Only where the shortcut has a norm of its own does the
compiler read less forward: it merges both norms, in 5 passes, which are 7 here.

Estimates for an H100 at 3.0 TB/s, not measured: a map [432, 256, 72, 36] in bfloat16 is 573 MB, 0.19 ms a pass;
``moments_kernel`` issues some 11 instructions an entry for it, half of what fits into that time. Memory bound.

A thread has the same channels in all rows it sees and keeps running moments of its own; no sum of squares is made, so
that a mean far from zero costs no digits. Sums are float32, over rows by threads, then a tree, then over the blocks in
order.
"""

import torch
import triton
import triton.language as tl

from .launch import configuration, on_device

MOST_BLOCKS = 256  # of rows, which merge_kernel holds at a time
WIDEST = 128  # channels a program


@triton.jit
def tile(start, end, first, width, R: tl.constexpr, C: tl.constexpr):
    """Offsets of ``[R, C]`` entries from row ``start`` and channel ``first`` on, and which of them there are."""
    row, c = start + tl.arange(0, R), first + tl.arange(0, C)
    return row[:, None] * width + c[None, :], (row < end)[:, None] & (c < width)[None, :]


@triton.jit
def load_tile(x, at, inside):
    return tl.load(x + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_channels(x, first, width, C: tl.constexpr):
    c = first + tl.arange(0, C)
    return tl.load(x + c, mask=c < width, other=0.0).to(tl.float32)[None, :]


@triton.jit
def load_norm(weight, bias, mean, var, first, width, eps, C: tl.constexpr):
    """``(mean, 1 / deviation, scale, bias)`` of C channels."""
    inverse = 1.0 / tl.sqrt(load_channels(var, first, width, C) + eps)
    scale = load_channels(weight, first, width, C) * inverse
    return load_channels(mean, first, width, C), inverse, scale, load_channels(bias, first, width, C)


@triton.jit
def moments_kernel(x, means, squares, rows, width, span, R: tl.constexpr, C: tl.constexpr, STAGES: tl.constexpr):
    """Mean and sum of squared differences from it of each channel, of ``span`` rows.

    ``means`` and ``squares [blocks, width]``, float32."""
    columns = tl.cdiv(width, C)
    block, first = tl.program_id(0) // columns, tl.program_id(0) % columns * C
    begin = block.to(tl.int64) * span
    end = tl.minimum(begin + span, rows)
    mean, square, seen = tl.zeros([R, C], tl.float32), tl.zeros([R, C], tl.float32), 0.0
    for start in tl.range(begin, end, R, num_stages=STAGES):
        at, inside = tile(start, end, first, width, R, C)
        value = load_tile(x, at, inside)
        seen += 1.0
        difference = tl.where(inside, value - mean, 0.0)
        mean += difference * (1.0 / seen)
        square += difference * (value - mean)
    count = ((end - begin - tl.arange(0, R) + R - 1) // R).to(tl.float32)[:, None]
    of_all = tl.sum(mean * (count / (end - begin).to(tl.float32)), 0)[None, :]
    square = tl.sum(square + count * (mean - of_all) * (mean - of_all), 0)
    c = block * width + first + tl.arange(0, C)
    inside = first + tl.arange(0, C) < width
    tl.store(means + c[None, :], of_all, mask=inside[None, :])
    tl.store(squares + c, square, mask=inside)


@triton.jit
def merge_kernel(means, squares, mean, var, blocks, rows, width, span, S: tl.constexpr, C: tl.constexpr):
    """Mean and variance ``[width]`` of all rows, of what :func:`moments_kernel` has found of up to S blocks."""
    first = tl.program_id(0) * C
    block, c = tl.arange(0, S), first + tl.arange(0, C)
    at = block[:, None] * width + c[None, :]
    inside = (block < blocks)[:, None] & (c < width)[None, :]
    of_block, square = load_tile(means, at, inside), load_tile(squares, at, inside)
    count = tl.minimum(rows - block.to(tl.int64) * span, span).to(tl.float32)[:, None]
    of_all = tl.sum(of_block * (count / rows), 0)[None, :]
    between = tl.where(inside, count * (of_block - of_all) * (of_block - of_all), 0.0)
    tl.store(mean + c[None, :], of_all, mask=(c < width)[None, :])
    tl.store(var + c, tl.sum(square + between, 0) / rows, mask=c < width)


@triton.jit
def apply_kernel(
    x, shortcut, weight, bias, mean, var, y, rows, width, eps, SHORTCUT: tl.constexpr, R: tl.constexpr, C: tl.constexpr
):
    """``y = relu((x - mean) / deviation * weight + bias + shortcut)``. NaN stays NaN."""
    columns = tl.cdiv(width, C)
    first = tl.program_id(0) % columns * C
    at, inside = tile((tl.program_id(0) // columns).to(tl.int64) * R, rows, first, width, R, C)
    centre, _, scale, shift = load_norm(weight, bias, mean, var, first, width, eps, C)
    value = (load_tile(x, at, inside) - centre) * scale + shift
    if SHORTCUT:
        value += load_tile(shortcut, at, inside)
    tl.store(y + at, tl.where(value <= 0.0, 0.0, value).to(y.dtype.element_ty), mask=inside)


@triton.jit
def load_gradient(gradient, again, at, inside, TWICE: tl.constexpr):
    value = load_tile(gradient, at, inside)
    if TWICE:
        value += load_tile(again, at, inside)
    return value


@triton.jit
def sums_kernel(
    gradient, again, x, y, weight, bias, mean, var, left, totals, products, rows, width, span, eps,
    SHORTCUT: tl.constexpr, TWICE: tl.constexpr, R: tl.constexpr, C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Of ``span`` rows the sums of the gradient that ReLU leaves, and of that times the normalised ``x``.

    ``totals`` and ``products [blocks, width]``. With SHORTCUT what ReLU leaves is written to ``left``, like ``x``, too.
    """
    columns = tl.cdiv(width, C)
    block, first = tl.program_id(0) // columns, tl.program_id(0) % columns * C
    begin = block.to(tl.int64) * span
    end = tl.minimum(begin + span, rows)
    centre, inverse, scale, shift = load_norm(weight, bias, mean, var, first, width, eps, C)
    total, product = tl.zeros([R, C], tl.float32), tl.zeros([R, C], tl.float32)
    for start in tl.range(begin, end, R, num_stages=STAGES):
        at, inside = tile(start, end, first, width, R, C)
        value = load_gradient(gradient, again, at, inside, TWICE)
        if SHORTCUT:
            value = tl.where(load_tile(y, at, inside) <= 0.0, 0.0, value).to(left.dtype.element_ty)
            tl.store(left + at, value, mask=inside)
            value = value.to(tl.float32)
        centred = load_tile(x, at, inside) - centre
        if not SHORTCUT:
            value = tl.where(centred * scale + shift <= 0.0, 0.0, value)
        total += value
        product += value * centred
    c = first + tl.arange(0, C)
    tl.store(totals + block * width + c, tl.sum(total, 0), mask=c < width)
    tl.store(products + block * width + c[None, :], tl.sum(product, 0)[None, :] * inverse, mask=(c < width)[None, :])


@triton.jit
def input_kernel(
    gradient, again, x, weight, bias, mean, var, total, product, of_x, rows, width, eps,
    LEFT: tl.constexpr, GIVEN: tl.constexpr, TWICE: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """The gradient of ``x``. LEFT: ``gradient`` is what ReLU has left, else ReLU is asked again.

    ``total`` and ``product [width]`` are the sums over all rows. GIVEN: the statistics are numbers, and
    do not depend on ``x``.
    """
    columns = tl.cdiv(width, C)
    first = tl.program_id(0) % columns * C
    at, inside = tile((tl.program_id(0) // columns).to(tl.int64) * R, rows, first, width, R, C)
    centre, inverse, scale, shift = load_norm(weight, bias, mean, var, first, width, eps, C)
    value = load_gradient(gradient, again, at, inside, TWICE)
    centred = load_tile(x, at, inside) - centre
    if not LEFT:
        value = tl.where(centred * scale + shift <= 0.0, 0.0, value)
    if not GIVEN:
        of_mean = load_channels(total, first, width, C) / rows
        of_deviation = load_channels(product, first, width, C) / rows * inverse
        value -= of_mean + centred * of_deviation
    tl.store(of_x + at, (scale * value).to(of_x.dtype.element_ty), mask=inside)


def batch_norm_relu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    shortcut: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(y, mean, var)``.

    Args:
        x: ``[B, C, H, W]``, float32, bfloat16 or float16; copied unless it is channels-last.
        weight: ``[C]``, of any float dtype, as ``bias``.
        bias: ``[C]``.
        shortcut: like ``x``, or None.
        mean: ``[C]``, float32, and ``var`` as well: statistics to use; None for those of ``x``, the variance being that
            of all rows, not an estimate of what they are drawn from.
        var: ``[C]``.
        eps: added to the variance.
    """
    p = Plan(x)
    y = torch.empty_like(p.x)
    shortcut = None if shortcut is None else channels_last(shortcut)
    with on_device(x):
        if mean is None:
            moments = p.scratch()
            mean, var = (x.new_empty(p.width, dtype=torch.float32) for _ in range(2))
            moments_kernel[p.blocks * p.columns,](p.x, *moments, p.rows, p.width, p.span, **p.of_blocks)
            launch = configuration("batch_norm.merge", x.device)
            C = launch.pop("C")
            merge_kernel[triton.cdiv(p.width, C),](
                *(*moments, mean, var, p.blocks, p.rows, p.width, p.span),
                *(triton.next_power_of_2(p.blocks), C),
                **launch,
            )
        apply_kernel[p.tiles,](
            *(p.x, p.x if shortcut is None else shortcut, weight.contiguous(), bias.contiguous()),
            *(mean.contiguous(), var.contiguous(), y, p.rows, p.width, eps, shortcut is not None),
            **p.of_tiles,
        )
    return y, mean, var


def batch_norm_relu_backward(
    gradient: torch.Tensor,
    again: torch.Tensor | None,
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    eps: float,
    *,
    given: bool,
    shortcut: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Gradients of ``(x, weight, bias, shortcut)`` from what :func:`batch_norm_relu` got and returned.

    Args:
        gradient: of ``y``, like it; ``again`` is added to it where a second consumer has one.
        again: see ``gradient``.
        x: see :func:`batch_norm_relu`, as all that is not listed here.
        given: the statistics were arguments.
        shortcut: there was one.
    """
    p = Plan(x)
    gradient = channels_last(gradient)
    again = None if again is None else channels_last(again)
    norm = weight.contiguous(), bias.contiguous(), mean.contiguous(), var.contiguous()
    of_x, left = torch.empty_like(p.x), torch.empty_like(p.x) if shortcut else None
    with on_device(x):
        totals, products = p.scratch()
        of_blocks = p.of_blocks
        if shortcut and again is not None and x.element_size() > 2:  # four maps, more than shared memory may hold
            of_blocks = of_blocks | dict(R=max(1, of_blocks["R"] // 2))
        sums_kernel[p.blocks * p.columns,](
            *(gradient, gradient if again is None else again, p.x, channels_last(y) if shortcut else p.x, *norm),
            *(left if shortcut else p.x, totals, products, p.rows, p.width, p.span, eps, shortcut, again is not None),
            **of_blocks,
        )
        total, product = totals.sum(0), products.sum(0)
        if shortcut:
            gradient, again = left, None
        input_kernel[p.tiles,](
            *(gradient, gradient if again is None else again, p.x, *norm, total, product, of_x, p.rows, p.width),
            *(eps, shortcut, given, again is not None),
            **p.of_tiles,
        )
    return of_x, product.to(weight.dtype), total.to(bias.dtype), left


class Plan:
    """How the rows of a map are cut: into blocks of ``span`` rows, which programs walk, and into tiles."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = channels_last(x)
        self.width, self.rows = x.shape[1], x.shape[0] * x.shape[2] * x.shape[3]
        C = min(WIDEST, triton.next_power_of_2(self.width))
        self.columns = triton.cdiv(self.width, C)
        self.of_blocks, self.of_tiles = (configuration(f"batch_norm.{name}", x.device) for name in ("blocks", "tiles"))
        programs = self.of_blocks.pop("PROGRAMS")
        for launch in (self.of_blocks, self.of_tiles):
            launch |= dict(R=launch.pop("ELEMENTS") // C, C=C)
        self.of_blocks["STAGES"] = self.of_blocks.pop("num_stages")
        blocks = min(MOST_BLOCKS, triton.cdiv(programs, self.columns))
        self.span = triton.cdiv(triton.cdiv(self.rows, blocks), self.of_blocks["R"]) * self.of_blocks["R"]
        self.blocks = triton.cdiv(self.rows, self.span)
        self.tiles = triton.cdiv(self.rows, self.of_tiles["R"]) * self.columns

    def scratch(self) -> tuple[torch.Tensor, ...]:
        """Two numbers of each channel and block."""
        return self.x.new_empty(2, self.blocks, self.width, dtype=torch.float32).unbind()


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)
