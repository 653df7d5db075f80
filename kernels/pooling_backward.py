"""Gradients of the pooling in ``pooling.py``, for the map, the tokens and the queries.

``attention_backward_kernel`` finds, for a stripe of a map, the gradients of the scores of the three queries that
attend to it, and its share of the gradient of each query. ``spread_kernel`` adds up everything that reaches a cell -
through attention, through the prototypes and through the power mean - and writes the map's gradient once, and the token
gradient of its stripe. As forward, each goes over its stripe twice, the second time backwards. Sums over images and
maps are written apart and added in a fixed order: no atomics. Cells that belong to no part get the power mean's
gradient, or zero.

Traffic, where second passes hit the cache: the map is read twice and its gradient written once. The floor is one read
and one write: with the forward pass 0.40 ms on an H200 for [432, 2048, 18, 9] in float32. About 16 multiply-adds an
element: memory bound.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .launch import on_device
from .pooling import Plan, answers, given, load_row, load_tile, power_of, three, token_weights


@triton.jit
def load_forms(own, pg1, pg2, at, inside, view, VIEW: tl.constexpr, VIEWS: tl.constexpr):
    of_own, of_pg1, of_pg2 = answers(view, VIEW, VIEWS)
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
    x, weights, own, pg1, pg2, score_gradients, query_gradients, image_stride, cell_stride, width_stride, positions,
    width, stripe, parts, scale, VIEWS: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Gradients of the attention's scores and queries, of a stripe of one map.

    ``own``, ``pg1`` and ``pg2 [B, P, D]`` are the gradients of the three forms, of the dtype of ``x``; float32 are
    ``weights`` and ``score_gradients [B, VIEWS, P, T]`` and ``query_gradients [B, VIEWS, P, D]`` (by map, then query).
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
        m, at = d < width, row + d
        first += tile * load_forms(own, pg1, pg2, at, m, view, 0, VIEWS)[None, :]
        if VIEWS == 3:
            second += tile * load_forms(own, pg1, pg2, at + step, m, view, 1, VIEWS)[None, :]
            third += tile * load_forms(own, pg1, pg2, at + 2 * step, m, view, 2, VIEWS)[None, :]
    at = (image * VIEWS * parts + part) * stripe + j
    next_view = parts * stripe
    first_weight = tl.load(weights + at, mask=inside, other=0.0)
    first_gradient = softmax_backward(first_weight, tl.sum(first.to(tl.float64), 1)) * scale
    tl.store(score_gradients + at, first_gradient, mask=inside)
    if VIEWS == 3:
        second_weight = tl.load(weights + at + next_view, mask=inside, other=0.0)
        second_gradient = softmax_backward(second_weight, tl.sum(second.to(tl.float64), 1)) * scale
        tl.store(score_gradients + at + next_view, second_gradient, mask=inside)
        third_weight = tl.load(weights + at + 2 * next_view, mask=inside, other=0.0)
        third_gradient = softmax_backward(third_weight, tl.sum(third.to(tl.float64), 1)) * scale
        tl.store(score_gradients + at + 2 * next_view, third_gradient, mask=inside)
    query_gradients += (image * VIEWS * parts + part) * width
    for n in tl.range(0, chunks, num_stages=3):
        d = (chunks - 1 - n) * D + tl.arange(0, D)
        tile = load_tile(x, cell, inside, d, width, cell_stride, width_stride)
        tl.store(query_gradients + d, tl.sum(tile * first_gradient[:, None], 0), mask=d < width)
        if VIEWS == 3:
            tl.store(query_gradients + parts * width + d, tl.sum(tile * second_gradient[:, None], 0), mask=d < width)
            tl.store(query_gradients + 2 * parts * width + d, tl.sum(tile * third_gradient[:, None], 0), mask=d < width)


@triton.jit
def _query_gradient(query_gradients, d, position, view, positions, part, width, parts, VIEWS: tl.constexpr):
    """Gradient of the query of view ``view`` from every map that it attended to, added in the order of the maps."""
    at = ((position * VIEWS + view) * parts + part) * width
    found = load_row(query_gradients + at, d, width)
    if VIEWS == 3:
        step = positions * VIEWS * parts * width
        found += load_row(query_gradients + at + step, d, width)
        found += load_row(query_gradients + at + 2 * step, d, width)
    return found


@triton.jit
def _attention_to_cells(
    own, pg1, pg2, queries, weight, score_gradients, row, d, width, view, VIEW: tl.constexpr, VIEWS: tl.constexpr,
):  # fmt: skip
    value = load_forms(own, pg1, pg2, row + d, d < width, view, VIEW, VIEWS)
    return weight[:, None] * value[None, :] + score_gradients[:, None] * load_row(queries + row, d, width)[None, :]


@triton.jit
def spread_kernel(
    x, tokens, scores, queries, weights, own, pg1, pg2, score_gradients, query_gradients, power_gradient, gradient,
    token_gradient, image_stride, cell_stride, width_stride, positions, cells, width, stripe, parts,
    ATTEND: tl.constexpr, TOKENS: tl.constexpr, POWER: tl.constexpr, VIEWS: tl.constexpr,
    T: tl.constexpr, TAIL: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """The map's gradient, and a stripe's share of the tokens'.

    As in :func:`attention_backward_kernel`; besides ``scores [B, P, T]``, ``queries`` and ``token_gradient [B, P, D]``
    and ``power_gradient [B, D]`` (of the power sums) float32, ``tokens [P, D]``, and ``gradient`` like the map ``x``.
    Without ATTEND ``query_gradients`` are those of the prototypes, ``[B, P, D]``.
    """
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    view, position = image // positions, image % positions
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
                tile
                * _query_gradient(query_gradients, d, position, view, positions, part, width, parts, VIEWS)[None, :]
            )
        score = tl.load(scores + (image * parts + part) * stripe + j, mask=inside, other=0.0)
        token_weight = token_weights(score, inside)
        score_gradient = token_backward(token_weight, tl.sum(products.to(tl.float64), 1), score)
    if ATTEND:
        at = (image * VIEWS * parts + part) * stripe + j
        next_view = parts * stripe
        first_weight = tl.load(weights + at, mask=inside, other=0.0)
        first_gradient = tl.load(score_gradients + at, mask=inside, other=0.0)
        if VIEWS == 3:
            second_weight = tl.load(weights + at + next_view, mask=inside, other=0.0)
            second_gradient = tl.load(score_gradients + at + next_view, mask=inside, other=0.0)
            third_weight = tl.load(weights + at + 2 * next_view, mask=inside, other=0.0)
            third_gradient = tl.load(score_gradients + at + 2 * next_view, mask=inside, other=0.0)
    for n in tl.range(0, chunks):
        d = (chunks - 1 - n) * D + tl.arange(0, D)
        total = tl.zeros((T, D), tl.float32)
        if TOKENS or POWER > 0:
            tile = load_tile(x, cell, inside, d, width, cell_stride, width_stride)
        if POWER > 0:
            factor = load_row(power_gradient + image * width, d, width)[None, :]
            total += factor * power_of(tile, POWER - 1)
        if TOKENS:
            found = tl.sum(tile * score_gradient[:, None], 0)
            tl.store(token_gradient + (image * parts + part) * width + d, found, mask=d < width)
            found = _query_gradient(query_gradients, d, position, view, positions, part, width, parts, VIEWS)
            total += token_weight[:, None] * found[None, :]
            total += score_gradient[:, None] * load_row(tokens + part * width, d, width)[None, :]
        if ATTEND:
            total += _attention_to_cells(
                own, pg1, pg2, queries, first_weight, first_gradient, row, d, width, view, 0, VIEWS
            )
            if VIEWS == 3:
                total += _attention_to_cells(
                    own,
                    pg1,
                    pg2,
                    queries,
                    second_weight,
                    second_gradient,
                    row + step,
                    d,
                    width,
                    view,
                    1,
                    VIEWS,
                )
                total += _attention_to_cells(
                    own,
                    pg1,
                    pg2,
                    queries,
                    third_weight,
                    third_gradient,
                    row + 2 * step,
                    d,
                    width,
                    view,
                    2,
                    VIEWS,
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
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of ``(x, tokens, queries)``, where asked for, from what :func:`pool_forward` got and returned.

    ``query_gradient [B, P, D]`` is that of the prototypes themselves; the gradient of ``queries`` is float32.
    """
    p = Plan(x, parts)
    batch, width, stripe = len(x), p.width, p.stripe
    gradient = torch.empty_like(p.x)
    token_parts = None if tokens is None else x.new_empty(batch, p.parts, width, dtype=torch.float32)
    tokens = None if tokens is None else tokens.contiguous()
    query_gradients = None if query_gradient is None else query_gradient.contiguous()
    score_gradients, forms = None, [g.contiguous() for g in form_gradients]
    common = (batch // views, width, stripe, p.parts)
    with on_device(x):
        if weights is not None:
            queries, score_gradients = queries.contiguous(), torch.empty_like(weights)
            query_gradients = x.new_empty(batch, views, parts, width, dtype=torch.float32)
            attention_backward_kernel[p.grid](
                *(p.x, weights, *three(forms), score_gradients, query_gradients, *p.strides, *common),
                *(width**-0.5, views, p.T, p.D),
                **p.launch,
            )
            if query_gradient is not None:
                by_view = query_gradient.view(views, -1, parts, width).transpose(0, 1)
                query_gradients.view(views, -1, views, parts, width)[0].add_(by_view)
        factor = None if mean_gradient is None else mean_gradient * (power / p.cells)
        own, pg1, pg2 = three(forms) if forms else (None, None, None)
        arrays = (
            tokens,
            scores,
            queries,
            weights,
            own,
            pg1,
            pg2,
            score_gradients,
            query_gradients,
            factor,
            gradient,
            token_parts,
        )
        spread_kernel[p.grid](
            *(p.x, *given(p.x, *arrays), *p.strides, common[0], p.cells, *common[1:]),
            *(weights is not None, tokens is not None, float(power) if factor is not None else 0.0),
            *(views, p.T, p.tail, p.D),
            **p.launch,
        )
    token_gradient = None if tokens is None else token_parts.sum(0).to(tokens.dtype)
    return (
        gradient,
        token_gradient,
        query_gradients.view(batch, parts, width) if weights is not None and views == 1 else None,
    )
