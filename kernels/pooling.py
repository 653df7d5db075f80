"""Power mean, part prototypes and attention over the stripes of a feature map ``[B, D, H, W]``.

Source: docs/method.md, "Model".

A program is a stripe of an image. A stripe's softmax needs whole dot products of its cells, and its weighted sums need
the softmax, so a program goes over its stripe twice, in chunks of D: the second time backwards, so that it starts with
what the cache saw last. ``gather_kernel`` makes the scores, the prototypes and (on its second pass) the power sums of
the stripe; ``attention_kernel`` lets one map be asked by the queries of all three views of its batch position at once
and writes own, pg1 and pg2 where they belong. Sums over stripes are written apart and added in a fixed order.

Traffic: a stripe of 54 cells of 2048 is 221 KB in bfloat16 and 442 KB in float32, and an SM's share of an H200's L2 is
about 450 KB, so second passes should mostly be hits: then the map is read twice. The floor is one read: on an H200
0.13 ms for [432, 2048, 18, 9] in float32. About 8 multiply-adds an element: memory bound.

Sums are float32, each over a few dozen terms a lane, then a tree; softmax is float64. Tiles are 2048 or 4096 elements:
as many as spill no registers, not tuned by measurement yet.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from .launch import configuration, on_device

MAX_STRIPE = 1024  # cells of a stripe: one column of a tile


@triton.jit
def load_tile(x, cell, inside, d, width, cell_stride, width_stride):
    """Tile [cells, D] of an image in float32, zero outside."""
    at = x + cell[:, None] * cell_stride + d[None, :] * width_stride
    return tl.load(at, mask=inside[:, None] & (d < width)[None, :], other=0.0).to(tl.float32)


@triton.jit
def load_row(x, d, width):
    return tl.load(x + d, mask=d < width, other=0.0).to(tl.float32)


@triton.jit
def power_of(x, P: tl.constexpr):
    if P == 0:
        return tl.full(x.shape, 1.0, tl.float32)
    elif P == 1:
        return x
    elif P == 2:
        return x * x
    elif P == 3:
        return x * x * x
    else:
        return libdevice.pow(x, tl.full(x.shape, P, tl.float32))


@triton.jit
def softmax(scores, inside):
    """In float64, which costs nothing for so few numbers: a score's error is every weight's error."""
    scores = tl.where(inside, scores.to(tl.float64), float("-inf"))
    scores = tl.exp(scores - tl.max(scores, 0))
    return (scores / tl.sum(scores, 0)).to(tl.float32)


@triton.jit
def token_weights(scores, inside):
    """sigmoid(scores) over their sum, as the softmax of their logarithms: also where every sigmoid underflows."""
    scores = scores.to(tl.float64)
    return softmax(tl.minimum(scores, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(scores))), inside)


@triton.jit
def answers(view, VIEW: tl.constexpr, VIEWS: tl.constexpr):
    """Whether the map of view ``view`` answers ``VIEW`` in own, pg1 and pg2 (views v, a, r: 0, 1, 2)."""
    if VIEWS == 1:
        return True, False, False
    if VIEW == 0:
        return view == 0, view == 2, view == 1
    elif VIEW == 2:
        return view == 2, view == 0, view == 1
    else:
        return view == 1, view == 2, view == 0


@triton.jit
def _store_forms(own, pg1, pg2, at, value, inside, view, VIEW: tl.constexpr, VIEWS: tl.constexpr):
    to_own, to_pg1, to_pg2 = answers(view, VIEW, VIEWS)
    tl.store(own + at, value.to(own.dtype.element_ty), mask=inside & to_own)
    if VIEWS == 3:
        tl.store(pg1 + at, value.to(own.dtype.element_ty), mask=inside & to_pg1)
        tl.store(pg2 + at, value.to(own.dtype.element_ty), mask=inside & to_pg2)


@triton.jit
def gather_kernel(
    x, tokens, scores, prototypes, powers, image_stride, cell_stride, width_stride, cells, width, stripe, parts,
    TOKENS: tl.constexpr, POWER: tl.constexpr, T: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Scores, prototypes and power sums of a stripe.

    ``x`` is the map by its strides, ``tokens [P, D]`` of any float dtype; float32 are ``scores [B, P, T]``,
    ``prototypes`` and ``powers [B, P, D]``. TAIL bounds the cells of no part, which the last stripe's powers include.
    """
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = image * parts + part
    x += image * image_stride
    j = tl.arange(0, T)
    cell = part * stripe + j
    inside = (j < stripe) & (cell < cells)
    chunks = tl.cdiv(width, D)
    if TOKENS:
        products = tl.zeros((T, D), tl.float32)
        for n in tl.range(0, chunks, num_stages=3):
            d = n * D + tl.arange(0, D)
            tile = load_tile(x, cell, inside, d, width, cell_stride, width_stride)
            products += tile * load_row(tokens + part * width, d, width)[None, :]
        score = tl.sum(products.to(tl.float64), 1)
        tl.store(scores + at * stripe + j, score.to(tl.float32), mask=inside)
        weight = token_weights(score, inside)
    for n in tl.range(0, chunks, num_stages=3):
        d = (chunks - 1 - n) * D + tl.arange(0, D)
        tile = load_tile(x, cell, inside, d, width, cell_stride, width_stride)
        if TOKENS:
            tl.store(prototypes + at * width + d, tl.sum(tile * weight[:, None], 0), mask=d < width)
        if POWER > 0:
            total = tl.sum(power_of(tile, POWER), 0)
            if TAIL > 0:
                rest = parts * stripe + tl.arange(0, TAIL)
                tile = load_tile(x, rest, (rest < cells) & (part == parts - 1), d, width, cell_stride, width_stride)
                total += tl.sum(power_of(tile, POWER), 0)
            tl.store(powers + at * width + d, total, mask=d < width)


