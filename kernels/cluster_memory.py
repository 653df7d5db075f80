"""Contrast of feature rows with a memory: minus the log of the probability of a set of memory rows, and its gradient.

One family serves cluster memories (the set is the target: one column, or a soft target over all) and instance memories
(up to some dozens).

Forward: a tile of rows meets a tile of memory rows; norm, temperature, log-sum-exp and the target's logit come out of
the accumulators: logits are never stored, written are two floats a row and tile of columns (three with soft targets,
which are read once, as a tile leaves the accumulators). A second kernel joins the tiles and, for sets, adds the logits
of the positives; a third takes the mean in a fixed order.

Backward: ``softmax(all) @ memory`` from :mod:`products` (or given, where the search has made it already). For a cluster
memory the target's one is subtracted within; the positives of sets are gathered row by row, their softmax online. The
same kernel projects on the tangent of the sphere and writes the gradient, the only result of the features' size.

Floor: B·N·D multiply-adds forward, 2·B·N·D backward (one product again, one new), none with ``mean_row`` given; a read
of the features, of few memory rows a feature row, a write of the gradient. Sums are float32; nothing is atomic.
"""

import torch
import triton
import triton.language as tl

from .launch import configuration, on_device
from .products import (
    add_chunk,
    chunk_columns,
    chunk_values,
    inverse_norms,
    precision,
    soft_targets,
    tile_products,
    tiles,
)

MAX_TILES = 65_535  # programs of a launch along its second axis


@triton.jit
def lse_tiles_kernel(
    x, memory, inverse_norms, targets, soft, tile_max, tile_sum, tile_soft, target_logits, num_rows, num_columns, width,
    inverse_temperature, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    PICK: tl.constexpr, SOFT: tl.constexpr,
):  # fmt: skip
    """Of every tile of a row's logits the maximum and the sum of exponentials; where PICK, also the target's logit.

    ``x [P, B, D]`` and ``memory [P, N, D]`` are of one dtype, ``targets [P, B]`` int64; ``inverse_norms`` and
    ``target_logits [P, B]``, ``tile_max`` and ``tile_sum [P, tiles, B]`` float32. Where SOFT, also the sum of the
    logits times ``soft [P, B, N]``, of any float dtype, into ``tile_soft``, which is as ``tile_sum``.
    """
    part = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    columns = tl.program_id(1).to(tl.int64) * N + tl.arange(0, N)
    x += part * num_rows * width
    memory += part * num_columns * width
    at = tl.minimum(rows, num_rows - 1)
    total = tile_products(x, memory, at, tl.minimum(columns, num_columns - 1), width, M, N, K, EVEN, PRECISION)
    logits = total * (tl.load(inverse_norms + part * num_rows + at) * inverse_temperature)[:, None]
    out = (part * tl.num_programs(1) + tl.program_id(1)) * num_rows + rows
    if SOFT:
        wanted = soft_targets(soft, part * num_rows + at, columns, num_columns)
        pulled = tl.sum(tl.where((columns < num_columns)[None, :], logits * wanted, 0.0), 1)
        tl.store(tile_soft + out, pulled, mask=rows < num_rows)
    logits = tl.where((columns < num_columns)[None, :], logits, float("-inf"))
    highest = tl.max(logits, 1)
    tl.store(tile_max + out, highest, mask=rows < num_rows)
    tl.store(tile_sum + out, tl.sum(tl.exp(logits - highest[:, None]), 1), mask=rows < num_rows)
    if PICK:
        target = tl.load(targets + part * num_rows + at)
        hit = columns[None, :] == target[:, None]
        here = (target >= tl.program_id(1) * N) & (target < tl.program_id(1) * N + N) & (rows < num_rows)
        tl.store(target_logits + part * num_rows + rows, tl.sum(tl.where(hit, logits, 0.0), 1), mask=here)


