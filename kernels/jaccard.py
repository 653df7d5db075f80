"""Jaccard distances of k-reciprocal encodings: all of them, or a graph of the near pairs.

Source: docs/method.md, "Jaccard distance".

The graph is a similarity join. A near pair shares at least t = 2 (1 - d) / (2 - d), d the largest distance. Columns
come rarest first in every row; a row's prefix ends where what is left weighs less than 0.7 t. ``pairs_kernel`` walks
the inverted index of the prefixes for one row: the postings of its columns give the candidates and what each shares
within the prefixes. Those that share less than 0.3 t there are dropped, and only the others' distances are computed. No
near pair is lost: docs/numerics.md has the proof. Hubs, columns that a large part of all images use, lie behind the
prefixes. A program (one warp) has an array of N sums for itself and takes rows in turn, so nothing is N×N.
``order_kernel`` sorts a row's near columns by counting smaller ones.

Room for a row's near pairs: since the minima over all j add up to at most sum_l uses_l V_il, no more than this over t
can be near (about five times what is). Where that is too much (t near 0), a first run only counts.

Sums over prefixes are int32 with 30 bits behind the point, distances' sums int64 with 44, so that (i, j) and (j, i) get
the same bits and no order of integer atomics shows.

At N = 22,258 and 58 entries a row: 40 million pairs of prefix entries (111 million without prefixes; 43 of 461 where
hubs are) at 8 bytes, then 52 million entries of the rows that are left at 12, mostly from cache. Not these 0.9 GB but
the latency of dependent reads is the limit, hence 16 programs an SM, and several columns' postings and several rows'
entries at a time: at 4 columns and 8 rows about 130 reads of a row wait for another, 240 at one and 4. Estimates for an
H100 at 0.7 µs each, not measured: 1.0 ms at N = 22,258, ten or eleven rows a program; 0.1 ms at N = 2,000, where every
row has a program and SMs have room for more.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .jaccard_encodings import ONE, Encodings, row_pointers
from .launch import at_most_one_each, configuration, on_device, resident_programs

PREFIX_SHARE = 0.7  # of t: smaller, and more is added up for every pair; larger, and more pairs are left
SLACK, SUM_SLACK = 1e-6, 1e-4  # far above the rounding of a float32 distance, and of a sum over a prefix
SUM_ONE = tl.constexpr(2.0**30)  # in the fixed point of sums over prefixes
ROOM = 2**28  # near pairs for which room is made without counting them first


class Index(NamedTuple):
    """The rows whose prefix has a column, with their values there."""

    prefixes: torch.Tensor  # [N], int32: how many entries of each row
    starts: torch.Tensor  # [N + 1], int64: of each column's postings
    postings: torch.Tensor  # int32, rows
    values: torch.Tensor  # float32


@triton.jit
def prefixes_kernel(pointers, columns, values, uses, prefixes, posting_counts, weights, least, BLOCK: tl.constexpr):
    """Length of each row's prefix, the ``posting_counts`` of each column, and sum_l uses_l V_il.

    Whole numbers, rounded up, say where a prefix ends: sums of ``BLOCK`` floats do not always rise on a GPU.
    """
    row = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(pointers + row), tl.load(pointers + row + 1)
    lane = tl.arange(0, BLOCK)
    rest = 0
    weight = 0.0
    for start in range(begin, end, BLOCK):
        inside = start + lane < end
        value = tl.load(values + start + lane, mask=inside, other=0.0)
        used = tl.load(uses + tl.load(columns + start + lane, mask=inside, other=0), mask=inside, other=0)
        rest += tl.sum(tl.ceil(value * SUM_ONE).to(tl.int32), 0)
        weight += tl.sum(value * used.to(tl.float32), 0)
    tl.store(weights + row, weight)
    prefix = 0
    for start in range(begin, end, BLOCK):
        inside = start + lane < end
        value = tl.ceil(tl.load(values + start + lane, mask=inside, other=0.0) * SUM_ONE).to(tl.int32)
        in_prefix = inside & (rest - tl.cumsum(value, 0) + value >= least)
        tl.atomic_add(
            posting_counts + tl.load(columns + start + lane, mask=inside, other=0), 1, mask=in_prefix, sem="relaxed"
        )
        prefix += tl.sum(in_prefix.to(tl.int32), 0)
        rest -= tl.sum(value, 0)
    tl.store(prefixes + row, prefix)


@triton.jit
def index_kernel(pointers, columns, values, prefixes, cursors, postings, posting_values, BLOCK: tl.constexpr):
    """Enter each prefix under its columns, in no particular order; ``cursors`` begin at the columns' starts."""
    row = tl.program_id(0).to(tl.int64)
    begin = tl.load(pointers + row)
    lane = tl.arange(0, BLOCK)
    for start in range(begin, begin + tl.load(prefixes + row), BLOCK):
        inside = start + lane < begin + tl.load(prefixes + row)
        column = tl.load(columns + start + lane, mask=inside, other=0)
        to = tl.atomic_add(cursors + column, 1, mask=inside, sem="relaxed")
        tl.store(postings + to, tl.full([BLOCK], 0, tl.int32) + row.to(tl.int32), mask=inside)
        tl.store(posting_values + to, tl.load(values + start + lane, mask=inside, other=0.0), mask=inside)


