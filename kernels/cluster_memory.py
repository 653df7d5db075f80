"""Contrast of feature rows with a memory: minus the log of the probability of a set of memory rows, and its gradient.

One family serves cluster memories (the set is the target: one column) and instance memories (up to some dozens).

Forward: a tile of rows meets a tile of memory rows; norm, temperature, log-sum-exp and the target's logit come out of
the accumulators: logits are never stored, written are two floats a row and tile of columns. A second kernel joins the
tiles and, for sets, adds the logits of the positives; a third takes the mean in a fixed order.

Backward: ``softmax(all) @ memory`` from :mod:`products` (or given, where the search has made it already). For a cluster
memory the target's one is subtracted within; the positives of sets are gathered row by row, their softmax online. The
same kernel projects on the tangent of the sphere and writes the gradient, the only result of the features' size.

Floor: B·N·D multiply-adds forward, 2·B·N·D backward (one product again, one new), none with ``pull`` given; a read of
the features, of few memory rows a feature row, a write of the gradient. Sums are float32; nothing is atomic.
"""

import torch
import triton
import triton.language as tl

from .products import add_chunk, chunk_columns, chunk_values, inverse_norms, on_device, precision, tile_products, tiles


@triton.jit
def lse_tiles_kernel(
    x, memory, inverse_norms, targets, tile_max, tile_sum, picked, num_rows, num_columns, width, inverse_temperature,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr, PICK: tl.constexpr,
):  # fmt: skip
    bank = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    columns = tl.program_id(1).to(tl.int64) * N + tl.arange(0, N)
    x += bank * num_rows * width
    memory += bank * num_columns * width
    at = tl.minimum(rows, num_rows - 1)
    total = tile_products(x, memory, at, tl.minimum(columns, num_columns - 1), width, M, N, K, EVEN, PRECISION)
    logits = total * (tl.load(inverse_norms + bank * num_rows + at) * inverse_temperature)[:, None]
    logits = tl.where((columns < num_columns)[None, :], logits, float("-inf"))
    high = tl.max(logits, 1)
    out = (bank * tl.num_programs(1) + tl.program_id(1)) * num_rows + rows
    tl.store(tile_max + out, high, mask=rows < num_rows)
    tl.store(tile_sum + out, tl.sum(tl.exp(logits - high[:, None]), 1), mask=rows < num_rows)
    if PICK:
        target = tl.load(targets + bank * num_rows + at)
        hit = columns[None, :] == target[:, None]
        here = (target >= tl.program_id(1) * N) & (target < tl.program_id(1) * N + N) & (rows < num_rows)
        tl.store(picked + bank * num_rows + rows, tl.sum(tl.where(hit, logits, 0.0), 1), mask=here)


@triton.jit
def row_losses_kernel(
    x, memory, inverse_norms, positives, picked, tile_max, tile_sum, lse, losses, num_rows, num_columns, width, wide,
    tiles, inverse_temperature, GIVEN: tl.constexpr, PICK: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    bank, row = tl.program_id(1).to(tl.int64), tl.program_id(0)
    at = bank * num_rows + row
    if GIVEN:
        whole = tl.load(lse + at)
    else:
        high = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, tiles, BLOCK):
            tile = start + tl.arange(0, BLOCK)
            part = (bank * tiles + tile) * num_rows + row
            value = tl.load(tile_max + part, mask=tile < tiles, other=float("-inf"))
            count = tl.load(tile_sum + part, mask=tile < tiles, other=0.0)
            fresh = tl.maximum(high, value)
            base = tl.where(fresh == float("-inf"), 0.0, fresh)
            total = total * tl.exp(high - base) + count * tl.exp(value - base)
            high = fresh
        top = tl.max(high, 0)
        whole = top + tl.log(tl.sum(total * tl.exp(high - top), 0))
        tl.store(lse + at, whole)
    if PICK:
        some = tl.load(positives + at) >= 0
        near = tl.load(picked + at, mask=some, other=0.0)
    else:
        slot = tl.arange(0, WIDE)
        chosen = tl.load(positives + at * wide + slot, mask=slot < wide, other=-1)
        some = tl.max(chosen, 0) >= 0
        products = tl.zeros([WIDE], tl.float32)
        memory_at = memory + (bank * num_columns + tl.minimum(tl.maximum(chosen, 0), num_columns - 1)) * width
        for start in range(0, width, BLOCK):
            d = start + tl.arange(0, BLOCK)
            value = tl.load(x + at * width + d, mask=d < width, other=0.0).to(tl.float32)
            inside = (chosen >= 0)[:, None] & (d < width)[None, :]
            other = tl.load(memory_at[:, None] + d[None, :], mask=inside, other=0.0).to(tl.float32)
            products += tl.sum(other * value[None, :], 1)
        logits = tl.where(chosen >= 0, products * tl.load(inverse_norms + at) * inverse_temperature, float("-inf"))
        top = tl.where(some, tl.max(logits, 0), 0.0)
        near = top + tl.log(tl.where(some, tl.sum(tl.exp(logits - top), 0), 1.0))
    tl.store(losses + at, tl.where(some, whole - near, 0.0))


@triton.jit
def row_sum(losses, positives, num_rows, wide, BLOCK: tl.constexpr):
    """Sum of the losses of a bank, and how many of its rows have a positive."""
    part = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        part += tl.load(losses + row, mask=row < num_rows, other=0.0)
        count += (tl.load(positives + row * wide, mask=row < num_rows, other=-1) >= 0).to(tl.float32)
    return tl.sum(part, 0), tl.sum(count, 0)


