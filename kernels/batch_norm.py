"""Batch norm, a shortcut and ReLU of a map ``[B, C, H, W]``, and their gradients, in as few passes as there can be.

Source: batch normalization (Ioffe and Szegedy, 2015); running moments and their merging: Chan, Golub and LeVeque, 1979.

The map is ``R = B·H·W`` rows of C channels, as channels-last memory has them; others are copied. A pass reads or writes
it once. Statistics take a pass (``moments_kernel``, whose blocks of rows ``merge_kernel`` puts together), what follows
from them two, or three with a shortcut (``apply_kernel``). The gradient is the same again: ``sums_kernel`` makes the
two sums of each channel and ``input_kernel`` the gradient from them. Which entries ReLU has kept is found from ``x``
where there is no shortcut, and from both maps where the shortcut has a norm, too: its own sums and gradient need that
map anyway. Where a shortcut has none it is read from the result, once: ``sums_kernel`` then writes the gradient that is
left, which is the shortcut's, for ``input_kernel`` to read. A result that two consumers have comes with two gradients,
which are added as they are read. Passes of a training step, against eager PyTorch's:

    ============================= ======= ======== ===== =====
    \\                             forward backward sum   eager
    ============================= ======= ======== ===== =====
    ReLU                          3       5        8     13
    shortcut, ReLU                4       7        11    16
    shortcut, ReLU, twice         4       8        12    19
    shortcut's norm, ReLU         5       8        13    24
    shortcut's norm, ReLU, twice  5       10       15    27
    ============================= ======= ======== ===== =====

torch.compile fuses PyTorch's own norms, too: 106 GB a step of stage two outside of convolutions and pooling (ResNet-50,
432 images, bfloat16), counted once by hand in what PyTorch 2.11 generates for an H100. With this operator it is some
88 GB, by the passes above and what is generated around them. The norms of shortcuts have 6 GB of the difference: they
follow convolutions to the maps ``[432, 256, 72, 36]``, ``[432, 512, 36, 18]``, ``[432, 1024, 18, 9]`` and
``[432, 2048, 18, 9]``, 1.29 GB together; with an operator of their own (3 forward, 5 backward, beside the 12 of the
row above) they take five passes more.

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
    """Mean and variance ``[width]`` of all rows, from what :func:`moments_kernel` found in up to S blocks."""
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
    x, weight, bias, mean, var, shortcut, shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var, y, rows, width,
    eps, SHORTCUT: tl.constexpr, NORMED: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """``y = relu((x - mean) / deviation * weight + bias + shortcut)``. NaN stays NaN.

    NORMED: the shortcut is normalised first; else SHORTCUT: it is added as it is.
    """
    columns = tl.cdiv(width, C)
    first = tl.program_id(0) % columns * C
    at, inside = tile((tl.program_id(0) // columns).to(tl.int64) * R, rows, first, width, R, C)
    centre, _, scale, shift = load_norm(weight, bias, mean, var, first, width, eps, C)
    value = (load_tile(x, at, inside) - centre) * scale + shift
    if NORMED:
        centre, _, scale, shift = load_norm(
            shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var, first, width, eps, C
        )
        value += (load_tile(shortcut, at, inside) - centre) * scale + shift
    elif SHORTCUT:
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
    gradient, again, x, weight, bias, mean, var, shortcut, shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var,
    y, left, totals, products, other_products, rows, width, span, eps,
    SHORTCUT: tl.constexpr, NORMED: tl.constexpr, TWICE: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Sums over ``span`` rows: of the gradient that ReLU leaves, and of that times the normalised ``x``.

    They go to ``totals`` and ``products [blocks, width]``. SHORTCUT: there is one without a norm, and what ReLU leaves
    is also written to ``left``, which is like ``x``. NORMED: there is one with a norm, and the sums of what ReLU leaves
    times the normalised shortcut go to ``other_products``.
    """
    columns = tl.cdiv(width, C)
    block, first = tl.program_id(0) // columns, tl.program_id(0) % columns * C
    begin = block.to(tl.int64) * span
    end = tl.minimum(begin + span, rows)
    centre, inverse, scale, shift = load_norm(weight, bias, mean, var, first, width, eps, C)
    total, product = tl.zeros([R, C], tl.float32), tl.zeros([R, C], tl.float32)
    if NORMED:
        other_centre, other_inverse, other_scale, other_shift = load_norm(
            shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var, first, width, eps, C
        )
        other_product = tl.zeros([R, C], tl.float32)
    for start in tl.range(begin, end, R, num_stages=STAGES):
        at, inside = tile(start, end, first, width, R, C)
        value = load_gradient(gradient, again, at, inside, TWICE)
        if SHORTCUT:
            value = tl.where(load_tile(y, at, inside) <= 0.0, 0.0, value).to(left.dtype.element_ty)
            tl.store(left + at, value, mask=inside)
            value = value.to(tl.float32)
        centred = load_tile(x, at, inside) - centre
        if not SHORTCUT:
            kept = centred * scale + shift
            if NORMED:
                other_centred = load_tile(shortcut, at, inside) - other_centre
                kept += other_centred * other_scale + other_shift
            value = tl.where(kept <= 0.0, 0.0, value)
            if NORMED:
                other_product += value * other_centred
        total += value
        product += value * centred
    c = block * width + first + tl.arange(0, C)
    inside = first + tl.arange(0, C) < width
    tl.store(totals + c, tl.sum(total, 0), mask=inside)
    tl.store(products + c[None, :], tl.sum(product, 0)[None, :] * inverse, mask=inside[None, :])
    if NORMED:
        tl.store(other_products + c[None, :], tl.sum(other_product, 0)[None, :] * other_inverse, mask=inside[None, :])