@triton.jit
def row_losses_kernel(
    x, memory, inverse_norms, positives, weights, mass, target_logits, tile_max, tile_sum, tile_soft, lse, losses,
    num_rows, num_columns, width, set_width, tiles, inverse_temperature, GIVEN: tl.constexpr, PICK: tl.constexpr,
    SOFT: tl.constexpr, WEIGHTED: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss of a row: log-sum-exp of all its logits, read where GIVEN and else joined and written, less its positives'.

    ``positives [P, B, set_width]`` is int64; ``losses [P, B]`` float32 may be ``target_logits``, which it reads only
    where PICK. Where SOFT it is ``mass [P, B]`` float32 times the log-sum-exp, less the sums of ``tile_soft``. Where
    WEIGHTED it is multiplied with ``weights [P, B]``, of any float dtype. The others are those of
    :func:`lse_tiles_kernel`.
    """
    part, row = tl.program_id(1).to(tl.int64), tl.program_id(0)
    at = part * num_rows + row
    if GIVEN:
        lse_all = tl.load(lse + at)
    else:
        row_max = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        pulled = tl.zeros([BLOCK], tl.float32)
        for start in range(0, tiles, BLOCK):
            tile = start + tl.arange(0, BLOCK)
            place = (part * tiles + tile) * num_rows + row
            value = tl.load(tile_max + place, mask=tile < tiles, other=float("-inf"))
            count = tl.load(tile_sum + place, mask=tile < tiles, other=0.0)
            new_max = tl.maximum(row_max, value)
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
            total = total * tl.exp(row_max - base) + count * tl.exp(value - base)
            row_max = new_max
            if SOFT:
                pulled += tl.load(tile_soft + place, mask=tile < tiles, other=0.0)
        top = tl.max(row_max, 0)
        lse_all = top + tl.log(tl.sum(total * tl.exp(row_max - top), 0))
        tl.store(lse + at, lse_all)
    if PICK:
        has_positive = tl.load(positives + at) >= 0
        lse_positives = tl.load(target_logits + at, mask=has_positive, other=0.0)
    elif SOFT:
        has_positive = tl.load(positives + at) >= 0
        lse_positives = tl.sum(pulled, 0)
        lse_all *= tl.load(mass + at)
    else:
        slot = tl.arange(0, SLOTS)
        positive = tl.load(positives + at * set_width + slot, mask=slot < set_width, other=-1)
        has_positive = tl.max(positive, 0) >= 0
        products = tl.zeros([SLOTS], tl.float32)
        memory_at = memory + (part * num_columns + tl.minimum(tl.maximum(positive, 0), num_columns - 1)) * width
        for start in range(0, width, BLOCK):
            d = start + tl.arange(0, BLOCK)
            value = tl.load(x + at * width + d, mask=d < width, other=0.0).to(tl.float32)
            inside = (positive >= 0)[:, None] & (d < width)[None, :]
            other = tl.load(memory_at[:, None] + d[None, :], mask=inside, other=0.0).to(tl.float32)
            products += tl.sum(other * value[None, :], 1)
        logits = tl.where(positive >= 0, products * tl.load(inverse_norms + at) * inverse_temperature, float("-inf"))
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
def mean_kernel(losses, positives, out, parts, num_rows, set_width, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.full([], 0.0, tl.float32)
    for _ in range(0, parts):
        loss, count = row_sum(losses, positives, num_rows, set_width, BLOCK)
        total += loss / tl.maximum(count, 1.0) / parts if MEAN else loss
        losses += num_rows
        positives += num_rows * set_width
    tl.store(out, total.to(out.dtype.element_ty))


@triton.jit
def gradient_kernel(
    x, memory, inverse_norms, mean_row, positives, weights, losses, gradient, out, parts, num_rows, num_columns, width,
    set_width, inverse_temperature, MEAN: tl.constexpr, EACH: tl.constexpr, SETS: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of a feature row from the mean row under the softmax of all, less that under the softmax of its set.

    ``x`` and ``out [P, B, D]`` and ``memory [P, N, D]`` are of one dtype; ``mean_row [P, B, D]`` and ``inverse_norms
    [P, B]`` float32; ``positives [P, B, set_width]`` int64. ``losses [P, B]`` float32 is read to count rows only.
    ``gradient`` is one number, or ``[P, B]`` where EACH; it is multiplied with ``weights [P, B]``, of any float dtype,
    where WEIGHTED. Without SETS the mean row has lost its target already.
    """
    part, row = tl.program_id(1).to(tl.int64), tl.program_id(0)
    at = part * num_rows + row
    d = tl.arange(0, BLOCK)
    inside = d < width
    scale = tl.load(inverse_norms + at)
    unit = tl.load(x + at * width + d, mask=inside, other=0.0).to(tl.float32) * scale
    change = tl.load(mean_row + at * width + d, mask=inside, other=0.0)
    has_positive = tl.load(positives + at * set_width) >= 0
    if SETS:
        set_max, total, weighted = float("-inf"), 0.0, tl.zeros([BLOCK], tl.float32)
        for slot in range(0, set_width):
            positive = tl.load(positives + at * set_width + slot)
            if positive >= 0:
                column = part * num_columns + tl.minimum(positive, num_columns - 1)
                other = tl.load(memory + column * width + d, mask=inside, other=0.0)
                other = other.to(tl.float32)
                logit = tl.sum(other * unit, 0) * inverse_temperature
                new_max = tl.maximum(set_max, logit)
                alpha = tl.exp(set_max - new_max)
                weighted = weighted * alpha + other * tl.exp(logit - new_max)
                total = total * alpha + tl.exp(logit - new_max)
                set_max = new_max
        change -= weighted / tl.where(has_positive, total, 1.0)
    weight = tl.load(gradient + at if EACH else gradient).to(tl.float32) * inverse_temperature
    if WEIGHTED:
        weight *= tl.load(weights + at).to(tl.float32)
    if MEAN:
        first = part * num_rows
        _, count = row_sum(losses + first, positives + first * set_width, num_rows, set_width, ROWS)
        weight = weight / (tl.maximum(count, 1.0) * parts)
    change *= tl.where(has_positive, weight, 0.0)
    change = (change - unit * tl.sum(change * unit, 0)) * scale
    change = tl.where(has_positive, change, 0.0)  # an ignored row may hold NaN
    tl.store(out + at * width + d, change.to(out.dtype.element_ty), mask=inside)


def contrast_forward(
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    *,
    temperature: float,
    reduction: str = "mean",
    lse: torch.Tensor | None = None,
    soft: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and log-sum-exp of all logits.

    Args:
        features: ``[P, B, D]``, contiguous; need not be normalised.
        memory: ``[P, N, D]``, contiguous, of the same dtype.
        positives: ``[P, B, m]``, int64, contiguous, -1 padded at the end.
        temperature: divides the cosine.
        reduction: ``"mean"`` over rows with a positive and then over P, ``"sum"`` or ``"none"`` (``[P, B]``).
        lse: ``[P, B]`` float32 where it is known.
        soft: ``[P, B, N]``, float, contiguous: soft targets; of ``positives [P, B, 1]`` only the sign counts then.
        weights: ``[P, B]``, float, contiguous: factors of the rows' losses.

    Raises:
        ValueError: the memory has too many rows, and ``lse`` is not given.
    """
    (parts, rows, width), (_, columns, _), t = features.shape, memory.shape, tiles(features)
    set_width, pick = positives.shape[-1], positives.shape[-1] == 1 and lse is None and soft is None
    with on_device(features):
        norms = inverse_norms(features)
        losses, total, partial, count = torch.empty_like(norms), lse, None, 0
        if lse is None:
            total, count = torch.empty_like(norms), triton.cdiv(columns, t["N"])
            if count > MAX_TILES:
                most = MAX_TILES * t["N"]
                raise ValueError(f"memory has {columns} rows, Triton contrasts take at most {most} without lse")
            partial = features.new_empty(2 if soft is None else 3, parts, count, rows, dtype=torch.float32)
            lse_tiles_kernel[(triton.cdiv(rows, t["M"]), count, parts)](
                features, memory, norms, positives, norms if soft is None else soft, *partial[:2], partial[-1], losses,
                rows, columns, width, 1 / temperature, EVEN=width % t["K"] == 0, PRECISION=precision(features),
                PICK=pick, SOFT=soft is not None, **t,
            )  # fmt: skip
        slots = 1 if pick else triton.next_power_of_2(set_width)
        t = configuration("cluster_memory.losses", features.device)
        block = min(t["BLOCK"], max(16, t["ELEMENTS"] // slots))
        warps = t["num_warps"] if slots <= 256 else 2 * t["num_warps"]
        sums = (norms,) * 3 if partial is None else (*partial[:2], partial[-1])
        row_losses_kernel[(rows, parts)](
            features, memory, norms, positives, norms if weights is None else weights,
            norms if soft is None else soft.sum(-1, dtype=torch.float32), losses, *sums, total, losses, rows, columns,
            width, set_width, count, 1 / temperature, GIVEN=lse is not None, PICK=pick, SOFT=soft is not None,
            WEIGHTED=weights is not None, SLOTS=slots, BLOCK=block, num_warps=warps,
        )  # fmt: skip
        if reduction == "none":
            return losses.to(features.dtype), total
        loss = features.new_empty(())
        t = configuration("cluster_memory.mean", features.device)
        mean_kernel[(1,)](losses, positives, loss, parts, rows, set_width, MEAN=reduction == "mean", **t)
    return loss, total


def contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    lse: torch.Tensor,
    *,
    temperature: float,
    reduction: str = "mean",
    mean_row: torch.Tensor | None = None,
    soft: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gradient for ``features`` of :func:`contrast_forward`'s loss.

    ``mean_row [P, B, D]`` float32 is softmax @ memory, where it is known.
    """
    (parts, rows, width), columns, set_width = features.shape, memory.shape[1], positives.shape[-1]
    sets, terms = set_width > 1 or mean_row is not None, None
    if soft is not None:  # the scratch takes weights up to 1: products.py
        size = soft.abs().sum(-1, dtype=torch.float32).clamp_min(1)
        terms = soft, soft.sum(-1, dtype=torch.float32), size.reciprocal()
        weights = size if weights is None else size * weights
    with on_device(features):
        norms = inverse_norms(features)
        if mean_row is None:
            mean_row = torch.empty(features.shape, dtype=torch.float32, device=features.device)
            scratch = features.new_empty(parts, rows, chunk_columns(features, columns))
            targets = None if sets or soft is not None else positives
            for start in range(0, columns, scratch.shape[-1]):
                chunk_values(features, memory, norms, scratch, start, temperature, lse=lse, targets=targets, soft=terms)
                add_chunk(scratch, memory, mean_row, start)
        out = torch.empty_like(features)
        gradient_kernel[(rows, parts)](
            features, memory, norms, mean_row, positives, norms if weights is None else weights, lse,
            gradient.contiguous(), out, parts, rows, columns, width, set_width, 1 / temperature,
            MEAN=reduction == "mean", EACH=reduction == "none", SETS=sets, WEIGHTED=weights is not None,
            BLOCK=triton.next_power_of_2(width), **configuration("cluster_memory.gradient", features.device),
        )  # fmt: skip
    return out