@triton.jit
def write_dense_row(dense_row, pointers, columns, values, row, KEEP: tl.constexpr, BLOCK: tl.constexpr):
    """Write the values of a row, or zeros, to the places of its columns in ``dense_row``, as bits."""
    lane = tl.arange(0, BLOCK)
    end = tl.load(pointers + row + 1)
    for start in range(tl.load(pointers + row), end, BLOCK):
        inside = start + lane < end
        column = tl.load(columns + start + lane, mask=inside, other=0)
        bits = tl.full([BLOCK], 0, tl.int32)
        if KEEP:
            bits = tl.load(values + start + lane, mask=inside, other=0.0).to(tl.int32, bitcast=True)
        tl.store(dense_row + column, bits, mask=inside)


@triton.jit
def distances_from(dense_row, pointers, columns, values, j, valid, MANY: tl.constexpr, BLOCK: tl.constexpr):
    """Distances of the rows ``j [MANY]`` from the row in ``dense_row``."""
    j = j.to(tl.int64)
    begin = tl.load(pointers + j, mask=valid, other=0)
    end = tl.load(pointers + j + 1, mask=valid, other=0)
    lane = tl.arange(0, BLOCK)
    shared = tl.full([MANY], 0, tl.int64)
    for start in range(0, tl.max(end - begin, 0), BLOCK):
        at = (begin + start)[:, None] + lane[None, :]
        inside = at < end[:, None]
        column = tl.load(columns + at, mask=inside, other=0)
        mine = tl.load(dense_row + column, mask=inside, other=0).to(tl.float32, bitcast=True)
        least = tl.minimum(mine, tl.load(values + at, mask=inside, other=0.0))
        shared += tl.sum((least * ONE).to(tl.int64), 1)
    unlike = tl.full([MANY], 2 * ONE, tl.float64).to(tl.int64) - shared  # the whole of both rows, less what they share
    return tl.div_rn(tl.maximum(unlike - shared, 0).to(tl.float32), unlike.to(tl.float32))


