"""Gradients of the pooling in ``pooling.py``, for the map, the tokens and the queries.

``attention_backward_kernel`` finds, for a stripe of a map, the gradients of the scores of the three queries that asked
it and what it sends back to each query. ``spread_kernel`` adds up everything that reaches a cell - through attention,
through the prototypes and through the power mean - and writes the map's gradient once, and the token gradient of its
stripe. As forward, each goes over its stripe twice, the second time backwards. Sums over images and maps are written
apart and added in a fixed order: no atomics. Cells that belong to no part get the power mean's gradient, or zero.

Traffic, where second passes hit the cache: the map is read twice and its gradient written once. The floor is one read
and one write: with the forward pass 0.40 ms on an H200 for [432, 2048, 18, 9] in float32. About 16 multiply-adds an
element: memory bound.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .pooling import WARPS, Plan, answers, given, load_row, load_tile, power_of, three, token_weights


@triton.jit
def load_forms(own, pg1, pg2, at, inside, asked, VIEW: tl.constexpr, VIEWS: tl.constexpr, QUIRK: tl.constexpr):
    of_own, of_pg1, of_pg2 = answers(asked, VIEW, VIEWS, QUIRK)
    found = tl.load(own + at, mask=inside & of_own, other=0.0).to(tl.float32)
    if VIEWS == 3:
        found += tl.load(pg1 + at, mask=inside & of_pg1, other=0.0).to(tl.float32)
        found += tl.load(pg2 + at, mask=inside & of_pg2, other=0.0).to(tl.float32)
    return found


@triton.jit
def softmax_backward(weights, gradient):
    """Gradient of softmax's input from its output's, which is float64."""
    weights = weights.to(tl.float64)
    return (weights * (gradient - tl.sum(weights * gradient, 0) / tl.sum(weights, 0))).to(tl.float32)


@triton.jit
def token_backward(weights, gradient, scores):
    """Gradient of the scores from that of the token weights: softmax_backward times sigmoid(-scores)."""
    e = tl.exp(-tl.abs(scores.to(tl.float64)))
    return (softmax_backward(weights, gradient).to(tl.float64) * tl.where(scores > 0, e, 1.0) / (1.0 + e)).to(
        tl.float32
    )


@triton.jit
def attention_backward_kernel(
    x, weights, own, pg1, pg2, sent, asking, image_stride, cell_stride, width_stride, positions, width, stripe, parts,
    scale, VIEWS: tl.constexpr, QUIRK: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    asked, position = image // positions, image % positions
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
        m, at = d < width, row + d
        first += tile * load_forms(own, pg1, pg2, at, m, asked, 0, VIEWS, QUIRK)[None, :]
        if VIEWS == 3:
            second += tile * load_forms(own, pg1, pg2, at + step, m, asked, 1, VIEWS, QUIRK)[None, :]
            third += tile * load_forms(own, pg1, pg2, at + 2 * step, m, asked, 2, VIEWS, QUIRK)[None, :]
    at = (image * VIEWS * parts + part) * stripe + j
    next_view = parts * stripe
    first_weight = tl.load(weights + at, mask=inside, other=0.0)
    first_sent = softmax_backward(first_weight, tl.sum(first.to(tl.float64), 1)) * scale
    tl.store(sent + at, first_sent, mask=inside)
    if VIEWS == 3:
        second_weight = tl.load(weights + at + next_view, mask=inside, other=0.0)
        second_sent = softmax_backward(second_weight, tl.sum(second.to(tl.float64), 1)) * scale
        tl.store(sent + at + next_view, second_sent, mask=inside)
        third_weight = tl.load(weights + at + 2 * next_view, mask=inside, other=0.0)
        third_sent = softmax_backward(third_weight, tl.sum(third.to(tl.float64), 1)) * scale
        tl.store(sent + at + 2 * next_view, third_sent, mask=inside)
    asking += (image * VIEWS * parts + part) * width
    for n in tl.range(0, chunks, num_stages=3):
        d = (chunks - 1 - n) * D + tl.arange(0, D)
        tile = load_tile(x, cell, inside, d, width, cell_stride, width_stride)
        tl.store(asking + d, tl.sum(tile * first_sent[:, None], 0), mask=d < width)
        if VIEWS == 3:
            tl.store(asking + parts * width + d, tl.sum(tile * second_sent[:, None], 0), mask=d < width)
            tl.store(asking + 2 * parts * width + d, tl.sum(tile * third_sent[:, None], 0), mask=d < width)


@triton.jit
def _query_gradient(asking, d, position, asked, positions, part, width, parts, VIEWS: tl.constexpr):
    """What the maps that the query of view ``asked`` asked sent back to it, added in the order of the maps."""
    at = ((position * VIEWS + asked) * parts + part) * width
    found = load_row(asking + at, d, width)
    if VIEWS == 3:
        step = positions * VIEWS * parts * width
        found += load_row(asking + at + step, d, width)
        found += load_row(asking + at + 2 * step, d, width)
    return found


@triton.jit
def _attention_to_cells(
    own, pg1, pg2, queries, weight, sent, row, d, width, asked, VIEW: tl.constexpr, VIEWS: tl.constexpr,
    QUIRK: tl.constexpr,
):  # fmt: skip
    value = load_forms(own, pg1, pg2, row + d, d < width, asked, VIEW, VIEWS, QUIRK)
    return weight[:, None] * value[None, :] + sent[:, None] * load_row(queries + row, d, width)[None, :]


@triton.jit
def spread_kernel(
    x, tokens, scores, queries, weights, own, pg1, pg2, sent, asking, power_gradient, gradient, token_gradient,
    image_stride, cell_stride, width_stride, positions, cells, width, stripe, parts,
    ATTEND: tl.constexpr, TOKENS: tl.constexpr, POWER: tl.constexpr, VIEWS: tl.constexpr, QUIRK: tl.constexpr,
    T: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    asked, position = image // positions, image % positions
    row, step = (position * parts + part) * width, positions * parts * width
    x += image * image_stride
    gradient += image * image_stride
    j = tl.arange(0, T)
    cell = part * stripe + j
    inside = (j < stripe) & (cell < cells)
    chunks = tl.cdiv(width, D)
    if TOKENS:
        products = tl.zeros((T, D), tl.float32)
        for n in tl.range(0, chunks, num_stages=3):
            d = n * D + tl.arange(0, D)
            tile = load_tile(x, cell, inside, d, width, cell_stride, width_stride)
            products += (
                tile * _query_gradient(asking, d, position, asked, positions, part, width, parts, VIEWS)[None, :]
            )
        score = tl.load(scores + (image * parts + part) * stripe + j, mask=inside, other=0.0)
        token_weight = token_weights(score, inside)
        token_sent = token_backward(token_weight, tl.sum(products.to(tl.float64), 1), score)
    if ATTEND:
        at = (image * VIEWS * parts + part) * stripe + j
        next_view = parts * stripe
        first_weight = tl.load(weights + at, mask=inside, other=0.0)
        first_sent = tl.load(sent + at, mask=inside, other=0.0)
        if VIEWS == 3:
            second_weight = tl.load(weights + at + next_view, mask=inside, other=0.0)
            second_sent = tl.load(sent + at + next_view, mask=inside, other=0.0)
            third_weight = tl.load(weights + at + 2 * next_view, mask=inside, other=0.0)
            third_sent = tl.load(sent + at + 2 * next_view, mask=inside, other=0.0)
    for n in tl.range(0, chunks):
        d = (chunks - 1 - n) * D + tl.arange(0, D)
        total = tl.zeros((T, D), tl.float32)
        if TOKENS or POWER > 0:
            tile = load_tile(x, cell, inside, d, width, cell_stride, width_stride)
        if POWER > 0:
            factor = load_row(power_gradient + image * width, d, width)[None, :]
            total += factor * power_of(tile, POWER - 1)
        if TOKENS:
            found = tl.sum(tile * token_sent[:, None], 0)
            tl.store(token_gradient + (image * parts + part) * width + d, found, mask=d < width)
            found = _query_gradient(asking, d, position, asked, positions, part, width, parts, VIEWS)
            total += token_weight[:, None] * found[None, :]
            total += token_sent[:, None] * load_row(tokens + part * width, d, width)[None, :]
        if ATTEND:
            total += _attention_to_cells(
                own, pg1, pg2, queries, first_weight, first_sent, row, d, width, asked, 0, VIEWS, QUIRK
            )
            if VIEWS == 3:
                total += _attention_to_cells(
                    own, pg1, pg2, queries, second_weight, second_sent, row + step, d, width, asked, 1, VIEWS, QUIRK
                )
                total += _attention_to_cells(
                    own, pg1, pg2, queries, third_weight, third_sent, row + 2 * step, d, width, asked, 2, VIEWS, QUIRK
                )
        to = gradient + cell[:, None] * cell_stride + d[None, :] * width_stride
        tl.store(to, total.to(gradient.dtype.element_ty), mask=inside[:, None] & (d < width)[None, :])
        if TAIL > 0:
            rest = parts * stripe + tl.arange(0, TAIL)
            dropped = (rest < cells) & (part == parts - 1)
            alone = tl.zeros((TAIL, D), tl.float32)
            if POWER > 0:
                dropped_tile = load_tile(x, rest, dropped, d, width, cell_stride, width_stride)
                alone += factor * power_of(dropped_tile, POWER - 1)
            to_rest = gradient + rest[:, None] * cell_stride + d[None, :] * width_stride
            tl.store(to_rest, alone.to(gradient.dtype.element_ty), mask=dropped[:, None] & (d < width)[None, :])


def pool_backward(
    x: torch.Tensor,
    parts: int = 0,
    *,
    tokens: torch.Tensor | None = None,
    scores: torch.Tensor | None = None,
    queries: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    form_gradients: Sequence[torch.Tensor] = (),
    query_gradient: torch.Tensor | None = None,
    mean_gradient: torch.Tensor | None = None,
    power: float | None = None,
    views: int = 1,
    authors_pg1: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of ``(x, tokens, queries)``, where asked for, from what :func:`pool_forward` got and returned.

    ``query_gradient`` is that of the prototypes where nothing attended; the gradient of ``queries`` is float32.
    """
    p = Plan(x, parts)
    batch, width, stripe = len(x), p.width, p.stripe
    gradient = torch.empty_like(p.x)
    token_parts = None if tokens is None else x.new_empty(batch, p.parts, width, dtype=torch.float32)
    tokens = None if tokens is None else tokens.contiguous()
    asking = None if query_gradient is None else query_gradient.contiguous()
    sent, forms = None, [g.contiguous() for g in form_gradients]
    common = (batch // views, width, stripe, p.parts)
    with p.device:
        if weights is not None:
            queries, sent = queries.contiguous(), torch.empty_like(weights)
            asking = x.new_empty(batch, views, parts, width, dtype=torch.float32)
            attention_backward_kernel[p.grid](
                *(p.x, weights, *three(forms), sent, asking, *p.strides, *common),
                *(width**-0.5, views, authors_pg1, p.T, p.D),
                num_warps=WARPS,
            )
        factor = None if mean_gradient is None else mean_gradient * (power / p.cells)
        own, pg1, pg2 = three(forms) if forms else (None, None, None)
        arrays = tokens, scores, queries, weights, own, pg1, pg2, sent, asking, factor, gradient, token_parts
        spread_kernel[p.grid](
            *(p.x, *given(p.x, *arrays), *p.strides, common[0], p.cells, *common[1:]),
            *(weights is not None, tokens is not None, float(power) if factor is not None else 0.0),
            *(views, authors_pg1, p.T, p.tail, p.D),
            num_warps=WARPS,
        )
    token_gradient = None if tokens is None else token_parts.sum(0).to(tokens.dtype)
    return gradient, token_gradient, asking.view(batch, parts, width) if weights is not None and views == 1 else None
