"""Nearest rows: similarity and selection in one kernel, candidates in float16, the neighbours among them in float32.

Two passes of float16 products on tensor cores, neither of which leaves anything of size N×N behind. The first writes
the largest score of every group of columns; the k-th largest of these is a lower bound of a row's k-th largest score.
A float16 score is off by at most E (the norms of what rounding to float16 took from both rows, and the accumulation),
so every true neighbour has a float16 score of the bound less 2E at least: the second pass collects the columns that
do. They are rescored in float32, and ordered by score and index in one 64-bit key. The candidates of a row are certain
to hold its neighbours, whatever the data; a row with more of them than fit (many duplicates) is reported, not guessed.

A group takes columns at a distance of the number of groups, so that images stored one after the other, which are alike,
do not share a group. Floor: 2 x 2·Q·N·D FLOP in float16; 4·D bytes a candidate, some 2k of them a row. No atomics.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .products import on_device, tile_products

GROUP = 128  # columns of a group, and of a tile
SPLITS = 4  # parts of the columns that different programs collect from
CAPACITY = 64  # candidates of a row in one of them; more where k is larger
CHUNK_BYTES = 2**28  # of everything that is kept for the rows of a chunk
NOTHING = -(2**63)  # key of an empty place: below every score


class Tiles(NamedTuple):
    """Rows of a tile, depth of a step, warps and pipeline stages."""

    m: int
    k: int
    warps: int
    stages: int


TILES = {8: Tiles(128, 32, 8, 3), 9: Tiles(128, 64, 8, 3), 10: Tiles(128, 64, 8, 3)}
INTERPRETED = Tiles(16, 16, 4, 1)
INTERPRETED_GROUP = 4


@triton.jit
def tile_scores(
    x, y, bias, rows, columns, num_rows, num_columns, first_row, width, M: tl.constexpr, N: tl.constexpr,
    K: tl.constexpr, EVEN: tl.constexpr, OWN: tl.constexpr,
):  # fmt: skip
    """``x[rows] · y[columns] - bias[columns]``, -Inf outside and, where ``OWN``, for a row itself."""
    at = tl.minimum(columns, num_columns - 1)
    scores = tile_products(x, y, tl.minimum(rows, num_rows - 1), at, width, M, N, K, EVEN, "ieee")
    scores -= tl.load(bias + at)[None, :]
    scores = tl.where((columns < num_columns)[None, :], scores, float("-inf"))
    if OWN:
        scores = tl.where(columns[None, :] == (first_row + rows)[:, None], float("-inf"), scores)
    return scores


@triton.jit
def maxima_kernel(
    x, y, bias, maxima, num_rows, num_columns, first_row, width, groups, M: tl.constexpr, N: tl.constexpr,
    K: tl.constexpr, EVEN: tl.constexpr, OWN: tl.constexpr, SWIZZLE: tl.constexpr,
):  # fmt: skip
    """``maxima[row, group]``; programs near in time share rows and columns."""
    program = tl.program_id(0)
    blocks = tl.cdiv(num_rows, M)
    band = program // (SWIZZLE * groups)
    tall = tl.minimum(blocks - band * SWIZZLE, SWIZZLE)
    inside = program % (SWIZZLE * groups)
    block = band * SWIZZLE + inside % tall
    group = inside // tall
    rows = block.to(tl.int64) * M + tl.arange(0, M)
    columns = group + tl.arange(0, N).to(tl.int64) * groups
    scores = tile_scores(x, y, bias, rows, columns, num_rows, num_columns, first_row, width, M, N, K, EVEN, OWN)
    tl.store(maxima + rows * groups + group, tl.max(scores, 1), mask=rows < num_rows)


@triton.jit
def collect_kernel(
    x, y, bias, bounds, places, counts, num_rows, num_columns, first_row, width, groups, share, capacity,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr, OWN: tl.constexpr,
):  # fmt: skip
    """Columns whose score reaches a row's bound, in the order in which they come, and how many there are."""
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    split = tl.program_id(1)
    bound = tl.load(bounds + tl.minimum(rows, num_rows - 1))
    list_of = rows * tl.num_programs(1) + split
    count = tl.zeros([M], tl.int32)
    for group in range(split * share, tl.minimum(groups, (split + 1) * share)):
        columns = group + tl.arange(0, N).to(tl.int64) * groups
        scores = tile_scores(x, y, bias, rows, columns, num_rows, num_columns, first_row, width, M, N, K, EVEN, OWN)
        hit = (scores >= bound[:, None]) & (scores > float("-inf")) & (rows < num_rows)[:, None]
        place = count[:, None] + tl.cumsum(hit.to(tl.int32), 1) - 1
        to = places + list_of[:, None] * capacity + place
        tl.store(to, columns[None, :].to(tl.int32) + place * 0, mask=hit & (place < capacity))
        count += tl.sum(hit.to(tl.int32), 1)
    tl.store(counts + list_of, count, mask=rows < num_rows)


