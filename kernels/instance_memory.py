"""The k largest logits of feature rows in a large memory, their log-sum-exp and mean row, in one pass over the memory.

A chunk of columns at a time: logits into a scratch (:mod:`products`); one program a row keeps the k + 1 largest so far
and a running maximum and sum, and leaves the weights ``exp(logit - maximum)`` behind; a product adds them times the
memory. So the mean row ``softmax @ memory``, which the gradient of the log-sum-exp needs, costs one product and no
recomputation. A column enters the k + 1 largest only above the smallest of them: one comparison a column, and about
k·ln(N/C) insertions a row in all; nothing is sorted but the k winners.

A chunk is as wide as ``SCRATCH`` allows: at SYSU-MM01's size three launches search the whole features of a modality
and six to nine its parts. Scratch: 4 (half precision: 6) bytes a row and column of the chunk, 16 a row and neighbour.
Floor: B·N·D multiply-adds for the search, as many for the mean row; at D = 2048 the scratch's traffic (some 16 bytes a
logit, four of them from the cache) is a fifth of that.
Equal values at the (k+1)-th place all stay outside. No atomics: each row has one program.
"""

import torch
import triton
import triton.language as tl

from .launch import configuration, on_device
from .products import WEIGHT_ONE, add_chunk, chunk_columns, chunk_values, inverse_norms

SCRATCH = 2**27  # bytes of a chunk's logits, unless the chunk of the contrasts takes more


@triton.jit
def select_kernel(
    logits, weights, scale, row_max, row_sum, values, places, start, columns, stride, kept, FIRST: tl.constexpr,
    WEIGHTS: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Merge a chunk of a row: ``values`` and ``places`` ``[rows, K]`` hold the ``kept`` largest, in no order.

    It looks at ``C`` columns at a time, and again for their weights once the chunk's maximum is known.

    ``logits [rows, stride]`` is float32, ``weights [rows, stride]`` may be the same or half precision; ``scale``
    (by which the sums so far shrink), ``row_max`` and ``row_sum [rows]`` and ``values`` are float32, ``places`` int32.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, K)
    if FIRST:
        best = tl.where(slot < kept, float("-inf"), float("inf"))
        place = tl.full([K], -1, tl.int32)
    else:
        best = tl.load(values + row * K + slot)
        place = tl.load(places + row * K + slot)
    bound = tl.min(best, 0)
    old_max = tl.full([], float("-inf"), tl.float32) if FIRST else tl.load(row_max + row)
    new_max = old_max
    for begin in range(0, columns, C):
        c = begin + tl.arange(0, C)
        rest = tl.load(logits + row * stride + c, mask=c < columns, other=float("-inf"))
        rest = tl.where(rest == rest, rest, float("-inf"))  # NaN is never chosen, but stays in the sums
        top = tl.max(rest, 0)
        new_max = tl.maximum(new_max, top)
        while top > bound:
            at = tl.argmax(rest, 0)
            out = slot == tl.argmin(best, 0)
            best = tl.where(out, top, best)
            place = tl.where(out, start + begin + at, place)
            rest = tl.where(c == begin + at, float("-inf"), rest)
            bound = tl.min(best, 0)
            top = tl.max(rest, 0)
    tl.store(values + row * K + slot, best)
    tl.store(places + row * K + slot, place)
    alpha = tl.exp(old_max - new_max)
    total = tl.zeros([C], tl.float32)
    for begin in range(0, stride, C):
        c = begin + tl.arange(0, C)
        weight = tl.exp(tl.load(logits + row * stride + c, mask=c < columns, other=float("-inf")) - new_max)
        total += weight
        if WEIGHTS:
            tl.store(weights + row * stride + c, (weight * WEIGHT_ONE).to(weights.dtype.element_ty), mask=c < stride)
    old = 0.0 if FIRST else tl.load(row_sum + row) * alpha
    tl.store(row_max + row, new_max)
    tl.store(row_sum + row, old + tl.sum(total, 0))
    if WEIGHTS:
        tl.store(scale + row, alpha)