@triton.jit
def attention_kernel(
    x, queries, weights, own, pg1, pg2, image_stride, cell_stride, width_stride, positions, width, stripe, parts, scale,
    VIEWS: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Attention of every view's query over a stripe of one map.

    ``x`` is the map by its strides; ``queries [B, P, D]`` and ``weights [B, VIEWS, P, T]`` are float32; ``own``,
    ``pg1`` and ``pg2 [B, P, D]`` of the dtype of ``x``. The images are VIEWS times ``positions``.
    """
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    view, position = image // positions, image % positions
    row, step = (position * parts + part) * width, positions * parts * width
    x += image * image_stride
    j = tl.arange(0, T)
    cell, inside = part * stripe + j, j < stripe
    chunks = tl.cdiv(width, D)
    first = tl.zeros((T, D), tl.float32)
    if VIEWS == 3:
        second = tl.zeros((T, D), tl.float32)
        third = tl.zeros((T, D), tl.float32)
    for n in tl.range(0, chunks, num_stages=3):
        d = n * D + tl.arange(0, D)
        tile = load_tile(x, cell, inside, d, width, cell_stride, width_stride)
        first += tile * load_row(queries + row, d, width)[None, :]
        if VIEWS == 3:
            second += tile * load_row(queries + row + step, d, width)[None, :]
            third += tile * load_row(queries + row + 2 * step, d, width)[None, :]
    at = weights + (image * VIEWS * parts + part) * stripe + j
    first_weight = softmax(tl.sum(first.to(tl.float64), 1) * scale, inside)
    tl.store(at, first_weight, mask=inside)
    if VIEWS == 3:
        second_weight = softmax(tl.sum(second.to(tl.float64), 1) * scale, inside)
        third_weight = softmax(tl.sum(third.to(tl.float64), 1) * scale, inside)
        tl.store(at + parts * stripe, second_weight, mask=inside)
        tl.store(at + 2 * parts * stripe, third_weight, mask=inside)
    for n in tl.range(0, chunks, num_stages=3):
        d = (chunks - 1 - n) * D + tl.arange(0, D)
        tile = load_tile(x, cell, inside, d, width, cell_stride, width_stride)
        m, to = d < width, row + d
        _store_forms(own, pg1, pg2, to, tl.sum(tile * first_weight[:, None], 0), m, view, 0, VIEWS)
        if VIEWS == 3:
            found = tl.sum(tile * second_weight[:, None], 0)
            _store_forms(own, pg1, pg2, to + step, found, m, view, 1, VIEWS)
            found = tl.sum(tile * third_weight[:, None], 0)
            _store_forms(own, pg1, pg2, to + 2 * step, found, m, view, 2, VIEWS)


def pool_forward(
    x: torch.Tensor,
    parts: int = 0,
    *,
    tokens: torch.Tensor | None = None,
    queries: torch.Tensor | None = None,
    power: float | None = None,
    attend: bool = False,
    views: int = 1,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, list[torch.Tensor]]:
    """What is asked for of ``(means, scores, queries, weights, forms)``.

    Args:
        x: ``[B, D, H, W]``, float32, bfloat16 or float16, contiguous or channels-last (else it is copied).
        parts: P; 0 for the power mean alone.
        tokens: ``[P, D]``: asks for ``scores [B, P, T]`` (T cells a stripe) and for ``queries [B, P, D]``, the
            prototypes; both float32.
        queries: ``[B, P, D]``, where they are not to be made from tokens.
        power: asks for ``means [B, D]`` of ``x ** power``, float32.
        attend: asks for ``weights [B, views, P, T]``, float32, of each view's query over the map's cells, and for
            ``forms``, ``views`` of ``[B, P, D]`` of the dtype of ``x``: own, pg1, pg2.
        views: 1, or 3: ``x`` is [v; a; r] and every map is asked by the three queries of its position.

    Raises:
        ValueError: a stripe or an image is too large.
    """
    p = Plan(x, parts)
    batch, width, stripe = len(x), p.width, p.stripe
    means = scores = weights = None
    forms: list[torch.Tensor] = []
    tokens = None if tokens is None else tokens.contiguous()
    with on_device(x):
        if tokens is not None or power is not None:
            powers = x.new_empty(batch, p.parts, width, dtype=torch.float32) if power is not None else p.x
            if tokens is not None:
                scores = x.new_empty(batch, p.parts, stripe, dtype=torch.float32)
                queries = x.new_empty(batch, p.parts, width, dtype=torch.float32)
            gather_kernel[p.grid](
                *(p.x, *given(p.x, tokens, scores, queries), powers, *p.strides, p.cells, width, stripe, p.parts),
                *(tokens is not None, float(power or 0), p.T, p.tail, p.D),
                **p.launch,
            )
            means = powers.sum(1).div_(p.cells) if power is not None else None
        if attend:
            queries = queries.contiguous()
            weights = x.new_empty(batch, views, parts, stripe, dtype=torch.float32)
            forms = [x.new_empty(batch, parts, width) for _ in range(views)]
            attention_kernel[p.grid](
                *(p.x, queries, weights, *three(forms), *p.strides, batch // views, width, stripe, parts),
                *(width**-0.5, views, p.T, p.D),
                **p.launch,
            )
    return means, scores, queries, weights, forms


class Plan:
    """How a map is cut into programs: without parts, into runs of 64 cells."""

    def __init__(self, x: torch.Tensor, parts: int) -> None:
        last = x.is_contiguous(memory_format=torch.channels_last)
        self.x = x if last else x.contiguous()
        self.width, self.cells = x.shape[1], x.shape[2] * x.shape[3]
        self.parts, self.stripe = (parts, self.cells // parts) if parts else (triton.cdiv(self.cells, 64), 64)
        dropped = self.cells - self.parts * self.stripe
        self.strides = self.width * self.cells, self.width if last else 1, 1 if last else self.cells
        self.T, self.tail = triton.next_power_of_2(self.stripe), triton.next_power_of_2(dropped) if dropped > 0 else 0
        if max(self.T, self.tail) > MAX_STRIPE:
            raise ValueError(f"x has {self.stripe} cells in a stripe, Triton pooling takes at most {MAX_STRIPE}")
        if self.width * self.cells >= 2**31:
            raise ValueError(
                f"x has {self.width * self.cells} elements in an image, Triton pooling takes fewer than 2^31"
            )
        self.grid = len(x), self.parts
        # Channels-last maps in half precision can have wide tiles without spilling registers.
        wide = last and x.dtype != torch.float32
        self.launch = configuration("pooling.wide" if wide else "pooling.narrow", x.device)
        self.D = max(1, min(self.launch.pop("ELEMENTS") // self.T, triton.next_power_of_2(self.width)))


def given(placeholder: torch.Tensor, *arrays: torch.Tensor | None) -> list[torch.Tensor]:
    """A kernel does not touch what it is not asked for, but takes a pointer for it."""
    return [placeholder if a is None else a for a in arrays]


def three(forms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [*forms, *forms[:1] * (3 - len(forms))]