@triton.jit
def rescore_kernel(
    x, y, places, counts, keys, first_row, width, capacity, splits, NEAR: tl.constexpr, C: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Keys of a row's candidates: float32 inner products (``NEAR``: squared distances, turned), then the index."""
    row = tl.program_id(0).to(tl.int64)
    x += (first_row + row) * width
    for split in range(splits):
        count = tl.minimum(tl.load(counts + row * splits + split), capacity)
        start_of = (row * splits + split) * capacity
        for start in range(0, count, C):
            n = start + tl.arange(0, C)
            place = tl.load(places + start_of + n, mask=n < count, other=0)
            total = tl.zeros([C, BLOCK], tl.float32)
            for left in range(0, width, BLOCK):
                d = left + tl.arange(0, BLOCK)
                a = tl.load(x + d, mask=d < width, other=0.0)[None, :]
                b = tl.load(y + place.to(tl.int64)[:, None] * width + d[None, :], mask=(d < width)[None, :], other=0.0)
                if NEAR:
                    total -= (a - b) * (a - b)
                else:
                    total += a * b
            bits = (tl.sum(total, 1) + 0.0).to(tl.int32, bitcast=True)
            ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
            key = (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - place).to(tl.int64)
            tl.store(keys + start_of + n, key, mask=n < count)


def search(
    x: torch.Tensor, y: torch.Tensor, k: int, *, own: bool, near: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ``k`` rows of ``y`` with the largest scores for every row of ``x``, equal scores by index.

    Args:
        x: ``[Q, D]``, float32, contiguous.
        y: ``[N, D]`` likewise, N > k; the same tensor where ``own``, and then a row does not find itself.
        k: at least 1.
        near: scores are squared distances with their sign turned, not inner products.

    Returns:
        Scores ``[Q, k]`` float32, indices ``[Q, k]`` int64, and which rows ``[Q]`` have no result: their candidates
        did not fit, or overflow left no order among them.
    """
    count, size = len(x), len(y)
    tile = TILES[_major(x)] if x.is_cuda else INTERPRETED
    width = GROUP if x.is_cuda else INTERPRETED_GROUP
    groups = triton.cdiv(size, width)
    scale = 1 / torch.maximum(_longest(x), _longest(y)).clamp_min(torch.finfo(torch.float32).tiny)
    half_y, y_error = _halved(y, scale)
    half_x, x_error = (half_y, y_error) if own else _halved(x, scale)
    squares = torch.linalg.vector_norm(y, dim=1).mul_(scale).square_().mul_(0.5)
    bias = squares if near else torch.zeros_like(squares)
    errors = x_error + y_error.max() + x.shape[1] * 2.0**-23 + 2.0**-20  # of rows of length 1 at most
    scores = torch.empty(count, k, dtype=torch.float32, device=x.device)
    indices = torch.empty(count, k, dtype=torch.int64, device=x.device)
    missing = torch.empty(count, dtype=torch.bool, device=x.device)
    capacity = max(CAPACITY, triton.next_power_of_2(k))
    step = max(tile.m, CHUNK_BYTES // (4 * groups + 12 * SPLITS * capacity) // tile.m * tile.m)
    with on_device(x):
        for start in range(0, count, step):
            stop = min(start + step, count)
            options = dict(
                M=tile.m, N=width, K=tile.k, EVEN=x.shape[1] % tile.k == 0, OWN=own, num_warps=tile.warps,
                num_stages=tile.stages,
            )  # fmt: skip
            shape = stop - start, size, start, x.shape[1], groups
            blocks = triton.cdiv(stop - start, tile.m)
            maxima = torch.empty(stop - start, groups, dtype=torch.float32, device=x.device)
            maxima_kernel[(blocks * groups,)](half_x[start:stop], half_y, bias, maxima, *shape, SWIZZLE=8, **options)
            bounds = maxima.new_full((stop - start,), -torch.inf)
            if groups >= k:
                bounds = maxima.topk(k).values[:, -1] - 2 * errors[start:stop]
            keys, counts = _collect(half_x[start:stop], half_y, bias, bounds, shape, capacity, options, x, y, near)
            best = keys.topk(k).values
            ordered = (best >> 32).to(torch.int32)
            scores[start:stop] = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
            indices[start:stop] = 0x7FFFFFFF - (best & 0xFFFFFFFF)
            missing[start:stop] = (counts > capacity).any(1) | (best[:, -1] == NOTHING)
    return scores, indices, missing | ~torch.isfinite(scores).all(1)


def _collect(half_x, half_y, bias, bounds, shape, capacity, options, x, y, near):
    rows, groups = shape[0], shape[-1]
    places = torch.empty(rows, SPLITS, capacity, dtype=torch.int32, device=x.device)
    counts = torch.empty(rows, SPLITS, dtype=torch.int32, device=x.device)
    collect_kernel[(triton.cdiv(rows, options["M"]), SPLITS)](
        half_x, half_y, bias, bounds, places, counts, *shape, triton.cdiv(groups, SPLITS), capacity, **options
    )
    keys = torch.full((rows, SPLITS * capacity), NOTHING, dtype=torch.int64, device=x.device)
    block = min(256, triton.next_power_of_2(x.shape[1]))
    rescore_kernel[(rows,)](
        x, y, places, counts, keys, shape[2], x.shape[1], capacity, SPLITS, NEAR=near, C=8, BLOCK=block, num_warps=4
    )
    return keys, counts


def _halved(x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows times ``scale`` in float16, and the norm of what that takes from each, in blocks of rows."""
    half, error = x.new_empty(x.shape, dtype=torch.float16), x.new_empty(len(x))
    for to, norm, rows in zip(half.split(8192), error.split(8192), x.split(8192), strict=True):
        scaled = rows * scale
        to.copy_(scaled)
        torch.linalg.vector_norm(scaled.sub_(to), dim=1, out=norm)
    return half, error


def _longest(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(x, dim=1).max()


def _major(x: torch.Tensor) -> int:
    return min(max(torch.cuda.get_device_capability(x.device)[0], min(TILES)), max(TILES))
