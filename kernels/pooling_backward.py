"""Gradients of the pooling in ``pooling.py``, for the map, the tokens and the queries.

``attention_backward_kernel`` finds, for a stripe of a map, the gradients of the scores of the three queries that
attend to it, and its share of the gradient of each query. ``spread_kernel`` adds up everything that reaches a cell -
through attention, through the prototypes and through the power mean - and writes the map's gradient once, and the token
gradient of its stripe. As forward, each reads its stripe once, a few whole cells at a time. Sums over images and
maps are written apart and added in a fixed order: no atomics. Cells that belong to no part get the power mean's
gradient, or zero.

A softmax passes ``weight (slope - mean)`` on, the mean over all cells of ``slope = gradient · cell``. For the
attention everything is summed about the first cell's slope, and what the mean differs from it is corrected at the end
by the sum of the weighted cells. For the prototypes the mean is known before: their gradient times themselves.

Estimates for an H100 at [432, 2048, 18, 9], from the machine code and 3.0 TB/s of copies, not measured: in bfloat16
``attention_backward_kernel`` moves 337 MB in 0.11 ms and ``spread_kernel`` 648 MB in 0.22 ms, with 2 blocks of 8 warps
an SM; in float32 640 MB in 0.21 ms and 1.24 GB in 0.41 ms, with one of 16 warps. The rows of D numbers that they hold,
nine and more, take the registers; a block has 20 or 32 KB under way by cp.async. Their 9 and 12 products an
element and as many sums are 6.0 GFLOP in all; with the rest they issue instructions for 0.18 and 0.23 ms in bfloat16
(tests/kernels/counts.py): ``spread_kernel`` as long as it moves memory, the other longer.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .launch import on_device
from .pooling import LOWEST, SCORES, Plan, answers, given, load_row, load_tile, log_sigmoid, power_of, three


@triton.jit
def load_forms(own, pg1, pg2, at, inside, view, VIEW: tl.constexpr, VIEWS: tl.constexpr):
    of_own, of_pg1, of_pg2 = answers(view, VIEW, VIEWS)
    found = tl.load(own + at, mask=inside & of_own, other=0.0).to(tl.float32)
    if VIEWS == 3:
        found += tl.load(pg1 + at, mask=inside & of_pg1, other=0.0).to(tl.float32)
        found += tl.load(pg2 + at, mask=inside & of_pg2, other=0.0).to(tl.float32)
    return found


@triton.jit
def absorb_gradient(tile, form_gradient, weights, slopes, j, stripe, centre, mass, excess, cells, gradient):
    """Take a tile into the sums over cells of ``weight``, ``weight (slope - centre)``, and of the cells times either.

    ``centre`` is the slope of the first cell: slopes can be far larger than they differ. They are stored as well.
    """
    slope = tl.sum(tile * form_gradient[None, :], 1)
    tl.store(slopes + j, slope, mask=j < stripe)
    centre += tl.sum(tl.where(j == 0, slope, 0.0), 0)
    weight = tl.load(weights + j, mask=j < stripe, other=0.0)
    share = weight * (slope - centre)
    cells += tl.sum(tile * weight[:, None], 0)
    gradient += tl.sum(tile * share[:, None], 0)
    return centre, mass + tl.sum(weight, 0), excess + tl.sum(share, 0), cells, gradient


@triton.jit
def _finish_gradients(weights, gradients, stripe, centre, excess, scale):
    """Slopes of a stripe, which other threads have stored, become gradients of the scores."""
    for start in range(0, stripe, SCORES):
        j = start + tl.arange(0, SCORES)
        slope = tl.load(gradients + j, mask=j < stripe, other=0.0)
        weight = tl.load(weights + j, mask=j < stripe, other=0.0)
        tl.store(gradients + j, weight * (slope - centre - excess) * scale, mask=j < stripe)


@triton.jit
def attention_backward_kernel(
    x, weights, own, pg1, pg2, score_gradients, query_gradients, positions, cells, width, stripe, parts, scale,
    VIEWS: tl.constexpr, C: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of the attention's scores and queries, of a stripe of one map.

    ``own``, ``pg1`` and ``pg2 [B, P, D]`` are the gradients of the three forms, of the dtype of ``x``; float32 are
    ``weights`` and ``score_gradients [B, VIEWS, P, T]`` and ``query_gradients [B, VIEWS, P, D]`` (by map, then query).
    """
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    view, position = image // positions, image % positions
    row, step = (position * parts + part) * width, positions * parts * width
    x += image * cells * width
    begin = part * stripe
    d = tl.arange(0, D)
    m, at = d < width, row + d
    weights += (image * VIEWS * parts + part) * stripe
    score_gradients += (image * VIEWS * parts + part) * stripe
    next_view = parts * stripe
    none = tl.zeros([D], tl.float32)
    first_form = load_forms(own, pg1, pg2, at, m, view, 0, VIEWS)
    first_centre, first_mass, first_excess, first_cells, first = 0.0, 0.0, 0.0, none, none
    if VIEWS == 3:
        second_form = load_forms(own, pg1, pg2, at + step, m, view, 1, VIEWS)
        second_centre, second_mass, second_excess, second_cells, second = 0.0, 0.0, 0.0, none, none
        third_form = load_forms(own, pg1, pg2, at + 2 * step, m, view, 2, VIEWS)
        third_centre, third_mass, third_excess, third_cells, third = 0.0, 0.0, 0.0, none, none
    for start in tl.range(0, stripe, C, num_stages=STAGES):
        j = start + tl.arange(0, C)
        tile = load_tile(x, begin + j, j < stripe, d, width)
        first_centre, first_mass, first_excess, first_cells, first = absorb_gradient(
            tile, first_form, weights, score_gradients, j, stripe,
            first_centre, first_mass, first_excess, first_cells, first,
        )  # fmt: skip
        if VIEWS == 3:
            second_centre, second_mass, second_excess, second_cells, second = absorb_gradient(
                tile, second_form, weights + next_view, score_gradients + next_view, j, stripe,
                second_centre, second_mass, second_excess, second_cells, second,
            )  # fmt: skip
            third_centre, third_mass, third_excess, third_cells, third = absorb_gradient(
                tile, third_form, weights + 2 * next_view, score_gradients + 2 * next_view, j, stripe,
                third_centre, third_mass, third_excess, third_cells, third,
            )  # fmt: skip
    query_gradients += (image * VIEWS * parts + part) * width
    first_excess /= first_mass
    tl.store(query_gradients + d, (first - first_excess * first_cells) * scale, mask=m)
    if VIEWS == 3:
        second_excess /= second_mass
        tl.store(query_gradients + parts * width + d, (second - second_excess * second_cells) * scale, mask=m)
        third_excess /= third_mass
        tl.store(query_gradients + 2 * parts * width + d, (third - third_excess * third_cells) * scale, mask=m)
    tl.debug_barrier()
    _finish_gradients(weights, score_gradients, stripe, first_centre, first_excess, scale)
    if VIEWS == 3:
        _finish_gradients(weights + next_view, score_gradients + next_view, stripe, second_centre, second_excess, scale)
        _finish_gradients(
            weights + 2 * next_view, score_gradients + 2 * next_view, stripe, third_centre, third_excess, scale
        )


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
def _token_mass(scores, stripe):
    """Largest logarithm of a sigmoid in a stripe, and the sum of the sigmoids over that one."""
    top = LOWEST
    mass = 0.0
    for start in range(0, stripe, SCORES):
        j = start + tl.arange(0, SCORES)
        logit = log_sigmoid(tl.load(scores + j, mask=j < stripe, other=0.0))
        logit = tl.where(j < stripe, logit, float("-inf"))
        now = tl.maximum(top, tl.max(logit, 0))
        mass = mass * tl.exp(top - now) + tl.sum(tl.exp(logit - now), 0)
        top = now
    return top, mass


