"""The k largest logits of feature rows in a large memory, their log-sum-exp and mean row, in one pass over the memory.

A chunk of columns at a time: logits into a scratch (:mod:`products`); one program a row keeps the k + 1 largest so far
and a running maximum and sum, and leaves the weights ``exp(logit - maximum)`` behind; a product adds them times the
memory. So the mean row ``softmax @ memory``, which the gradient of the log-sum-exp needs, costs one product and no
recomputation. Of every group of some 100 columns only the maximum is looked at, unless that enters the k + 1 largest;
nothing is sorted but the k winners. A program is one warp, so that its maxima cross no shared memory: in code for sm_90
a row of 22,258 columns of chance takes some 37,000 instructions of a warp and one of 11,909 some 29,000, at SYSU-MM01's
size 0.3 ms of a step on an H100 (an estimate too). Four warps that keep 4,096 columns in registers, and look through
all of them for each of the k + 1, take four times as many.

Several features with several memories each (:mod:`groups`) are searched side by side, each in as many chunks as the one
that needs most, and a chunk is as wide as ``SCRATCH`` allows: at SYSU-MM01's size the whole features and the parts, in
both modalities, take three chunks of three launches, one launch before and one behind them. Scratch: 4 bytes (6 with
weights in half precision) a row and column of the chunk, 212 MB (317) there, and 16 a row and neighbour.
Floor: B·N·D multiply-adds for the search, as many for the mean row; at D = 2048 the scratch's traffic (some 16 bytes a
logit, four of them from the cache) is a fifth of that. At 3 x 1,296 rows, 22,258 columns and D = 2048 the logits are
1.06 TFLOP of float16 and the mean row is 354 GFLOP: estimates for an H100, not measured, are 1.5 ms (a loop over a
block of 128 x 64 x 32 takes 486 cycles to issue and 384 of the tensor cores, as three products of TF32 708 and 768) and
0.4 ms in bfloat16. They and ``select_kernel`` move 2.81 GB, with weights in bfloat16 2.17 GB, in 0.9 and 0.7 ms of
copies.
The logits decide sets, so those of a float32 memory are float32 whatever the mean row is multiplied in, by products of
float16 halves that are as exact (docs/numerics.md, "float32 on tensor cores"); the weights go to the product in the
dtype that the memory has there.
Equal values at the (k+1)-th place all stay outside. No atomics: each row has one program.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .groups import Terms, chosen, coded, row_of, size_of
from .launch import configuration, on_device
from .products import WEIGHT_ONE, add_chunk, chunk_columns, chunk_values, inverse_norms

QUAD = tl.constexpr(4)  # numbers of float32 that are loaded at a time
SCRATCH = 2**27  # bytes of a chunk's logits with one memory, unless the chunk of the contrasts takes more


@triton.jit
def load_comparable(logits, at, room, left):
    """-Inf from ``left`` on, and in the place of NaN, which is never chosen but stays in the sums."""
    value = tl.load(logits + at, mask=at < room, other=float("-inf"))
    return tl.where((value == value) & (at < left), value, float("-inf"))


@triton.jit
def select_kernel(
    logits, weights, scale, row_max, row_sum, values, places, parts, rows, columns, start, stride, kept,
    FIRST: tl.constexpr, WEIGHTS: tl.constexpr, C: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Merge a chunk of a row: ``values`` and ``places`` ``[n, R, K]`` hold the ``kept`` largest, in no order.

    Four columns side by side and those that lie a multiple of C further make a group, of GROUP at most. The maximum of
    every group is found first; then groups are loaded again, the largest maximum first, while that is above the
    smallest of the ``kept``.

    ``logits [P, B, stride]`` of a term are float32, its ``weights`` may be the same or half precision; ``scale``
    (by which the sums so far shrink), ``row_max`` and ``row_sum [n, R]`` and ``values`` are float32, ``places`` int32.
    """
    row, bank = tl.program_id(0).to(tl.int64), tl.program_id(1)
    group, first, _ = row_of(row, parts, rows)
    term, local = bank * len(rows) + group, row - first
    skipped, room = chosen(start, term), chosen(stride, term)
    left = tl.minimum(size_of(columns, term) - skipped, room)
    logits_at, weights_at = chosen(logits, term) + local * room, chosen(weights, term) + local * room
    row += bank * tl.num_programs(0).to(tl.int64)
    slot, entry = tl.arange(0, K), tl.arange(0, GROUP)
    if FIRST:
        best = tl.where(slot < kept, float("-inf"), float("inf"))
        place = tl.full([K], -1, tl.int32)
    else:
        best = tl.load(values + row * K + slot)
        place = tl.load(places + row * K + slot)
    bound = tl.min(best, 0)
    quad = tl.arange(0, C // QUAD)
    tops = tl.full([C // QUAD], float("-inf"), tl.float32)
    for begin in range(0, left, C):
        four = load_comparable(logits_at, begin + quad[:, None] * QUAD + tl.arange(0, QUAD)[None, :], room, left)
        tops = tl.maximum(tops, tl.max(four, 1))
    top = tl.max(tops, 0)
    old_max = tl.full([], float("-inf"), tl.float32) if FIRST else tl.load(row_max + row)
    new_max = tl.maximum(old_max, top)
    while top > bound:
        at = tl.argmax(tops, 0)
        tops = tl.where(quad == at, float("-inf"), tops)
        member = at * QUAD + entry // QUAD * C + entry % QUAD
        rest = load_comparable(logits_at, member, room, left)
        while top > bound:
            n = tl.argmax(rest, 0)
            out = slot == tl.argmin(best, 0)
            best = tl.where(out, top, best)
            place = tl.where(out, skipped + at * QUAD + n // QUAD * C + n % QUAD, place)
            rest = tl.where(entry == n, float("-inf"), rest)
            bound = tl.min(best, 0)
            top = tl.max(rest, 0)
        top = tl.max(tops, 0)
    tl.store(values + row * K + slot, best)
    tl.store(places + row * K + slot, place)
    alpha = tl.exp(old_max - new_max)
    total = tl.zeros([C], tl.float32)
    tl.debug_barrier()  # weights of float32 take the place of logits that other threads have loaded
    for begin in range(0, room, C):
        c = begin + tl.arange(0, C)
        weight = tl.exp(tl.where(c < left, tl.load(logits_at + c, mask=c < room), float("-inf")) - new_max)
        total += weight
        if WEIGHTS:
            tl.store(weights_at + c, (weight * WEIGHT_ONE).to(weights_at.dtype.element_ty), mask=c < room)
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
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    k: int,
    *,
    temperature: float,
    mean: bool,
    rounded: Sequence[torch.Tensor] | None = None,
    tf32: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Neighbours, log-sum-exp and, where ``mean``, ``softmax(logits) @ memory``; terms are those of :mod:`groups`.

    Args:
        features: each ``[P, B, D]``, contiguous; need not be normalised.
        memories: of each term ``[P, N, D]``, contiguous, of the same dtype.
        k: the most neighbours of a row.
        temperature: divides the cosine.
        mean: whether to make the third result.
        rounded: the memories in half precision, which then make the third result.
        tf32: multiply float32 in one product of TF32 for the third result.

    Returns:
        ``[n, R, k]`` int64 ascending and -1 padded, ``[n, R]`` float32, ``[n, R, D]`` float32 or None.
    """
    terms, slots = Terms(features, memories), triton.next_power_of_2(k + 1)
    sums = Terms(features, rounded or memories, tf32=tf32)
    lead = terms.count, terms.all_rows
    pieces = [chunk_columns(features[0], columns) for columns in terms.columns]
    chunks = chunk_widths(terms, pieces)
    select = configuration("instance_memory.select", terms.device)
    wide = min(select.pop("BLOCK"), triton.next_power_of_2(max(chunks)))
    select["C"] = max(wide, 32 * select["num_warps"])  # see launch.at_most_one_each
    select["GROUP"] = 4 * triton.next_power_of_2(triton.cdiv(max(chunks), select["C"]))
    t = configuration("instance_memory.neighbors", terms.device)
    t["BLOCK"] = min(t["BLOCK"], slots, max(2, t.pop("ELEMENTS") // slots))
    t["num_warps"] = 1 if slots <= 64 else 4 if slots <= 512 else 8
    with on_device(features[0]):
        norms = inverse_norms(terms)
        sizes = list(zip(terms.of_features(terms.parts), terms.of_features(terms.rows), chunks, strict=True))
        logits = weights = tuple(terms.new(*size) for size in sizes)
        if sums.dtype != torch.float32:
            weights = tuple(terms.new(*size, dtype=sums.dtype) for size in sizes)
        scale, row_max, row_sum, lse = (terms.new(*lead) for _ in range(4))
        values, places = terms.new(*lead, slots), terms.new(*lead, slots, dtype=torch.int32)
        mean_row = terms.new(*lead, terms.width) if mean else None
        start = (0,) * len(chunks)
        while any(first < columns for first, columns in zip(start, terms.columns, strict=True)):
            chunk_values(terms, norms, logits, start, temperature)
            select_kernel[(terms.all_rows, terms.count)](
                logits, weights, scale, row_max, row_sum, values, places, *terms.sizes, coded(terms.columns), start,
                chunks, k + 1, FIRST=not any(start), WEIGHTS=mean, K=slots, **select,
            )  # fmt: skip
            if mean:
                add_chunk(sums, weights, mean_row, start, scale=scale, sums=row_sum)
            start = tuple(first + chunk for first, chunk in zip(start, chunks, strict=True))
        indices = terms.new(*lead, k, dtype=torch.int64)
        neighbors_kernel[(terms.count * terms.all_rows,)](
            values, places, row_max, row_sum, indices, lse, k, k + 1, K=slots, **t
        )
    return indices, lse, mean_row


def chunk_widths(terms: Terms, pieces: Sequence[int]) -> tuple[int, ...]:
    """Columns of each term's chunks: whole pieces, none beyond ``SCRATCH``, and of all terms equally many chunks."""
    sizes = zip(terms.of_features(terms.parts), terms.of_features(terms.rows), pieces, strict=True)
    most = [max(SCRATCH // (4 * parts * rows) // piece, 1) * piece for parts, rows, piece in sizes]
    launches = max(triton.cdiv(columns, wide) for columns, wide in zip(terms.columns, most, strict=True))
    return tuple(
        min(wide, triton.cdiv(triton.cdiv(columns, launches), piece) * piece)
        for wide, columns, piece in zip(most, terms.columns, pieces, strict=True)
    )
