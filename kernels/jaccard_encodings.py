"""k-reciprocal encodings of images from their neighbours (SPEC 2, steps 2 to 5), as sparse rows.

Four kernels, in the order of the call. ``reciprocal_kernel`` looks i up in the ranks of each image that it ranks: one
comparison settles both its whole set and its half set. ``expand_kernel`` tests every member's half set against the
whole set and lists the union; ``weights_kernel`` turns similarities into softmax weights; ``mean_kernel`` averages the
rows of the first ranks. How long a union and a mean are only the data tell, so these two run twice, to count and to
write, with a cumulative sum between, and the host waits for its last entry.

Unions and sums go through an array of N numbers that a program (one warp, a few rows in turn) has for itself and cleans
after each row: a look-up per entry, nothing is sorted, nothing is N×N. Entries meet in integer atomics only: in a union
the first in order claims an image (a minimum), sums are fixed point with 44 bits behind the point, so results do not
depend on scheduling. They take at most ``SCRATCH_SHARE`` of the memory that is free: where N is so large that not every
program a GPU can hold has room, fewer share the rows.

Read: the k ranks of k images a row (4k² bytes, from cache), k half sets, and one feature row (4·D bytes) for each image
that an expanded set has beyond the whole set, whose similarities come from the neighbour search; written: 8 bytes an
entry. At N = 22,258 and k1 = 30 that is 5 of 20 entries and so 0.9 GB at D = 2048, the floor.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .products import on_device

SCRATCH_SHARE = 0.5  # of the free memory, for all programs' arrays together
PROGRAMS_PER_SM = 16
INTERPRETED_PROGRAMS = 3
ONE = tl.constexpr(2.0**44)  # in fixed point; float32 weights above 2^-20 lose nothing
FREE = tl.constexpr(2**31 - 1)  # in the claims of a program: nobody's
MEMBER = tl.constexpr(-1)  # of the whole set


class Encodings(NamedTuple):
    """Sparse rows that sum to 1. A row's columns come rarest first, equally rare ones ascending."""

    pointers: torch.Tensor  # [N + 1], int64
    columns: torch.Tensor  # int32
    values: torch.Tensor  # float32
    uses: torch.Tensor  # [N], int32: how many rows have a column


@triton.jit
def reciprocal_kernel(ranks, whole, halves, k, half, R: tl.constexpr, K: tl.constexpr):
    """``ranks [N, k]`` that are mutual, among all k and among the first ``half``; -1 in place of the others."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, K)
    for start in range(0, k, R):
        r = start + tl.arange(0, R)
        j = tl.load(ranks + row * k + r, mask=r < k, other=0)
        at = ranks + j.to(tl.int64)[:, None] * k + place[None, :]
        theirs = tl.load(at, mask=(r < k)[:, None] & (place < k)[None, :], other=-1)
        back = tl.min(tl.where(theirs == row, place[None, :], K), 1)
        tl.store(whole + row * k + r, tl.where(back < k, j, -1), mask=r < k)
        tl.store(halves + row * half + r, tl.where(back < half, j, -1), mask=r < half)


@triton.jit
def half_sets(whole, halves, row, start, k, half, C: tl.constexpr, H: tl.constexpr):
    """The half sets of members ``start + [0, C)`` of a row's whole set, -1 where there is none, and their order."""
    place = start + tl.arange(0, C)
    c = tl.load(whole + row * k + place, mask=place < k, other=-1)
    m = tl.arange(0, H)
    at = halves + c.to(tl.int64)[:, None] * half + m[None, :]
    j = tl.load(at, mask=(c >= 0)[:, None] & (m < half)[None, :], other=-1)
    return j, place[:, None] * H + m[None, :]