@triton.jit
def _attention_to_cells(weights, score_gradients, form_gradient, query, j, stripe):
    weight = tl.load(weights + j, mask=j < stripe, other=0.0)
    gradient = tl.load(score_gradients + j, mask=j < stripe, other=0.0)
    return weight[:, None] * form_gradient[None, :] + gradient[:, None] * query[None, :]


@triton.jit
def spread_kernel(
    x, tokens, scores, queries, weights, own, pg1, pg2, score_gradients, query_gradients, power_gradient, gradient,
    token_gradient, positions, cells, width, stripe, parts, ATTEND: tl.constexpr, TOKENS: tl.constexpr,
    POWER: tl.constexpr, VIEWS: tl.constexpr, C: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The map's gradient, and a stripe's share of the tokens'.

    As in :func:`attention_backward_kernel`; besides ``scores [B, P, T]``, ``queries`` and ``token_gradient [B, P, D]``
    and ``power_gradient [B, D]`` (of the power sums) float32, ``tokens [P, D]``, and ``gradient`` like the map ``x``.
    Where TOKENS the queries are the prototypes; without ATTEND ``query_gradients`` are theirs, ``[B, P, D]``.
    """
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    view, position = image // positions, image % positions
    row, step = (position * parts + part) * width, positions * parts * width
    x += image * cells * width
    gradient += image * cells * width
    begin = part * stripe
    end = tl.minimum(begin + stripe, cells)
    d = tl.arange(0, D)
    m = d < width
    if POWER > 0:
        factor = load_row(power_gradient + image * width, d, width)[None, :]
    if TOKENS:
        at = image * parts + part
        scores += at * stripe
        top, mass = _token_mass(scores, stripe)
        token = load_row(tokens + part * width, d, width)
        of_prototype = _query_gradient(query_gradients, d, position, view, positions, part, width, parts, VIEWS)
        mean = tl.sum(of_prototype * load_row(queries + at * width, d, width), 0)
        of_token = tl.zeros([D], tl.float32)
    if ATTEND:
        weights += (image * VIEWS * parts + part) * stripe
        score_gradients += (image * VIEWS * parts + part) * stripe
        next_view = parts * stripe
        first_form = load_forms(own, pg1, pg2, row + d, m, view, 0, VIEWS)
        first_query = load_row(queries + row, d, width)
        if VIEWS == 3:
            second_form = load_forms(own, pg1, pg2, row + step + d, m, view, 1, VIEWS)
            second_query = load_row(queries + row + step, d, width)
            third_form = load_forms(own, pg1, pg2, row + 2 * step + d, m, view, 2, VIEWS)
            third_query = load_row(queries + row + 2 * step, d, width)
    for start in tl.range(begin, end, C, num_stages=STAGES):
        cell = start + tl.arange(0, C)
        j = cell - begin
        total = tl.zeros([C, D], tl.float32)
        if TOKENS or POWER > 0:
            tile = load_tile(x, cell, cell < end, d, width)
        if POWER > 0:
            total += factor * power_of(tile, POWER - 1)
        if TOKENS:
            score = tl.load(scores + j, mask=j < stripe, other=0.0)
            logit = tl.where(j < stripe, log_sigmoid(score), float("-inf"))
            weight = tl.exp(logit - top) / mass
            slope = tl.sum(tile * of_prototype[None, :], 1) - mean
            score_gradient = weight * slope * tl.exp(log_sigmoid(-score))
            of_token += tl.sum(tile * score_gradient[:, None], 0)
            total += weight[:, None] * of_prototype[None, :] + score_gradient[:, None] * token[None, :]
        if ATTEND:
            total += _attention_to_cells(weights, score_gradients, first_form, first_query, j, stripe)
            if VIEWS == 3:
                total += _attention_to_cells(
                    weights + next_view, score_gradients + next_view, second_form, second_query, j, stripe
                )
                total += _attention_to_cells(
                    weights + 2 * next_view, score_gradients + 2 * next_view, third_form, third_query, j, stripe
                )
        to = gradient + cell[:, None] * width + d[None, :]
        tl.store(to, total.to(gradient.dtype.element_ty), mask=(cell < end)[:, None] & m[None, :])
    if TOKENS:
        tl.store(token_gradient + at * width + d, of_token, mask=m)
    for start in range(end, tl.where(part == parts - 1, cells, 0), C):
        cell = start + tl.arange(0, C)
        total = tl.zeros([C, D], tl.float32)
        if POWER > 0:
            total += factor * power_of(load_tile(x, cell, cell < cells, d, width), POWER - 1)
        to = gradient + cell[:, None] * width + d[None, :]
        tl.store(to, total.to(gradient.dtype.element_ty), mask=(cell < cells)[:, None] & m[None, :])


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
    p = Plan(x, parts, "pooling_backward")
    batch, width, stripe = len(x), p.width, p.stripe
    gradient = torch.empty_like(p.x)
    token_parts = None if tokens is None else x.new_empty(batch, p.parts, width, dtype=torch.float32)
    tokens = None if tokens is None else tokens.contiguous()
    query_gradients = None if query_gradient is None else query_gradient.contiguous()
    score_gradients, forms = None, [g.contiguous() for g in form_gradients]
    common = (batch // views, p.cells, width, stripe, p.parts)
    with on_device(x):
        if weights is not None:
            queries, score_gradients = queries.contiguous(), torch.empty_like(weights)
            query_gradients = x.new_empty(batch, views, parts, width, dtype=torch.float32)
            attention_backward_kernel[p.grid](
                *(p.x, weights, *three(forms), score_gradients, query_gradients, *common),
                *(width**-0.5, views),
                **p.launch,
            )
            if query_gradient is not None:
                by_view = query_gradient.view(views, -1, parts, width).transpose(0, 1)
                query_gradients.view(views, -1, views, parts, width)[0].add_(by_view)
        factor = None if mean_gradient is None else mean_gradient.contiguous() * (power / p.cells)
        forms = three(forms) if forms else [None] * 3
        arrays = tokens, scores, queries, weights, *forms, score_gradients, query_gradients, factor
        spread_kernel[p.grid](
            *(p.x, *given(p.x, *arrays, gradient, token_parts), *common),
            *(weights is not None, tokens is not None, float(power) if factor is not None else 0.0, views),
            **p.launch,
        )
    token_gradient = None if tokens is None else token_parts.sum(0).to(tokens.dtype)
    return (
        gradient if p.x is x else gradient.contiguous(),
        token_gradient,
        query_gradients.view(batch, parts, width) if weights is not None and views == 1 else None,
    )
