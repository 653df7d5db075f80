"""Power mean, part prototypes and attention over the stripes of a feature map ``[B, D, H, W]``.

Source: docs/method.md, "Model".

A program is a stripe of an image and reads it once, a few whole cells at a time: their scores are then complete, and
the softmax and its weighted sum grow with them, rescaled whenever the largest score so far changes. ``gather_kernel``
makes the scores, the prototypes and the power sums of the stripe; ``attention_kernel`` lets one map be asked by the
queries of all three views of its batch position at once and writes own, pg1 and pg2 where they belong. Sums over
stripes are written apart and added in a fixed order. Cells are rows of a channels-last map; others are copied.

Estimates for an H100 at [432, 2048, 18, 9], from the machine code and 3.0 TB/s of copies, not measured: in bfloat16
``gather_kernel`` moves 308 MB in 0.10 ms with 3 blocks an SM and ``attention_kernel`` 315 MB in 0.10 ms with 2, in
float32 595 MB in 0.20 ms with 4 and 617 MB in 0.21 ms with 2. A block has 32 KB under way by cp.async, 16 bytes a copy.
Their 4 and 6 products an element and as many sums are 2.9 GFLOP in all; with the rest they issue instructions for 0.09
and 0.12 ms in bfloat16 (tests/kernels/counts.py): as long as they read.

Sums are float32, each over a few terms a lane, then a tree.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from .launch import configuration, on_device

MAX_WIDTH = 8192  # of a cell, which a program holds whole
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)
MOST_CELLS = 16  # of a tile
RUN = 64  # cells of a program where there are no stripes
MOST_RUNS = 2**16 - 1  # of an image: more does no second axis of a grid take
SCORES = tl.constexpr(64)  # of a stripe that are worked on at a time, once they are complete


@triton.jit
def load_tile(x, cell, inside, d, width):
    """Cells ``[C, D]`` of an image in float32, zero outside."""
    at = x + cell[:, None] * width + d[None, :]
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
def log_sigmoid(scores):
    return tl.minimum(scores, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(scores)))


@triton.jit
def absorb(tile, scores, top, mass, total):
    """Softmax as it grows: ``total`` and ``mass`` are the sums of cells and of ones times ``exp(score - top)``."""
    now = tl.maximum(top, tl.max(scores, 0))
    before, weight = tl.exp(top - now), tl.exp(scores - now)
    return now, mass * before + tl.sum(weight, 0), total * before + tl.sum(tile * weight[:, None], 0)


@triton.jit
def _finish_weights(scores, stripe, top, mass):
    """Scores of a stripe, which other threads have stored, become weights."""
    for start in range(0, stripe, SCORES):
        j = start + tl.arange(0, SCORES)
        score = tl.load(scores + j, mask=j < stripe, other=float("-inf"))
        tl.store(scores + j, tl.exp(score - top) / mass, mask=j < stripe)


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
    x, tokens, scores, prototypes, powers, cells, width, stripe, parts, TOKENS: tl.constexpr, POWER: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Scores, prototypes and power sums of a stripe; the last stripe's powers include the cells of no part.

    ``x [B, cells, D]`` is the map, ``tokens [P, D]`` of any float dtype; float32 are ``scores [B, P, T]``,
    ``prototypes`` and ``powers [B, P, D]``.
    """
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = image * parts + part
    x += image * cells * width
    begin = part * stripe
    end = tl.minimum(begin + stripe, cells)
    d = tl.arange(0, D)
    if TOKENS:
        token = load_row(tokens + part * width, d, width)
        top = LOWEST
        mass = 0.0
        prototype = tl.zeros([D], tl.float32)
    power = tl.zeros([D], tl.float32)
    for start in tl.range(begin, end, C, num_stages=STAGES):
        cell = start + tl.arange(0, C)
        tile = load_tile(x, cell, cell < end, d, width)
        if TOKENS:
            score = tl.sum(tile * token[None, :], 1)
            tl.store(scores + at * stripe + cell - begin, score, mask=cell < end)
            logit = tl.where(cell < end, log_sigmoid(score), float("-inf"))
            top, mass, prototype = absorb(tile, logit, top, mass, prototype)
        if POWER > 0:
            power += tl.sum(power_of(tile, POWER), 0)
    if TOKENS:
        tl.store(prototypes + at * width + d, prototype / mass, mask=d < width)
    if POWER > 0:
        for start in range(end, tl.where(part == parts - 1, cells, 0), C):
            cell = start + tl.arange(0, C)
            power += tl.sum(power_of(load_tile(x, cell, cell < cells, d, width), POWER), 0)
        tl.store(powers + at * width + d, power, mask=d < width)