@triton.jit
def neighbors_kernel(
    values, places, row_max, row_sum, indices, lse, k, kept, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Columns above the smallest of the ``kept`` values, ascending, -1 behind them; and the log-sum-exp."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, K)
    value = tl.load(values + row * K + slot)
    place = tl.load(places + row * K + slot)
    bound = tl.min(value, 0)
    keep = (value > bound) & (slot < kept)
    rank = tl.zeros([K], tl.int32)
    for start in range(0, K, BLOCK):
        other = start + tl.arange(0, BLOCK)
        other_place = tl.load(places + row * K + other)
        other_keep = (tl.load(values + row * K + other) > bound) & (other < kept)
        rank += tl.sum((other_keep[None, :] & (other_place[None, :] < place[:, None])).to(tl.int32), 1)
    count = tl.sum(keep.to(tl.int32), 0)
    tl.store(indices + row * k + rank, place.to(tl.int64), mask=keep)
    tl.store(indices + row * k + slot, tl.full([K], -1, tl.int64), mask=(slot >= count) & (slot < k))
    tl.store(lse + row, tl.load(row_max + row) + tl.log(tl.load(row_sum + row)))


def instance_search(
    features: torch.Tensor, memory: torch.Tensor, k: int, *, temperature: float, mean: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Neighbours, log-sum-exp and, where ``mean``, ``softmax(logits) @ memory``.

    Args:
        features: ``[P, B, D]``, contiguous; need not be normalised.
        memory: ``[P, N, D]``, contiguous, of the same dtype.
        k: the most neighbours of a row.
        temperature: divides the cosine.
        mean: whether to make the third result.

    Returns:
        ``[P, B, k]`` int64 ascending and -1 padded, ``[P, B]`` float32, ``[P, B, D]`` float32 or None.
    """
    (parts, rows, _), columns = features.shape[:3], memory.shape[1]
    slots, piece = triton.next_power_of_2(k + 1), chunk_columns(features, columns)
    chunk = min(max(SCRATCH // (4 * parts * rows) // piece, 1) * piece, triton.cdiv(columns, piece) * piece)
    select = configuration("instance_memory.select", features.device)
    t = configuration("instance_memory.neighbors", features.device)
    block = min(t["BLOCK"], slots, max(2, t["ELEMENTS"] // slots))
    warps = 1 if slots <= 64 else 4 if slots <= 512 else 8
    flat = dict(dtype=torch.float32, device=features.device)
    with on_device(features):
        norms = inverse_norms(features)
        logits = torch.empty(parts, rows, chunk, **flat)
        weights = torch.empty_like(logits, dtype=features.dtype) if features.dtype != torch.float32 else logits
        scale, row_max, row_sum, lse = (torch.empty(parts, rows, **flat) for _ in range(4))
        values = torch.empty(parts, rows, slots, **flat)
        places = torch.empty_like(values, dtype=torch.int32)
        mean_row = torch.empty(features.shape, **flat) if mean else None
        for start in range(0, columns, chunk):
            chunk_values(features, memory, norms, logits, start, temperature)
            select_kernel[(parts * rows,)](
                logits, weights, scale, row_max, row_sum, values, places, start, min(chunk, columns - start), chunk,
                k + 1, FIRST=start == 0, WEIGHTS=mean, C=triton.next_power_of_2(piece), K=slots, **select,
            )  # fmt: skip
            if mean:
                last = start + chunk >= columns
                add_chunk(weights, memory, mean_row, start, scale=scale, sums=row_sum if last else None)
        indices = torch.empty(parts, rows, k, dtype=torch.int64, device=features.device)
        neighbors_kernel[(parts * rows,)](
            values, places, row_max, row_sum, indices, lse, k, k + 1, K=slots, BLOCK=block, num_warps=warps
        )
    return indices, lse, mean_row