@triton.jit
def pairs_kernel(
    pointers, columns, values, prefixes, starts, postings, posting_values, sums, candidates, slots, near_columns,
    near_distances, kept, rows, max_distance, least_shared, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """For every row, how many distances are ``kept``, and as many of them as fit between its ``slots``.

    ``pointers``, ``columns`` and ``values`` are the encodings, then follows the :class:`Index`. ``sums`` and
    ``candidates [programs, rows]`` are int32, a program's own: sums are 0 before and after, and hold the row densely
    while its distances are computed. ``slots [rows + 1]`` is int64, ``near_columns`` and ``kept [rows]`` int32,
    ``near_distances`` float32.
    """
    sums += tl.program_id(0).to(tl.int64) * rows
    candidates += tl.program_id(0).to(tl.int64) * rows
    ahead = tl.arange(0, COLUMNS)
    lane = tl.arange(0, BLOCK)
    every: tl.constexpr = COLUMNS * BLOCK
    entry = tl.arange(0, every)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        begin = tl.load(pointers + row)
        last = begin + tl.load(prefixes + row)
        found = 0
        for first in range(begin, last, COLUMNS):
            e = first + ahead
            column = tl.load(columns + e, mask=e < last, other=0)
            value = tl.load(values + e, mask=e < last, other=0.0)[:, None]
            posting = tl.load(starts + column, mask=e < last, other=0)
            end = tl.load(starts + column + 1, mask=e < last, other=0)
            for start in range(0, tl.max(end - posting, 0), BLOCK):
                at = (posting + start)[:, None] + lane[None, :]
                inside = at < end[:, None]
                j = tl.load(postings + at, mask=inside, other=0)
                shared = tl.minimum(tl.load(posting_values + at, mask=inside, other=0.0), value)
                shared = tl.maximum((shared * SUM_ONE).to(tl.int32), 1)
                new = inside & (tl.atomic_add(sums + j, shared, mask=inside, sem="relaxed") == 0)
                new = tl.reshape(new.to(tl.int32), [every])
                tl.store(candidates + found + tl.cumsum(new, 0) - 1, tl.reshape(j, [every]), mask=new > 0)
                found += tl.sum(new, 0)
        tl.debug_barrier()
        left = 0
        for start in range(0, found, every):
            inside = start + entry < found
            j = tl.load(candidates + start + entry, mask=inside, other=0)
            shared = tl.load(sums + j, mask=inside, other=0, cache_modifier=".cg")
            stays = inside & (shared.to(tl.float32) >= least_shared * SUM_ONE)
            tl.store(sums + j, tl.full([every], 0, tl.int32), mask=inside)
            tl.debug_barrier()  # other threads have loaded what is overwritten
            tl.store(candidates + left + tl.cumsum(stays.to(tl.int32), 0) - 1, j, mask=stays)
            left += tl.sum(stays.to(tl.int32), 0)
        write_dense_row(sums, pointers, columns, values, row, True, BLOCK)
        tl.debug_barrier()
        slot = tl.load(slots + row)
        room = tl.load(slots + row + 1) - slot
        count = 0
        many = tl.arange(0, MANY)
        for start in range(0, left, MANY):
            valid = start + many < left
            j = tl.load(candidates + start + many, mask=valid, other=0)
            distance = distances_from(sums, pointers, columns, values, j, valid, MANY, BLOCK // 2)
            distance = tl.where(j == row, 0.0, distance)
            near = valid & (distance <= max_distance)
            place = count + tl.cumsum(near.to(tl.int32), 0) - 1
            tl.store(near_columns + slot + place, j, mask=near & (place < room))
            tl.store(near_distances + slot + place, distance, mask=near & (place < room))
            count += tl.sum(near.to(tl.int32), 0)
        tl.store(kept + row, count)
        tl.debug_barrier()
        write_dense_row(sums, pointers, columns, values, row, False, BLOCK)
        tl.debug_barrier()


@triton.jit
def order_kernel(slots, near_columns, near_distances, pointers, columns, distances, BLOCK: tl.constexpr):
    """A row's near columns in ascending order, from its slots to its place in the graph."""
    row = tl.program_id(0).to(tl.int64)
    slot, to = tl.load(slots + row), tl.load(pointers + row)
    count = tl.load(pointers + row + 1) - to
    lane = tl.arange(0, BLOCK)
    for start in range(0, count, BLOCK):
        inside = start + lane < count
        column = tl.load(near_columns + slot + start + lane, mask=inside, other=0)
        rank = tl.full([BLOCK], 0, tl.int32)
        for other in range(0, count, BLOCK):
            theirs = tl.load(near_columns + slot + other + lane, mask=other + lane < count, other=2**31 - 1)
            rank += tl.sum((theirs[None, :] < column[:, None]).to(tl.int32), 1)
        tl.store(columns + to + rank, column.to(tl.int64), mask=inside)
        tl.store(distances + to + rank, tl.load(near_distances + slot + start + lane, mask=inside), mask=inside)


@triton.jit
def dense_kernel(pointers, columns, values, dense_row, distances, rows, BLOCK: tl.constexpr, MANY: tl.constexpr):
    """All distances ``[rows, rows]``; ``dense_row [programs, rows]`` are 0 before and after."""
    dense_row += tl.program_id(0).to(tl.int64) * rows
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        write_dense_row(dense_row, pointers, columns, values, row, True, BLOCK)
        tl.debug_barrier()
        for start in range(0, rows, MANY):
            j = start + tl.arange(0, MANY)
            distance = distances_from(dense_row, pointers, columns, values, j, j < rows, MANY, BLOCK // 2)
            tl.store(distances + row * rows + j, tl.where(j == row, 0.0, distance), mask=j < rows)
        tl.debug_barrier()
        write_dense_row(dense_row, pointers, columns, values, row, False, BLOCK)
        tl.debug_barrier()


def jaccard_graph(encodings: Encodings, max_distance: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row pointers, ascending columns (int64) and distances up to ``max_distance``, which is below 1.

    Waits for the device twice, for the room and for the pairs there are (three times where they are counted first).
    """
    rows, device = len(encodings.uses), encodings.uses.device
    least = 2 * (1 - max_distance) / (2 - max_distance) - SLACK
    with on_device(encodings.uses):
        index, weights = _index(encodings, PREFIX_SHARE * least)
        lengths = (weights / least).clamp(max=rows) if least > 0 else torch.full_like(weights, rows)
        slots = row_pointers(lengths.long() + 1)
        room = int(slots[-1])
        count = resident_programs(rows, 8 * rows, device)
        blocks = configuration("jaccard.pairs", device)
        at_most_one_each(blocks["num_warps"], blocks["COLUMNS"] * blocks["BLOCK"])
        sums = torch.zeros(count, rows, dtype=torch.int32, device=device)
        candidates, kept = torch.empty_like(sums), torch.empty_like(encodings.uses)

        def pairs(slots: torch.Tensor, room: int) -> tuple[torch.Tensor, torch.Tensor]:
            near = index.postings.new_empty(room), index.values.new_empty(room)
            pairs_kernel[(count,)](
                *encodings[:3], *index, sums, candidates, slots, *near, kept, rows, max_distance,
                (1 - PREFIX_SHARE) * least - SUM_SLACK, **blocks,
            )  # fmt: skip
            return near

        if room > ROOM:
            pairs(torch.zeros_like(slots), 0)
            slots = row_pointers(kept)
            room = int(slots[-1])
        near = pairs(slots, room)
        pointers = row_pointers(kept)
        stored = int(pointers[-1])
        columns = torch.empty(stored, dtype=torch.int64, device=device)
        distances = near[1].new_empty(stored)
        blocks = configuration("jaccard.order", device)
        order_kernel[(rows,)](slots, *near, pointers, columns, distances, **blocks)
    return pointers, columns, distances


def jaccard_distance(encodings: Encodings) -> torch.Tensor:
    """All distances ``[N, N]``. Does not wait for the device."""
    rows, device = len(encodings.uses), encodings.uses.device
    with on_device(encodings.uses):
        dense_row = torch.zeros(resident_programs(rows, 4 * rows, device), rows, dtype=torch.int32, device=device)
        distances = torch.empty(rows, rows, dtype=torch.float32, device=device)
        blocks = configuration("jaccard.pairs", device)
        del blocks["COLUMNS"]
        dense_kernel[(len(dense_row),)](*encodings[:3], dense_row, distances, rows, **blocks)
    return distances


def _index(encodings: Encodings, least: float) -> tuple[Index, torch.Tensor]:
    """The inverted index of the prefixes, whose rest weighs less than ``least``; and of every row sum_l uses_l V_il."""
    pointers, columns, values, uses = encodings
    prefixes, posting_counts = torch.empty_like(uses), torch.zeros_like(uses)
    weights = torch.empty_like(uses, dtype=torch.float32)
    grid, blocks = (len(uses),), configuration("jaccard.rows", uses.device)
    least_units = math.floor(least * SUM_ONE.value)
    prefixes_kernel[grid](pointers, columns, values, uses, prefixes, posting_counts, weights, least_units, **blocks)
    starts = row_pointers(posting_counts)
    index = Index(prefixes, starts, torch.empty_like(columns), torch.empty_like(values))
    index_kernel[grid](pointers, columns, values, prefixes, starts.clone(), index.postings, index.values, **blocks)
    return index, weights
