"""Nearest rows: similarity and selection in one kernel, candidates in float16, the neighbours among them in float32.

1. Rows lose the mean of the database, which changes no order, and are rounded to float16; what that takes from each is
   measured, so that every product on tensor cores is known to be wrong by at most ``E``.
2. One column of 8 is scored, and the largest score of each small group of them kept. The k-th largest of these is a
   lower bound of a row's k-th largest score.
3. All columns are scored; those that reach the bound less 2E are written to a list of their row, and nothing else is.
4. The k-th largest score of a list less 2E leaves a few more than k candidates. None that is missing could be one of
   the k: that is the certificate. A row whose list overflows (hundreds of close ties) is reported, not guessed.
5. Candidates are scored in float32 and ordered by score and index.

Read and written: rows once for rounding, then as float16 tiles as in a matrix product; 8 bytes an entry of the lists
(about 256 a row), 4·D a candidate. Lists fill in any order (integer atomics); what comes of them does not depend on it.

Estimates for an H100 at Q = N = 22,258, D = 2048 and k = 30, not measured: ``collect_kernel`` has 2.03 TFLOP and
``maxima_kernel`` an eighth of it, 2.9 ms together at 798 TFLOP/s. Their tiles of 128 x 256, one block an SM, fetch
27 GB from the L2 cache, 4.9 ms at some 5.5 TB/s: that is the limit (36 GB and 6.5 ms where tiles are 128 x 128, which
also read and write shared memory at 160 bytes a cycle; these take the 128 that an SM has). The candidates are 6 GB,
2.0 ms at 3.0 TB/s.

A tile of ``collect_kernel`` takes some 33,000 instructions of a warp at D = 128 in code for sm_90. Almost all of them
make its lists: 8,000 cycles beside 39,000 of the tensor cores at D = 2048, wherever the matches lie. (To take the
largest match of every row, as often as the row with most has one, is twice that where each row has three in a tile, and
more where they lie side by side, as images of one identity do.)

Tiles fetched by tensor descriptors, with a program a tile or persistent, compile to the same wgmma and waits and to 81
instead of 123 instructions a warp in the loop, which has slots for 512: but they fetch the same bytes, and those are
the limit. Pairs of blocks that share what they fetch (``num_ctas=2``) do not compile in Triton 3.6.
"""

import torch
import triton
import triton.language as tl

from .launch import configuration, on_device
from .products import left_and_right, tile_products

MAX_K = 1024
CHUNK_BYTES = 2**28  # of group maxima and lists, for the rows of a chunk
LIST = 512  # entries of a list; 2 k where that is more
SIGN, ALL = tl.constexpr(2**31), tl.constexpr(2**32 - 1)  # bits of a float32 number
BANDS = tl.constexpr(8)  # blocks of rows that share the columns in the cache