@triton.jit
def expand_kernel(
    whole, halves, products, claims, pointers, lengths, known, columns, values, rows, k, half, COUNT: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    """Whole sets, then what the half sets add to them; similarities of the former.

    ``COUNT``: only ``lengths`` and, of these, how many are ``known`` from the search. ``claims [programs, rows]`` are
    ``FREE`` before and after.
    """
    claims += tl.program_id(0).to(tl.int64) * rows
    place = tl.arange(0, K)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        own = tl.load(whole + row * k + place, mask=place < k, other=-1)
        is_member = own >= 0
        tl.store(claims + own, tl.full([K], MEMBER, tl.int32), mask=is_member)
        tl.debug_barrier()
        found = tl.sum(is_member.to(tl.int32), 0)
        if COUNT:
            tl.store(known + row, found)
        else:
            begin = tl.load(pointers + row)
            at = begin + tl.cumsum(is_member.to(tl.int32), 0) - 1
            tl.store(columns + at, own, mask=is_member)
            tl.store(values + at, tl.load(products + row * k + place, mask=is_member, other=0.0), mask=is_member)
        for start in range(0, k, C):
            j, order = half_sets(whole, halves, row, start, k, half, C, H)
            taken = tl.load(claims + j, mask=j >= 0, other=0, cache_modifier=".cg")
            inside = tl.sum((taken == MEMBER).to(tl.int32), 1)
            joins = 3 * inside > 2 * tl.sum((j >= 0).to(tl.int32), 1)
            tl.atomic_min(claims + j, order, mask=(j >= 0) & joins[:, None] & (taken != MEMBER), sem="relaxed")
        tl.debug_barrier()
        for start in range(0, k, C):
            j, order = half_sets(whole, halves, row, start, k, half, C, H)
            new = (j >= 0) & (tl.load(claims + j, mask=j >= 0, other=0, cache_modifier=".cg") == order)
            if not COUNT:
                added = tl.reshape(new.to(tl.int32), [C * H])
                to = begin + found + tl.cumsum(added, 0) - 1
                tl.store(columns + to, tl.reshape(j, [C * H]), mask=added > 0)
            found += tl.sum(new.to(tl.int32))
        tl.debug_barrier()
        if COUNT:
            tl.store(lengths + row, found)
        tl.store(claims + own, tl.full([K], FREE, tl.int32), mask=is_member)
        for start in range(0, k, C):
            j, _ = half_sets(whole, halves, row, start, k, half, C, H)
            tl.store(claims + j, tl.full([C, H], FREE, tl.int32), mask=j >= 0)
        tl.debug_barrier()


@triton.jit
def weights_kernel(features, pointers, known, columns, values, width, E: tl.constexpr, D: tl.constexpr):
    """Similarities of a row's entries, of which the first ``known`` are there, become ``softmax(2 similarity - 2)``."""
    row = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(pointers + row), tl.load(pointers + row + 1)
    e = tl.arange(0, E)
    d = tl.arange(0, D)
    for start in range(begin + tl.load(known + row), end, E):
        inside = start + e < end
        j = tl.load(columns + start + e, mask=inside, other=0).to(tl.int64)
        total = tl.full([E, D], 0.0, tl.float32)
        for left in range(0, width, D):
            x = tl.load(features + row * width + left + d, mask=left + d < width, other=0.0)
            at = features + j[:, None] * width + (left + d)[None, :]
            total += tl.load(at, mask=inside[:, None] & (left + d < width)[None, :], other=0.0) * x[None, :]
        tl.store(values + start + e, tl.sum(total, 1), mask=inside)
    tl.debug_barrier()
    total = tl.full([E], 0.0, tl.float32)
    for start in range(begin, end, E):
        similarity = tl.load(values + start + e, mask=start + e < end, other=float("-inf"))
        total += tl.exp(2 * similarity - 2)
    total = tl.sum(total, 0)
    for start in range(begin, end, E):
        similarity = tl.load(values + start + e, mask=start + e < end, other=float("-inf"))
        tl.store(values + start + e, tl.exp(2 * similarity - 2) / total, mask=start + e < end)


@triton.jit
def mean_kernel(
    ranks, pointers, columns, values, sums, met, uses, lengths, new_pointers, new_columns, new_values, rows, k, k2,
    room, scale, COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The mean of the rows of the ``k2`` first ranks, by how many rows use a column.

    ``COUNT``: only ``lengths`` and, by column, ``uses``. ``sums [programs, rows]`` are 0 before and after; in ``met
    [programs, room]`` a program lists its row's columns, each with its uses in the upper half.
    """
    sums += tl.program_id(0).to(tl.int64) * rows
    met += tl.program_id(0).to(tl.int64) * room
    lane = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        count = 0
        for r in range(0, k2):
            j = tl.load(ranks + row * k + r).to(tl.int64)
            end = tl.load(pointers + j + 1)
            for start in range(tl.load(pointers + j), end, BLOCK):
                inside = start + lane < end
                column = tl.load(columns + start + lane, mask=inside, other=0)
                value = tl.load(values + start + lane, mask=inside, other=0.0)
                before = tl.atomic_add(
                    sums + column, tl.maximum((value * ONE).to(tl.int64), 1), mask=inside, sem="relaxed"
                )
                new = inside & (before == 0)
                key = column.to(tl.int64)
                if not COUNT:
                    key += tl.load(uses + column, mask=new, other=0).to(tl.int64) << 32
                tl.store(met + count + tl.cumsum(new.to(tl.int32), 0) - 1, key, mask=new)
                count += tl.sum(new.to(tl.int32), 0)
        tl.debug_barrier()
        if COUNT:
            tl.store(lengths + row, count)
        for start in range(0, count, BLOCK):
            inside = start + lane < count
            key = tl.load(met + start + lane, mask=inside, other=0)
            column = (key & 0xFFFFFFFF).to(tl.int32)
            if COUNT:
                tl.atomic_add(uses + column, 1, mask=inside, sem="relaxed")
            else:
                rank = tl.full([BLOCK], 0, tl.int32)
                for other in range(0, count, BLOCK):
                    theirs = tl.load(met + other + lane, mask=other + lane < count, other=0x7FFFFFFFFFFFFFFF)
                    rank += tl.sum((theirs[None, :] < key[:, None]).to(tl.int32), 1)
                total = tl.load(sums + column, mask=inside, other=0, cache_modifier=".cg").to(tl.float64)
                to = tl.load(new_pointers + row) + rank
                tl.store(new_columns + to, column, mask=inside)
                tl.store(new_values + to, (total / scale).to(tl.float32), mask=inside)
            tl.store(sums + column, tl.full([BLOCK], 0, tl.int64), mask=inside)
        tl.debug_barrier()


def programs(rows: int, bytes_each: int, device: torch.device) -> int:
    """How many programs share the rows, where each has ``bytes_each`` bytes of scratch."""
    if device.type != "cuda":
        return min(rows, INTERPRETED_PROGRAMS)
    resident = PROGRAMS_PER_SM * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(rows, resident, int(SCRATCH_SHARE * free_bytes(device)) // bytes_each))


def free_bytes(device: torch.device) -> int:
    """Memory that an allocation could get: free on the device, or kept by PyTorch's allocator without use."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def row_pointers(lengths: torch.Tensor) -> torch.Tensor:
    """``[N + 1]`` int64: where each row begins, and the end."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int64), (1, 0))


def encode(features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor, *, half: int, k2: int) -> Encodings:
    """Encodings of ``features``. Waits for the device twice, for the entries before and after the averaging.

    Args:
        features: ``[N, D]`` float32, unit rows, contiguous.
        ranks: ``[N, k1]`` int32, each row's nearest in order, itself first; contiguous.
        products: ``[N, k1]`` float32, their inner products with it; contiguous.
        half: ranks of the sets that may join a reciprocal set.
        k2: encodings are averaged over this many first ranks, at most ``k1``.
    """
    with on_device(features):
        return _averaged(ranks, *_expanded(features, ranks, products, half), k2)


def _expanded(
    features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor, half: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Row pointers, columns and weights of the expanded sets, and the length of the longest."""
    (rows, k), device = ranks.shape, ranks.device
    whole, halves = torch.empty_like(ranks), ranks.new_empty(rows, half)
    wide, half_wide = triton.next_power_of_2(k), triton.next_power_of_2(half)
    reciprocal_kernel[(rows,)](ranks, whole, halves, k, half, R=max(1, 1024 // wide), K=wide, num_warps=1)

    count = programs(rows, 4 * rows, device)
    claims = torch.full((count, rows), FREE.value, dtype=torch.int32, device=device)
    lengths, known = ranks.new_empty(rows), ranks.new_empty(rows)
    warps = 1 if wide <= 128 else 4
    blocks = dict(K=wide, C=min(wide, max(1, 256 * warps // half_wide)), H=half_wide, num_warps=warps, num_stages=1)
    sets, sizes = (whole, halves, products, claims), (rows, k, half)
    expand_kernel[(count,)](*sets, ranks, lengths, known, ranks, products, *sizes, COUNT=True, **blocks)
    pointers = row_pointers(lengths)
    total, longest = torch.stack([pointers[-1], lengths.max().long()]).tolist()
    columns, values = ranks.new_empty(total), features.new_empty(total)
    expand_kernel[(count,)](*sets, pointers, lengths, known, columns, values, *sizes, COUNT=False, **blocks)
    width = features.shape[1]
    block = min(256, triton.next_power_of_2(width))
    weights_kernel[(rows,)](features, pointers, known, columns, values, width, E=8, D=block, num_warps=4, num_stages=1)
    return pointers, columns, values, longest


def _averaged(
    ranks: torch.Tensor, pointers: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, longest: int, k2: int
) -> Encodings:
    (rows, k), device = ranks.shape, ranks.device
    room = min(rows, k2 * longest)
    count = programs(rows, 8 * (rows + room), device)
    sums = torch.zeros(count, rows, dtype=torch.int64, device=device)
    met = torch.empty(count, room, dtype=torch.int64, device=device)
    uses, lengths = torch.zeros_like(ranks[:, 0]), ranks.new_empty(rows)
    shared = ranks, pointers, columns, values, sums, met, uses, lengths
    sizes = rows, k, k2, room, k2 * ONE.value
    blocks = dict(BLOCK=32, num_warps=1, num_stages=1)
    mean_kernel[(count,)](*shared, pointers, columns, values, *sizes, COUNT=True, **blocks)
    new_pointers = row_pointers(lengths)
    total = int(new_pointers[-1])
    new_columns, new_values = columns.new_empty(total), values.new_empty(total)
    mean_kernel[(count,)](*shared, new_pointers, new_columns, new_values, *sizes, COUNT=False, **blocks)
    return Encodings(new_pointers, new_columns, new_values, uses)