@triton.jit
def attention_kernel(
    x, queries, weights, own, pg1, pg2, positions, cells, width, stripe, parts, scale, VIEWS: tl.constexpr,
    C: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Attention of every view's query over a stripe of one map.

    ``x [B, cells, D]`` is the map; ``queries [B, P, D]`` and ``weights [B, VIEWS, P, T]`` are float32; ``own``, ``pg1``
    and ``pg2 [B, P, D]`` of the dtype of ``x``. The images are VIEWS times ``positions``.
    """
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    view, position = image // positions, image % positions
    row, step = (position * parts + part) * width, positions * parts * width
    x += image * cells * width
    weights += (image * VIEWS * parts + part) * stripe
    next_view = parts * stripe
    begin = part * stripe
    d = tl.arange(0, D)
    first_query = load_row(queries + row, d, width) * scale
    first_top, first_mass, first = LOWEST, 0.0, tl.zeros([D], tl.float32)
    if VIEWS == 3:
        second_query = load_row(queries + row + step, d, width) * scale
        second_top, second_mass, second = LOWEST, 0.0, tl.zeros([D], tl.float32)
        third_query = load_row(queries + row + 2 * step, d, width) * scale
        third_top, third_mass, third = LOWEST, 0.0, tl.zeros([D], tl.float32)
    for start in tl.range(0, stripe, C, num_stages=STAGES):
        j = start + tl.arange(0, C)
        tile = load_tile(x, begin + j, j < stripe, d, width)
        score = _scores(tile, first_query, weights, j, stripe)
        first_top, first_mass, first = absorb(tile, score, first_top, first_mass, first)
        if VIEWS == 3:
            score = _scores(tile, second_query, weights + next_view, j, stripe)
            second_top, second_mass, second = absorb(tile, score, second_top, second_mass, second)
            score = _scores(tile, third_query, weights + 2 * next_view, j, stripe)
            third_top, third_mass, third = absorb(tile, score, third_top, third_mass, third)
    m, to = d < width, row + d
    _store_forms(own, pg1, pg2, to, first / first_mass, m, view, 0, VIEWS)
    if VIEWS == 3:
        _store_forms(own, pg1, pg2, to + step, second / second_mass, m, view, 1, VIEWS)
        _store_forms(own, pg1, pg2, to + 2 * step, third / third_mass, m, view, 2, VIEWS)
    tl.debug_barrier()
    _finish_weights(weights, stripe, first_top, first_mass)
    if VIEWS == 3:
        _finish_weights(weights + next_view, stripe, second_top, second_mass)
        _finish_weights(weights + 2 * next_view, stripe, third_top, third_mass)


@triton.jit
def _scores(tile, query, out, j, stripe):
    """Of the cells of a tile, stored as well, and -Inf outside."""
    score = tl.sum(tile * query[None, :], 1)
    tl.store(out + j, score, mask=j < stripe)
    return tl.where(j < stripe, score, float("-inf"))


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
        x: ``[B, D, H, W]``, float32, bfloat16 or float16; copied unless it is channels-last.
        parts: P; 0 for the power mean alone.
        tokens: ``[P, D]``: asks for ``scores [B, P, T]`` (T cells a stripe) and for ``queries [B, P, D]``, the
            prototypes; both float32.
        queries: ``[B, P, D]``, where they are not to be made from tokens.
        power: asks for ``means [B, D]`` of ``x ** power``, float32.
        attend: asks for ``weights [B, views, P, T]``, float32, of each view's query over the map's cells, and for
            ``forms``, ``views`` of ``[B, P, D]`` of the dtype of ``x``: own, pg1, pg2.
        views: 1, or 3: ``x`` is [v; a; r] and every map is asked by the three queries of its position.

    Raises:
        ValueError: a cell or an image is too large.
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
                *(p.x, *given(p.x, tokens, scores, queries), powers, p.cells, width, stripe, p.parts),
                *(tokens is not None, float(power or 0)),
                **p.launch,
            )
            means = powers.sum(1).div_(p.cells) if power is not None else None
        if attend:
            queries = queries.contiguous()
            weights = x.new_empty(batch, views, parts, stripe, dtype=torch.float32)
            forms = [x.new_empty(batch, parts, width) for _ in range(views)]
            attention_kernel[p.grid](
                *(p.x, queries, weights, *three(forms), batch // views, p.cells, width, stripe, parts),
                *(width**-0.5, views),
                **Plan(p.x, parts, "pooling_attention").launch,
            )
    return means, scores, queries, weights, forms


class Plan:
    """How a map is cut into programs: without parts, into runs of ``RUN`` cells or, of a very large map, more."""

    def __init__(self, x: torch.Tensor, parts: int, family: str = "pooling") -> None:
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.width, self.cells = x.shape[1], x.shape[2] * x.shape[3]
        self.stripe = self.cells // parts if parts else max(RUN, triton.cdiv(self.cells, MOST_RUNS))
        self.parts = parts or triton.cdiv(self.cells, self.stripe)
        if self.width > MAX_WIDTH:
            raise ValueError(f"x has {self.width} channels, Triton pooling takes at most {MAX_WIDTH}")
        if self.width * self.cells >= 2**31:
            raise ValueError(
                f"x has {self.width * self.cells} elements in an image, Triton pooling takes fewer than 2^31"
            )
        self.grid = len(x), self.parts
        self.launch = configuration(f"{family}.{'single' if x.dtype == torch.float32 else 'half'}", x.device)
        D = triton.next_power_of_2(self.width)
        C = max(1, min(self.launch.pop("ELEMENTS") // D, MOST_CELLS))
        self.launch |= dict(C=C, D=D, STAGES=self.launch.pop("num_stages"))


def given(placeholder: torch.Tensor, *arrays: torch.Tensor | None) -> list[torch.Tensor]:
    """A kernel does not touch what it is not asked for, but takes a pointer for it."""
    return [placeholder if a is None else a for a in arrays]


def three(forms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [*forms, *forms[:1] * (3 - len(forms))]