@triton.jit
def halve_kernel(
    x, centre, scale, half, lengths, errors, bias, width, padded, SQEUCLIDEAN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """``half = scale (x - centre)`` of a row, its length and that of what rounding took, and what a score loses."""
    row = tl.program_id(0).to(tl.int64)
    by = tl.load(scale)
    squares = tl.zeros([BLOCK], tl.float32)
    lost = tl.zeros([BLOCK], tl.float32)
    along = tl.zeros([BLOCK], tl.float32)
    for left in range(0, padded, BLOCK):
        d = left + tl.arange(0, BLOCK)
        value = tl.load(x + row * width + d, mask=d < width, other=0.0) * by
        middle = tl.load(centre + d, mask=d < width, other=0.0) * by
        moved = value - middle
        low = moved.to(tl.float16)
        tl.store(half + row * padded + d, low, mask=d < padded)
        squares += moved * moved
        lost += (moved - low.to(tl.float32)) * (moved - low.to(tl.float32))
        along += value * middle
    square = tl.sum(squares, 0)
    tl.store(lengths + row, tl.sqrt_rn(square))
    tl.store(errors + row, tl.sqrt_rn(tl.sum(lost, 0)))
    tl.store(bias + row, square * 0.5 if SQEUCLIDEAN else -tl.sum(along, 0))


@triton.jit
def place_of(num_rows, tiles, M: tl.constexpr):
    """Block of rows and tile of columns of a program. Programs that run together share few of either, for the cache."""
    program = tl.program_id(0)
    blocks = tl.cdiv(num_rows, M)
    band = program // (BANDS * tiles)
    tall = tl.minimum(blocks - band * BANDS, BANDS)
    inside = program - band * BANDS * tiles
    return band * BANDS + inside % tall, inside // tall


@triton.jit
def tile_scores(
    x, y, bias, rows, columns, num_rows, num_columns, width, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr
):  # fmt: skip
    """``x[rows] · y[columns] - bias[columns]``, -Inf from ``num_columns`` on."""
    at = tl.minimum(rows, num_rows - 1).to(tl.int64)
    column = tl.minimum(columns, num_columns - 1).to(tl.int64)
    scores = tile_products(x, y, at, column, width, M, N, K, True, "ieee")
    return scores - tl.load(bias + columns, mask=columns < num_columns, other=float("inf"))[None, :]


@triton.jit
def maxima_kernel(
    x, y, bias, maxima, num_rows, num_columns, width, tiles, STRIDE: tl.constexpr, GROUP: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Largest scores of groups of columns that lie far apart: images stored side by side are often alike."""
    block, tile = place_of(num_rows, tiles, M)
    rows = block * M + tl.arange(0, M)
    sample = tile + tl.arange(0, N) * tiles
    columns = sample * STRIDE + ((sample * 40503) >> 8 & (STRIDE - 1))  # as by chance: alike images may lie at a period
    scores = tile_scores(x, y, bias, rows, columns, num_rows, num_columns, width, M, N, K)
    groups: tl.constexpr = N // GROUP
    best = tl.max(tl.reshape(scores, [M, groups, GROUP]), 2)
    to = rows.to(tl.int64)[:, None] * (tiles * groups) + (tile * groups + tl.arange(0, groups))[None, :]
    tl.store(maxima + to, best, mask=(rows < num_rows)[:, None])


@triton.jit
def collect_kernel(
    x, y, bias, bounds, scores_out, places, counts, num_rows, num_columns, width, tiles, CAPACITY: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Add the columns that reach a row's bound to its list; ``counts`` goes on where a list is full."""
    block, tile = place_of(num_rows, tiles, M)
    rows = block * M + tl.arange(0, M)
    columns = tile * N + tl.arange(0, N)
    scores = tile_scores(x, y, bias, rows, columns, num_rows, num_columns, width, M, N, K)
    bound = tl.load(bounds + rows, mask=rows < num_rows, other=float("inf"))
    reached = (scores >= bound[:, None]).to(tl.int32)
    total = tl.sum(reached, 1)
    before = tl.atomic_add(counts + rows, total, mask=total > 0, sem="relaxed")
    to = rows.to(tl.int64) * CAPACITY
    left, right = left_and_right(scores)
    first, second = left_and_right(left)
    third, fourth = left_and_right(right)
    strips = left_and_right(first) + left_and_right(second) + left_and_right(third) + left_and_right(fourth)
    for i in tl.static_range(8):  # in turn, for want of registers
        reached = (strips[i] >= bound[:, None]).to(tl.int32)
        n = before[:, None] + tl.cumsum(reached, 1) - 1
        there = (reached > 0) & (n < CAPACITY)
        place = tl.broadcast_to((tile * N + i * (N // 8) + tl.arange(0, N // 8))[None, :], [M, N // 8])
        tl.store(scores_out + to[:, None] + n, strips[i], mask=there)
        tl.store(places + to[:, None] + n, place, mask=there)
        before += tl.sum(reached, 1)


@triton.jit
def narrow_kernel(
    scores, places, counts, errors, kept, totals, num_rows, first_row, k, EXCLUDE_SELF: tl.constexpr,
    CAPACITY: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Entries of a list that reach its k-th largest score less twice the error; none of a list that overflowed.

    Where ``EXCLUDE_SELF``, row and entry of the same index are the same image, which is left out.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = rows < num_rows
    count = tl.load(counts + rows, mask=real, other=0)
    error = tl.load(errors + rows, mask=real, other=0.0)
    n = tl.arange(0, CAPACITY)[None, :]
    entries = rows[:, None] * CAPACITY + n
    there = n < count[:, None]
    score = tl.load(scores + entries, mask=there, other=float("-inf"))
    place = tl.load(places + entries, mask=there, other=0)
    bits = score.to(tl.uint32, bitcast=True)
    level = bits ^ tl.where(bits >= SIGN, ALL, SIGN)  # in the order of the scores
    largest = tl.zeros([ROWS], tl.uint32)  # the highest level that k entries reach, found bit by bit
    step = tl.full([], SIGN, tl.uint32)
    for _ in range(32):
        surplus = tl.sum(tl.where(level >= (largest + step)[:, None], 1, -1), 1)  # entries that reach it, less others
        largest += tl.where(surplus >= 2 * k - CAPACITY, step, 0)
        step = step >> 1
    kth = (largest ^ tl.where(largest >= SIGN, SIGN, ALL)).to(tl.float32, bitcast=True)
    keep = (there & (score >= (kth - 2 * error)[:, None]) & (count <= CAPACITY)[:, None]).to(tl.int32)
    if EXCLUDE_SELF:
        keep = tl.where(place == (first_row + rows)[:, None], 0, keep)
    tl.store(kept + rows[:, None] * CAPACITY + tl.cumsum(keep, 1) - 1, place, mask=keep > 0)
    tl.store(totals + rows, tl.sum(keep, 1), mask=real)


@triton.jit
def rescore_kernel(
    x, y, kept, totals, scores, width, SQEUCLIDEAN: tl.constexpr, CAPACITY: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Inner products in float32 of a row and its candidates, or (``SQEUCLIDEAN``) negative squared distances."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.load(totals + row)
    for start in range(0, total, C):
        n = start + tl.arange(0, C)
        place = tl.load(kept + row * CAPACITY + n, mask=n < total, other=0).to(tl.int64)
        score = tl.zeros([C, BLOCK], tl.float32)
        for left in range(0, width, BLOCK):
            d = left + tl.arange(0, BLOCK)
            a = tl.load(x + row * width + d, mask=d < width, other=0.0)[None, :]
            b = tl.load(y + place[:, None] * width + d[None, :], mask=(d < width)[None, :], other=0.0)
            score = score - (a - b) * (a - b) if SQEUCLIDEAN else score + a * b
        tl.store(scores + row * CAPACITY + n, tl.sum(score, 1), mask=n < total)


@triton.jit
def order_kernel(
    scores, kept, totals, out, indices, k, stride, CAPACITY: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The first k candidates of a row: the larger before the smaller, equal ones by index."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.load(totals + row)
    scores += row * CAPACITY
    kept += row * CAPACITY
    for start in range(0, total, BLOCK):
        n = start + tl.arange(0, BLOCK)
        score = tl.load(scores + n, mask=n < total, other=float("-inf"))
        place = tl.load(kept + n, mask=n < total, other=0)
        rank = tl.zeros([BLOCK], tl.int32)
        for begin in range(0, total, BLOCK):
            m = begin + tl.arange(0, BLOCK)
            rival = tl.load(scores + m, mask=m < total, other=float("-inf"))[None, :]
            rival_place = tl.load(kept + m, mask=m < total, other=0x7FFFFFFF)[None, :]
            ahead = (rival > score[:, None]) | ((rival == score[:, None]) & (rival_place < place[:, None]))
            rank += tl.sum(ahead.to(tl.int32), 1)
        first = (n < total) & (rank < k)
        tl.store(out + row * stride + rank, score, mask=first)
        tl.store(indices + row * stride + rank, place.to(tl.int64), mask=first)


def search(
    x: torch.Tensor,
    y: torch.Tensor,
    k: int,
    scores: torch.Tensor,
    indices: torch.Tensor,
    *,
    exclude_self: bool,
    sqeuclidean: bool,
) -> torch.Tensor:
    """Fill ``scores`` and ``indices`` with the ``k`` rows of ``y`` nearest to every row of ``x``, equal ones by index.

    Args:
        x: ``[Q, D]``, float32, contiguous.
        y: ``[N, D]`` likewise, N > k; the same tensor where ``exclude_self``, and then a row does not find itself.
        k: from 1 to :data:`MAX_K`, and below N.
        scores: ``[Q, k]``, float32; rows may lie further apart.
        indices: ``[Q, k]``, int64, of the same strides.
        sqeuclidean: scores are squared distances with their sign turned, not inner products.

    Returns:
        ``[Q]``, which rows have no result because their lists overflowed: nothing in them is filled.
    """
    (count, width), size = x.shape, len(y)
    device, capacity = x.device, max(LIST, triton.next_power_of_2(2 * k))
    tile, narrow = configuration("knn.products", device), configuration("knn.narrow", device)
    rescore, order = configuration("knn.rescore", device), configuration("knn.order", device)
    rescore["BLOCK"] = min(rescore["BLOCK"], triton.next_power_of_2(width))
    height, strip, depth = tile["M"], tile["N"], tile["K"]
    ranks = k + exclude_self  # a row would find itself
    stride, group = sampling(size, ranks, strip)
    tiles, groups = triton.cdiv(triton.cdiv(size, stride), strip), strip // group
    lists = max(1, narrow.pop("ELEMENTS") // capacity)  # of a program
    step = max(height, CHUNK_BYTES // (4 * tiles * groups + 12 * capacity) // height * height)
    totals = torch.empty(count, dtype=torch.int32, device=x.device)
    with on_device(x):
        half_x, half_y, bias, errors = rounded(x, y, depth, exclude_self=exclude_self, sqeuclidean=sqeuclidean)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            number = rows.stop - start
            blocks, wide = triton.cdiv(number, height), triton.cdiv(size, strip)
            maxima, found = x.new_empty(number, tiles * groups), x.new_empty(number, capacity)
            places, kept = (torch.empty(number, capacity, dtype=torch.int32, device=x.device) for _ in range(2))
            counts = torch.zeros(number, dtype=torch.int32, device=x.device)
            products, shape = (half_x[rows], half_y, bias), (number, size, half_y.shape[1])
            maxima_kernel[(blocks * tiles,)](*products, maxima, *shape, tiles, STRIDE=stride, GROUP=group, **tile)
            bounds = maxima.topk(ranks).values[:, -1] - 2 * errors[rows]
            collect_kernel[(blocks * wide,)](
                *products, bounds, found, places, counts, *shape, wide, CAPACITY=capacity, **tile
            )
            narrow_kernel[(triton.cdiv(number, lists),)](
                found, places, counts, errors[rows], kept, totals[rows], number, start, ranks,
                EXCLUDE_SELF=exclude_self, CAPACITY=capacity, ROWS=lists, **narrow,
            )  # fmt: skip
            rescore_kernel[(number,)](
                x[rows], y, kept, totals[rows], found, width, SQEUCLIDEAN=sqeuclidean, CAPACITY=capacity, **rescore,
            )  # fmt: skip
            order_kernel[(number,)](
                found, kept, totals[rows], scores[rows], indices[rows], k, scores.stride(0), CAPACITY=capacity, **order,
            )  # fmt: skip
    return totals < k


def sampling(size: int, k: int, columns: int) -> tuple[int, int]:
    """The step between columns that are scored for the bound, and how many of them make a group.

    About 256 columns then reach the bound: with six groups for every neighbour the k-th largest maximum is about the
    1.1 k-th largest of the scores sampled.
    """
    stride, group = 8, columns
    while stride > 1 and (stride * k > 256 or size < 6 * k * stride):
        stride //= 2
    while group > 1 and size < 6 * k * stride * group:
        group //= 2
    return stride, group


def rounded(
    x: torch.Tensor, y: torch.Tensor, multiple: int, *, exclude_self: bool, sqeuclidean: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both sides in float16, what a column's score loses, and a bound of the error of a row's scores.

    ``x · y`` in exact arithmetic and the same of the rounded rows differ by ``|x| |dy| + |dx| |y + dy|`` at most; a sum
    of D products on tensor cores, which cut their terms off, by D units in the last place of the sum of their sizes.
    Zeros fill rows up to a ``multiple``.
    """
    centre = y.mean(0)
    ends = torch.stack([end for side in ((y,) if exclude_self else (x, y)) for end in side.aminmax()])
    scale = 1 / ends.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    half_y, lengths_y, errors_y, bias = _halved(y, centre, scale, multiple, sqeuclidean)
    half_x, lengths, errors = half_y, lengths_y, errors_y
    if not exclude_self:
        half_x, lengths, errors, _ = _halved(x, centre, scale, multiple, sqeuclidean)
    length, error = lengths_y.max(), errors_y.max()
    summed = (x.shape[1] + 2) * 2.0**-23 * (lengths + errors) * (length + error) + 2.0**-20 * bias.abs().max()
    return half_x, half_y, bias, lengths * error + errors * (length + error) + summed


def _halved(x: torch.Tensor, centre: torch.Tensor, scale: torch.Tensor, multiple: int, sqeuclidean: bool) -> tuple:
    (count, width), padded = x.shape, triton.cdiv(x.shape[1], multiple) * multiple
    half = torch.empty(count, padded, dtype=torch.float16, device=x.device)
    lengths, errors, bias = (x.new_empty(count) for _ in range(3))
    t = configuration("knn.round", x.device)
    t["BLOCK"] = min(t["BLOCK"], triton.next_power_of_2(padded))
    halve_kernel[(count,)](x, centre, scale, half, lengths, errors, bias, width, padded, SQEUCLIDEAN=sqeuclidean, **t)
    return half, lengths, errors, bias