@triton.jit
def mean_kernel(losses, positives, out, banks, num_rows, wide, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.full([], 0.0, tl.float32)
    for _ in range(0, banks):
        part, count = row_sum(losses, positives, num_rows, wide, BLOCK)
        total += part / tl.maximum(count, 1.0) / banks if MEAN else part
        losses += num_rows
        positives += num_rows * wide
    tl.store(out, total.to(out.dtype.element_ty))


@triton.jit
def gradient_kernel(
    x, memory, inverse_norms, pull, positives, losses, gradient, out, banks, num_rows, num_columns, width, wide,
    inverse_temperature, MEAN: tl.constexpr, EACH: tl.constexpr, SETS: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    bank, row = tl.program_id(1).to(tl.int64), tl.program_id(0)
    at = bank * num_rows + row
    d = tl.arange(0, BLOCK)
    inside = d < width
    scale = tl.load(inverse_norms + at)
    unit = tl.load(x + at * width + d, mask=inside, other=0.0).to(tl.float32) * scale
    change = tl.load(pull + at * width + d, mask=inside, other=0.0)
    some = tl.load(positives + at * wide) >= 0
    if SETS:
        high, total, near = float("-inf"), 0.0, tl.zeros([BLOCK], tl.float32)
        for slot in range(0, wide):
            chosen = tl.load(positives + at * wide + slot)
            if chosen >= 0:
                column = bank * num_columns + tl.minimum(chosen, num_columns - 1)
                other = tl.load(memory + column * width + d, mask=inside, other=0.0)
                other = other.to(tl.float32)
                logit = tl.sum(other * unit, 0) * inverse_temperature
                fresh = tl.maximum(high, logit)
                near = near * tl.exp(high - fresh) + other * tl.exp(logit - fresh)
                total = total * tl.exp(high - fresh) + tl.exp(logit - fresh)
                high = fresh
        change -= near / tl.where(some, total, 1.0)
    weight = tl.load(gradient + at if EACH else gradient).to(tl.float32) * inverse_temperature
    if MEAN:
        first = bank * num_rows
        _, count = row_sum(losses + first, positives + first * wide, num_rows, wide, ROWS)
        weight = weight / (tl.maximum(count, 1.0) * banks)
    change *= tl.where(some, weight, 0.0)
    change = (change - unit * tl.sum(change * unit, 0)) * scale
    tl.store(out + at * width + d, change.to(out.dtype.element_ty), mask=inside)


def contrast_forward(
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    *,
    temperature: float,
    reduction: str = "mean",
    lse: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and log-sum-exp of all logits.

    Args:
        features: ``[P, B, D]``, contiguous; need not be normalised.
        memory: ``[P, N, D]``, contiguous, of the same dtype.
        positives: ``[P, B, m]``, int64, contiguous, -1 padded at the end.
        temperature: divides the cosine.
        reduction: ``"mean"`` over rows with a positive and then over P, ``"sum"`` or ``"none"`` (``[P, B]``).
        lse: ``[P, B]`` float32 where it is known.
    """
    (banks, rows, width), (_, columns, _), t = features.shape, memory.shape, tiles(features)
    wide, pick = positives.shape[-1], positives.shape[-1] == 1 and lse is None
    with on_device(features):
        norms = inverse_norms(features)
        losses, total, partial, count = torch.empty_like(norms), lse, None, 0
        if lse is None:
            total, count = torch.empty_like(norms), triton.cdiv(columns, t.n)
            partial = features.new_empty(2, banks, count, rows, dtype=torch.float32)
            lse_tiles_kernel[(triton.cdiv(rows, t.m), count, banks)](
                features, memory, norms, positives, partial[0], partial[1], losses, rows, columns, width,
                1 / temperature, M=t.m, N=t.n, K=t.k, EVEN=width % t.k == 0, PRECISION=precision(features), PICK=pick,
                num_warps=t.warps, num_stages=t.stages,
            )  # fmt: skip
        slots = 1 if pick else triton.next_power_of_2(wide)
        unused = norms if partial is None else partial
        row_losses_kernel[(rows, banks)](
            features, memory, norms, positives, losses, unused[0], unused[-1], total, losses, rows, columns, width,
            wide, count, 1 / temperature, GIVEN=lse is not None, PICK=pick, WIDE=slots,
            BLOCK=min(128, max(16, 8192 // slots)), num_warps=4 if slots <= 256 else 8,
        )  # fmt: skip
        if reduction == "none":
            return losses.to(features.dtype), total
        loss = features.new_empty(())
        mean_kernel[(1,)](losses, positives, loss, banks, rows, wide, MEAN=reduction == "mean", BLOCK=1024, num_warps=4)
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
    pull: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gradient for ``features`` of :func:`contrast_forward`'s loss; ``pull [P, B, D]`` float32 is softmax @ memory."""
    (banks, rows, width), columns, wide = features.shape, memory.shape[1], positives.shape[-1]
    sets = wide > 1 or pull is not None
    with on_device(features):
        norms = inverse_norms(features)
        if pull is None:
            pull = torch.empty(features.shape, dtype=torch.float32, device=features.device)
            scratch = features.new_empty(banks, rows, chunk_columns(features, columns))
            targets = None if sets else positives
            for start in range(0, columns, scratch.shape[-1]):
                chunk_values(features, memory, norms, scratch, start, temperature, lse=lse, targets=targets)
                add_chunk(scratch, memory, pull, start)
        out = torch.empty_like(features)
        gradient_kernel[(rows, banks)](
            features, memory, norms, pull, positives, lse, gradient.contiguous(), out, banks, rows, columns, width,
            wide, 1 / temperature, MEAN=reduction == "mean", EACH=reduction == "none", SETS=sets,
            BLOCK=triton.next_power_of_2(width), ROWS=1024, num_warps=4,
        )  # fmt: skip
    return out
