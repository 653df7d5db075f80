"""Contrast of feature rows with a memory: minus the log of the probability of a set of memory rows, and its gradient.

One family serves cluster memories (the set is the target: one column, or a soft target over all) and instance memories
(up to some dozens). Every launch takes several features and several memories of each (:mod:`groups`), so that all
cluster contrasts of a training step take four launches forward and four backward, and all contrasts with instance
memories, whose sums the search has made, two and one.

Forward: a tile of rows meets a tile of memory rows; norm, temperature, log-sum-exp and the target's logit come out of
the accumulators: logits are never stored, written are two floats a row and tile of columns (three with soft targets,
which are read once, as a tile leaves the accumulators). A second kernel joins the tiles and, for sets, adds the logits
of the positives, and finds the norm of a row as it reads it; a third takes the mean in a fixed order and adds those of
all memories of the same features.

Backward: ``softmax(all) @ memory`` from :mod:`products` (or given, where the search has made it already). For a cluster
memory the target's one is subtracted within; the positives of sets are gathered row by row, their softmax online. The
same kernel adds what the other memories of a row give, finds its norm, projects on the tangent of the sphere and writes
the gradient, the only result of the features' size.

Floor: B·N·D multiply-adds forward, 2·B·N·D backward (one product again, one new), none with ``mean_row`` given; a read
of the features, of few memory rows a feature row, a write of the gradient, one for all memories of the features. At
3 x 864 rows, 600 clusters and D = 2048 the three products are 19.1 GFLOP and move 121 MB in float32: estimates for an
H100, not measured, are 0.14 ms in three products of TF32 at 400 TFLOP/s, and 0.04 ms of copies.

Sums are float32; nothing is atomic. Features in float32 with memories in half precision are rounded to that for
products, and losses and gradients stay float32.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .groups import Terms, all_rows, chosen, coded, row_of, rows_of, size_of, tile_of
from .launch import configuration, on_device
from .products import (
    add_chunk,
    chunk_columns,
    chunk_values,
    inverse_norm,
    inverse_norms,
    precision,
    soft_targets,
    tile_products,
    tiles,
)


@triton.jit
def lse_tiles_kernel(
    x, memory, inverse_norms, targets, soft, tile_max, tile_sum, tile_soft, target_logits, parts, rows, columns, tiles,
    width, inverse_temperature, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, PICK: tl.constexpr, SOFT: tl.constexpr,
):  # fmt: skip
    """Of every tile of a row's logits the maximum and the sum of exponentials; where PICK, also the target's logit.

    ``x [P, B, D]`` and ``memory [P, N, D]`` are of one dtype, ``targets [P, B]`` int64; ``inverse_norms [R]``,
    ``target_logits [n, R]`` and ``tile_max`` and ``tile_sum [n, tiles, R]`` float32, with room for the largest memory's
    tiles. Where SOFT there is one term, and also the sum of the logits times ``soft [P, B, N]``, of any float dtype,
    goes into ``tile_soft``, which is as ``tile_sum``.
    """
    term, begin, part, first_row, first_column = tile_of(tl.program_id(0), parts, rows, columns, M, N)
    group, bank, total_rows = term % len(rows), term // len(rows), all_rows(parts, rows)
    num_rows, num_columns = size_of(rows, group), size_of(columns, term)
    m, n, begin = tl.arange(0, M), tl.arange(0, N), begin + first_row
    first, rows_left = part * num_rows + first_row, num_rows - first_row
    at, column = tl.minimum(m, rows_left - 1), (first_column + n).to(tl.int64)
    total = tile_products(
        chosen(x, group) + first * width, chosen(memory, term) + part * num_columns * width, at.to(tl.int64),
        tl.minimum(column, num_columns - 1), width, M, N, K, EVEN, PRECISION,
    )  # fmt: skip
    logits = total * (tl.load(inverse_norms + begin + at) * inverse_temperature)[:, None]
    inside, exists = m < rows_left, n < num_columns - first_column
    out = (bank * tiles + first_column // N).to(tl.int64) * total_rows + begin + m
    if SOFT:
        wanted = soft_targets(soft + begin * num_columns, at, first_column, num_columns, N)
        pulled = tl.sum(tl.where(exists[None, :], logits * wanted, 0.0), 1)
        tl.store(tile_soft + out, pulled, mask=inside)
    logits = tl.where(exists[None, :], logits, float("-inf"))
    highest = tl.max(logits, 1)
    tl.store(tile_max + out, highest, mask=inside)
    tl.store(tile_sum + out, tl.sum(tl.exp(logits - highest[:, None]), 1), mask=inside)
    if PICK:
        target = tl.load(chosen(targets, term) + first + at) - first_column
        hit = n[None, :] == target.to(tl.int32)[:, None]  # columns in int64 would take twice the registers
        here = (target >= 0) & (target < N) & inside
        kept = target_logits + bank * total_rows.to(tl.int64) + begin + m
        tl.store(kept, tl.sum(tl.where(hit, logits, 0.0), 1), mask=here)


@triton.jit
def row_losses_kernel(
    x, memory, positives, weights, mass, target_logits, tile_max, tile_sum, tile_soft, lse, losses, parts, rows,
    columns, set_width, tiles, width, inverse_temperature, GIVEN: tl.constexpr, PICK: tl.constexpr, SOFT: tl.constexpr,
    WEIGHTED: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Loss of a row: log-sum-exp of all its logits, read where GIVEN and else joined and written, less its positives'.

    ``positives [P, B, set_width]`` is int64, of a width of its own in each of the features; ``losses [n, R]`` float32
    may be ``target_logits``, which it reads only where PICK. Where SOFT it is ``mass [P, B]`` float32 times the
    log-sum-exp, less the sums of ``tile_soft``. Where WEIGHTED it is multiplied with ``weights [P, B]``, of any float
    dtype. The others are those of :func:`lse_tiles_kernel`, whose tiles have N columns.
    """
    row, bank = tl.program_id(0).to(tl.int64), tl.program_id(1)
    group, first, part = row_of(row, parts, rows)
    total_rows, term = tl.num_programs(0).to(tl.int64), bank * len(rows) + group
    num_columns, wide = size_of(columns, term), size_of(set_width, group)
    at = bank * total_rows + row
    positives_at = chosen(positives, term) + (row - first) * wide
    if GIVEN:
        lse_all = tl.load(lse + at)
    else:
        row_max = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        pulled = tl.zeros([BLOCK], tl.float32)
        used = tl.cdiv(num_columns, N)
        for start in range(0, used, BLOCK):
            tile = start + tl.arange(0, BLOCK)
            place = (bank * tiles + tile).to(tl.int64) * total_rows + row
            value = tl.load(tile_max + place, mask=tile < used, other=float("-inf"))
            count = tl.load(tile_sum + place, mask=tile < used, other=0.0)
            new_max = tl.maximum(row_max, value)
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
            total = total * tl.exp(row_max - base) + count * tl.exp(value - base)
            row_max = new_max
            if SOFT:
                pulled += tl.load(tile_soft + place, mask=tile < used, other=0.0)
        top = tl.max(row_max, 0)
        lse_all = top + tl.log(tl.sum(total * tl.exp(row_max - top), 0))
        tl.store(lse + at, lse_all)
    if PICK:
        has_positive = tl.load(positives_at) >= 0
        lse_positives = tl.load(target_logits + at, mask=has_positive, other=0.0)
    elif SOFT:
        has_positive = tl.load(positives_at) >= 0
        lse_positives = tl.sum(pulled, 0)
        lse_all *= tl.load(mass + at)
    else:
        slot = tl.arange(0, SLOTS)
        positive = tl.load(positives_at + slot, mask=slot < wide, other=-1)
        has_positive = tl.max(positive, 0) >= 0
        products = tl.zeros([SLOTS], tl.float32)
        squares = tl.zeros([BLOCK], tl.float32)
        x_at = chosen(x, group) + (row - first) * width
        column = part * num_columns + tl.minimum(tl.maximum(positive, 0), num_columns - 1)
        memory_at = chosen(memory, term) + column * width
        for start in range(0, width, BLOCK):
            d = start + tl.arange(0, BLOCK)
            value = tl.load(x_at + d, mask=d < width, other=0.0).to(tl.float32)
            squares += value * value
            inside = (positive >= 0)[:, None] & (d < width)[None, :]
            other = tl.load(memory_at[:, None] + d[None, :], mask=inside, other=0.0).to(tl.float32)
            products += tl.sum(other * value[None, :], 1)
        scale = inverse_norm(tl.sum(squares, 0)) * inverse_temperature
        logits = tl.where(positive >= 0, products * scale, float("-inf"))
        top = tl.where(has_positive, tl.max(logits, 0), 0.0)
        lse_positives = top + tl.log(tl.where(has_positive, tl.sum(tl.exp(logits - top), 0), 1.0))
    loss = lse_all - lse_positives
    if WEIGHTED:
        loss *= tl.load(weights + at).to(tl.float32)
    tl.store(losses + at, tl.where(has_positive, loss, 0.0))