@triton.jit
def through_norm(
    value, centred, inverse, scale, total, product, first, width, rows, GIVEN: tl.constexpr, C: tl.constexpr
):
    """The gradient of a map, given ``value``, that of its norm's result."""
    if not GIVEN:
        of_mean = load_channels(total, first, width, C) / rows
        of_deviation = load_channels(product, first, width, C) / rows * inverse
        value -= of_mean + centred * of_deviation
    return scale * value


@triton.jit
def input_kernel(
    gradient, again, x, weight, bias, mean, var, shortcut, shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var,
    total, product, other_product, of_x, of_shortcut, rows, width, eps,
    LEFT: tl.constexpr, NORMED: tl.constexpr, GIVEN: tl.constexpr, TWICE: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """The gradient of ``x``, and with NORMED of the shortcut.

    ``total``, ``product`` and ``other_product [width]`` are the sums over all rows. LEFT: ``gradient`` is already what
    ReLU leaves; else that is found from the maps again. GIVEN: the statistics are constants that do not depend on
    ``x``.
    """
    columns = tl.cdiv(width, C)
    first = tl.program_id(0) % columns * C
    at, inside = tile((tl.program_id(0) // columns).to(tl.int64) * R, rows, first, width, R, C)
    centre, inverse, scale, shift = load_norm(weight, bias, mean, var, first, width, eps, C)
    value = load_gradient(gradient, again, at, inside, TWICE)
    centred = load_tile(x, at, inside) - centre
    if not LEFT:
        kept = centred * scale + shift
        if NORMED:
            other_centre, other_inverse, other_scale, other_shift = load_norm(
                shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var, first, width, eps, C
            )
            other_centred = load_tile(shortcut, at, inside) - other_centre
            kept += other_centred * other_scale + other_shift
        value = tl.where(kept <= 0.0, 0.0, value)
    if NORMED:
        sent = through_norm(
            value, other_centred, other_inverse, other_scale, total, other_product, first, width, rows, GIVEN, C
        )
        tl.store(of_shortcut + at, sent.to(of_x.dtype.element_ty), mask=inside)
    sent = through_norm(value, centred, inverse, scale, total, product, first, width, rows, GIVEN, C)
    tl.store(of_x + at, sent.to(of_x.dtype.element_ty), mask=inside)


def batch_norm_relu(
    maps: list[torch.Tensor],
    parameters: list[torch.Tensor],
    shortcut: torch.Tensor | None,
    statistics: list[torch.Tensor],
    eps: float,
) -> tuple[torch.Tensor, ...]:
    """``(y, mean, var)``, and with a norm of the shortcut its mean and variance, too.

    Args:
        maps: those that have a norm: ``[x]``, or ``[x, shortcut]``. ``[B, C, H, W]``, float32, bfloat16 or float16;
            copied unless they are channels-last.
        parameters: weight and bias of each of these, ``[C]``, of any float dtype.
        shortcut: one without a norm, like ``x``, or None.
        statistics: mean and variance of each, ``[C]``, float32, to use; none for those of the maps, the variance being
            that of all rows, not an estimate of what they are drawn from.
        eps: added to the variances.
    """
    p = Plan(maps[0])
    maps = [channels_last(x) for x in maps]
    shortcut = None if shortcut is None else channels_last(shortcut)
    y = torch.empty_like(maps[0])
    with on_device(y):
        statistics = statistics or [found for x in maps for found in moments(p, x)]
        first, *others = norms(maps, parameters, statistics)
        apply_kernel[p.tiles,](
            *(*first, *(others[0] if others else (maps[0] if shortcut is None else shortcut, *first[1:]))),
            *(y, p.rows, p.width, eps, shortcut is not None, bool(others)),
            **p.of_tiles,
        )
    return y, *statistics


def batch_norm_relu_backward(
    gradient: torch.Tensor,
    again: torch.Tensor | None,
    maps: list[torch.Tensor],
    parameters: list[torch.Tensor],
    statistics: list[torch.Tensor],
    y: torch.Tensor,
    eps: float,
    *,
    given: bool,
    shortcut: bool,
) -> list[torch.Tensor]:
    """Gradients of ``maps``, ``parameters`` and a shortcut from what :func:`batch_norm_relu` got and returned.

    Args:
        gradient: of ``y``, like it; ``again`` is added to it where a second consumer has one.
        again: see ``gradient``.
        maps: as :func:`batch_norm_relu` got them; so is all that is not listed here.
        given: the statistics were arguments.
        shortcut: there was one without a norm.
    """
    p = Plan(maps[0])
    maps, gradient = [channels_last(x) for x in maps], channels_last(gradient)
    again = None if again is None else channels_last(again)
    first, *others = norms(maps, parameters, statistics)
    normed, of_maps = bool(others), [torch.empty_like(x) for x in maps]
    both = *first, *(others[0] if normed else first)
    left = [torch.empty_like(maps[0])] if shortcut else []
    with on_device(gradient):
        sums, of_blocks = p.scratch(3 if normed else 2), p.of_blocks
        # four maps under way are more than shared memory may hold in float32, three sums more than there are registers
        if normed or (shortcut and again is not None and y.element_size() > 2):
            of_blocks = of_blocks | dict(R=max(1, of_blocks["R"] // 2))
        sums_kernel[p.blocks * p.columns,](
            *(gradient, gradient if again is None else again, *both),
            *((channels_last(y), left[0]) if shortcut else (maps[0], maps[0])),
            *(*sums[:2], sums[-1], p.rows, p.width, p.span, eps, shortcut, normed, again is not None),
            **of_blocks,
        )
        total, *products = (x.sum(0) for x in sums)
        if shortcut:
            gradient, again = left[0], None
        input_kernel[p.tiles,](
            *(gradient, gradient if again is None else again, *both, total, products[0], products[-1]),
            *(of_maps[0], of_maps[-1], p.rows, p.width, eps, shortcut, normed, given, again is not None),
            **p.of_tiles,
        )
    found = [products[0], total, *([products[1], total.clone()] if normed else [])]
    return [*of_maps, *(x.to(y.dtype) for x, y in zip(found, parameters, strict=True)), *left]


def moments(p: "Plan", x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of a map."""
    parts = p.scratch(2)
    mean, var = (x.new_empty(p.width, dtype=torch.float32) for _ in range(2))
    moments_kernel[p.blocks * p.columns,](x, *parts, p.rows, p.width, p.span, **p.of_blocks)
    launch = configuration("batch_norm.merge", x.device)
    C = launch.pop("C")
    merge_kernel[triton.cdiv(p.width, C),](
        *(*parts, mean, var, p.blocks, p.rows, p.width, p.span, triton.next_power_of_2(p.blocks), C), **launch
    )
    return mean, var


def norms(
    maps: list[torch.Tensor], parameters: list[torch.Tensor], statistics: list[torch.Tensor]
) -> list[tuple[torch.Tensor, ...]]:
    """Of each map ``(map, weight, bias, mean, var)``."""
    of_maps = [[y.contiguous() for y in (*parameters[n : n + 2], *statistics[n : n + 2])] for n in (0, 2)]
    return [(x, *of_map) for x, of_map in zip(maps, of_maps, strict=False)]


class Plan:
    """How the rows of a map are cut: into blocks of ``span`` rows, each walked by programs, and into tiles."""

    def __init__(self, x: torch.Tensor) -> None:
        self.device, self.width, self.rows = x.device, x.shape[1], x.shape[0] * x.shape[2] * x.shape[3]
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

    def scratch(self, count: int) -> tuple[torch.Tensor, ...]:
        """So many numbers of each channel and block."""
        return torch.empty(count, self.blocks, self.width, dtype=torch.float32, device=self.device).unbind()


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)