@triton.jit
def row_sum(losses, positives, num_rows, set_width, BLOCK: tl.constexpr):
    """Sum of the losses of a part, and how many of its rows have a positive."""
    total = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        total += tl.load(losses + row, mask=row < num_rows, other=0.0)
        count += (tl.load(positives + row * set_width, mask=row < num_rows, other=-1) >= 0).to(tl.float32)
    return tl.sum(total, 0), tl.sum(count, 0)


@triton.jit
def mean_kernel(
    losses, positives, out, parts, rows, set_width, BANKS: tl.constexpr, MEAN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The losses ``[n, R]`` of each of the features, memory after memory and part after part."""
    group, first = tl.program_id(0), tl.program_id(0).to(tl.int64) * 0
    for g in tl.static_range(1, len(rows)):
        first += tl.where(group >= g, rows_of(parts, rows, g - 1), 0)
    num_parts, num_rows, wide = size_of(parts, group), size_of(rows, group), size_of(set_width, group)
    total_rows = all_rows(parts, rows).to(tl.int64)
    total = tl.full([], 0.0, tl.float32)
    for bank in tl.static_range(BANKS):
        losses_at, positives_at = losses + bank * total_rows + first, chosen(positives, bank * len(rows) + group)
        for _ in range(0, num_parts):
            loss, count = row_sum(losses_at, positives_at, num_rows, wide, BLOCK)
            total += loss / tl.maximum(count, 1.0) / num_parts if MEAN else loss
            losses_at += num_rows
            positives_at += num_rows * wide
    to = chosen(out, group)
    tl.store(to, total.to(to.dtype.element_ty))


@triton.jit
def gradient_kernel(
    x, memory, mean_row, positives, weights, losses, gradient, out, parts, rows, columns, set_width, width,
    inverse_temperature, BANKS: tl.constexpr, MEAN: tl.constexpr, EACH: tl.constexpr, SETS: tl.constexpr,
    WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of a feature row: for each memory from the mean row under the softmax of all, less that under the
    softmax of its set.

    ``x [P, B, D]``, ``memory [P, N, D]`` and ``out``, which is as ``x``, are of any float dtype; ``mean_row [n, R, D]``
    float32; ``positives [P, B, set_width]`` int64. ``losses [n, R]`` float32 is read to count rows only. ``gradient``
    is a number for each of the features, or one ``[P, B]`` where EACH; where WEIGHTED it is multiplied with ``weights
    [P, B]``, of any float dtype: there is one term then. Without SETS the mean row has lost its target already.
    """
    row = tl.program_id(0).to(tl.int64)
    group, first, part = row_of(row, parts, rows)
    num_parts, num_rows, wide = size_of(parts, group), size_of(rows, group), size_of(set_width, group)
    total_rows, local = tl.num_programs(0).to(tl.int64), row - first
    d = tl.arange(0, BLOCK)
    inside = d < width
    value = tl.load(chosen(x, group) + local * width + d, mask=inside, other=0.0).to(tl.float32)
    scale = inverse_norm(tl.sum(value * value, 0))
    unit = value * scale
    change, counts = tl.zeros([BLOCK], tl.float32), tl.full([], False, tl.int1)
    factor = tl.load(gradient[0] + row if EACH else chosen(gradient, group)).to(tl.float32) * inverse_temperature
    if WEIGHTED:
        factor *= tl.load(weights + row).to(tl.float32)
    for bank in range(0, BANKS):
        term = bank * len(rows) + group
        num_columns, positives_at = size_of(columns, term), chosen(positives, term) + local * wide
        pulled = tl.load(mean_row + (bank * total_rows + row) * width + d, mask=inside, other=0.0)
        has_positive = tl.load(positives_at) >= 0
        if SETS:
            memory_at = chosen(memory, term) + part * num_columns * width
            set_max, total, weighted = float("-inf"), 0.0, tl.zeros([BLOCK], tl.float32)
            for slot in range(0, wide):
                positive = tl.load(positives_at + slot)
                if positive >= 0:
                    column = tl.minimum(positive, num_columns - 1)
                    other = tl.load(memory_at + column * width + d, mask=inside, other=0.0)
                    other = other.to(tl.float32)
                    logit = tl.sum(other * unit, 0) * inverse_temperature
                    new_max = tl.maximum(set_max, logit)
                    alpha = tl.exp(set_max - new_max)
                    weighted = weighted * alpha + other * tl.exp(logit - new_max)
                    total = total * alpha + tl.exp(logit - new_max)
                    set_max = new_max
            pulled -= weighted / tl.where(has_positive, total, 1.0)
        weight = factor
        if MEAN:
            begin = part * num_rows
            of_part = chosen(positives, term) + begin * wide
            _, count = row_sum(losses + bank * total_rows + first + begin, of_part, num_rows, wide, ROWS)
            weight = weight / (tl.maximum(count, 1.0) * num_parts)
        change += tl.where(has_positive, pulled * weight, 0.0)
        counts |= has_positive
    change = tl.where(counts, (change - unit * tl.sum(change * unit, 0)) * scale, 0.0)  # an ignored row may hold NaN
    out_at = chosen(out, group) + local * width + d
    tl.store(out_at, change.to(out_at.dtype.element_ty), mask=inside)


def contrast_forward(
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    positives: Sequence[torch.Tensor],
    *,
    temperature: float,
    reduction: str = "mean",
    lse: torch.Tensor | None = None,
    soft: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    tf32: bool = False,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Losses and log-sum-exp of all logits; features and terms are those of :mod:`groups`.

    Args:
        features: each ``[P, B, D]``, contiguous; need not be normalised.
        memories: of each term ``[P, N, D]``, contiguous, of the same dtype, or in half precision to multiply in that.
        positives: of each term ``[P, B, m]``, int64, contiguous, -1 padded at the end; the memories of one features
            have one m, or all sets are targets, m = 1.
        temperature: divides the cosine.
        reduction: ``"mean"`` over rows with a positive and then over P, ``"sum"`` or ``"none"``.
        lse: ``[n, R]`` float32 where it is known.
        soft: of one term: ``[P, B, N]``, float, contiguous: soft targets; of ``positives [P, B, 1]`` only the sign
            counts then.
        weights: of one term: ``[P, B]``, float, contiguous: factors of the rows' losses.
        tf32: multiply float32 in one product of TF32, not in three.

    Returns:
        A scalar for each of the features, the sum over its memories, or one ``[n, R]`` for ``reduction="none"``; and
        ``[n, R]``.
    """
    terms = Terms(features, memories, tf32=tf32)
    set_width, dtype = tuple(y.shape[-1] for y in positives[: len(features)]), features[0].dtype
    pick = max(set_width) == 1 and lse is None and soft is None
    columns, tile = coded(terms.columns), 1
    with on_device(features[0]):
        losses, total, partial, tiles_each = terms.new(terms.count, terms.all_rows), lse, None, 0
        if lse is None:
            norms, t = inverse_norms(terms), tiles(terms, soft=soft is not None)
            total, tile, tiles_each = torch.empty_like(losses), t["N"], triton.cdiv(max(terms.columns), t["N"])
            partial = terms.new(2 if soft is None else 3, terms.count, tiles_each, terms.all_rows)
            lse_tiles_kernel[(terms.tiles(terms.columns, t["M"], t["N"]),)](
                terms.features, terms.memories, norms, tuple(positives), norms if soft is None else soft,
                *partial[:2], partial[-1], losses, *terms.sizes, columns, tiles_each, terms.width, 1 / temperature,
                EVEN=terms.width % t["K"] == 0, PRECISION=precision(terms), PICK=pick, SOFT=soft is not None, **t,
            )  # fmt: skip
        slots = 1 if pick else triton.next_power_of_2(max(set_width))
        t = configuration("cluster_memory.losses", terms.device)
        t["BLOCK"] = min(t["BLOCK"], max(16, t.pop("ELEMENTS") // slots))
        t["num_warps"] *= 1 if slots <= 256 else 2
        sums = (losses,) * 3 if partial is None else (*partial[:2], partial[-1])
        row_losses_kernel[(terms.all_rows, terms.count)](
            terms.features, terms.memories, tuple(positives), losses if weights is None else weights,
            losses if soft is None else soft.sum(-1, dtype=torch.float32), losses, *sums, total, losses, *terms.sizes,
            columns, coded(set_width), tiles_each, terms.width, 1 / temperature, GIVEN=lse is not None, PICK=pick,
            SOFT=soft is not None, WEIGHTED=weights is not None, SLOTS=slots, N=tile, **t,
        )  # fmt: skip
        if reduction == "none":
            return [losses.to(dtype)], total
        found, t = [terms.new(dtype=dtype) for _ in features], configuration("cluster_memory.mean", terms.device)
        mean_kernel[(len(features),)](
            losses, tuple(positives), tuple(found), *terms.sizes, coded(set_width), BANKS=terms.count,
            MEAN=reduction == "mean", **t,
        )  # fmt: skip
    return found, total


def contrast_backward(
    gradients: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    positives: Sequence[torch.Tensor],
    lse: torch.Tensor,
    *,
    temperature: float,
    reduction: str = "mean",
    mean_row: torch.Tensor | None = None,
    soft: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    tf32: bool = False,
) -> list[torch.Tensor]:
    """Gradients for ``features`` of :func:`contrast_forward`'s losses, from theirs.

    ``mean_row [n, R, D]`` float32 is softmax @ memory, where it is known.
    """
    terms = Terms(features, memories, tf32=tf32)
    set_width, size = tuple(y.shape[-1] for y in positives[: len(features)]), None
    sets = max(set_width) > 1 or mean_row is not None
    if soft is not None:  # the scratch takes weights up to 1: products.py
        size = soft.abs().sum(-1, dtype=torch.float32).clamp_min(1)
        weights = size if weights is None else size * weights
    with on_device(features[0]):
        if mean_row is None:
            mean_row = terms.new(terms.count, terms.all_rows, terms.width)
            soft_terms = None if soft is None else (soft, soft.sum(-1, dtype=torch.float32), size.reciprocal())
            _mean_rows(terms, lse, None if sets or soft is not None else positives, soft_terms, mean_row, temperature)
        out = [torch.empty_like(x) for x in features]
        gradient_kernel[(terms.all_rows,)](
            terms.features, terms.memories, mean_row, tuple(positives), lse if weights is None else weights, lse,
            tuple(x.contiguous() for x in gradients), tuple(out), *terms.sizes, coded(terms.columns), coded(set_width),
            terms.width, 1 / temperature, BANKS=terms.count, MEAN=reduction == "mean", EACH=reduction == "none",
            SETS=sets, WEIGHTED=weights is not None, BLOCK=triton.next_power_of_2(terms.width),
            **configuration("cluster_memory.gradient", terms.device),
        )  # fmt: skip
    return out


def _mean_rows(
    terms: Terms,
    lse: torch.Tensor,
    targets: Sequence[torch.Tensor] | None,
    soft: tuple[torch.Tensor, ...] | None,
    out: torch.Tensor,
    temperature: float,
) -> None:
    """``softmax(all) @ memory`` of all rows, less the targets."""
    norms = inverse_norms(terms)
    sizes = zip(terms.of_features(terms.parts), terms.of_features(terms.rows), terms.columns, strict=True)
    scratch = [terms.new(*size, chunk_columns(out, columns), dtype=terms.dtype) for *size, columns in sizes]
    start = [0] * len(scratch)
    while any(first < columns for first, columns in zip(start, terms.columns, strict=True)):
        chunk_values(terms, norms, scratch, start, temperature, lse=lse, targets=targets, soft=soft)
        add_chunk(terms, scratch, out, start)
        start = [first + weights.shape[-1] for first, weights in zip(start, scratch, strict=True)]
