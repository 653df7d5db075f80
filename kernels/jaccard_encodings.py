"""k-reciprocal encodings of images from their neighbours, as sparse rows.

Source: docs/method.md, "Encodings".

Four kernels, in the order of the call. ``reciprocal_kernel`` looks i up in the ranks of each image that it ranks: one
comparison settles both its reciprocal set and its half set. ``expand_kernel`` tests every member's half set against the
reciprocal set and lists the union; ``weights_kernel`` turns similarities into softmax weights; ``mean_kernel`` averages
the rows of the first ranks. How long a union and a mean are only the data tell, so these two run twice, to count and to
write, with a cumulative sum between, and the host waits for its last entry.

Unions and sums go through an array of N numbers that a program (one warp, a few rows in turn) has for itself and cleans
after each row: a look-up per entry, nothing is sorted, nothing is N×N. Entries meet in integer atomics only: in a union
the first in order claims an image (a minimum), sums are fixed point with 44 bits behind the point, so results do not
depend on scheduling. These arrays take half of the free memory at most (:func:`launch.resident_programs`): where N is
so large that not every program that a GPU can hold has room, fewer share the rows.

Read: the k ranks of k images a row (4k² bytes, from cache), k half sets, and one feature row (4·D bytes) for each image
that an expanded set has beyond the reciprocal set, whose similarities come from the neighbour search; written: 8 bytes
an entry. At N = 22,258 and k1 = 30 that is 5 of 20 entries and so 0.9 GB at D = 2048: an estimate of 0.3 ms on an H100,
whose SM holds 7 blocks of ``weights_kernel``. The other kernels wait for dependent reads, with 16 programs an SM or
more; ``mean_kernel`` has 4 of the rows that it averages under way.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .launch import configuration, on_device, resident_programs

ONE = tl.constexpr(2.0**44)  # in fixed point; float32 weights above 2^-20 lose nothing
FREE = tl.constexpr(2**31 - 1)  # in the claims of a program: nobody's
MEMBER = tl.constexpr(-1)  # of the reciprocal set


class Encodings(NamedTuple):
    """Sparse rows that sum to 1. A row's columns come rarest first, equally rare ones ascending."""

    pointers: torch.Tensor  # [N + 1], int64
    columns: torch.Tensor  # int32
    values: torch.Tensor  # float32
    uses: torch.Tensor  # [N], int32: how many rows have a column


@triton.jit
def reciprocal_kernel(ranks, reciprocal, half_reciprocal, k, half, R: tl.constexpr, K: tl.constexpr):
    """``ranks [N, k]`` that are mutual, among all k and among the first ``half``; -1 in place of the others."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, K)
    for start in range(0, k, R):
        r = start + tl.arange(0, R)
        j = tl.load(ranks + row * k + r, mask=r < k, other=0)
        at = ranks + j.to(tl.int64)[:, None] * k + place[None, :]
        theirs = tl.load(at, mask=(r < k)[:, None] & (place < k)[None, :], other=-1)
        back = tl.min(tl.where(theirs == row, place[None, :], K), 1)
        tl.store(reciprocal + row * k + r, tl.where(back < k, j, -1), mask=r < k)
        tl.store(half_reciprocal + row * half + r, tl.where(back < half, j, -1), mask=r < half)


@triton.jit
def half_sets(reciprocal, half_reciprocal, row, start, k, half, C: tl.constexpr, H: tl.constexpr):
    """The half sets of members ``start + [0, C)`` of a row's reciprocal set, -1 where none is, and their order."""
    place = start + tl.arange(0, C)
    c = tl.load(reciprocal + row * k + place, mask=place < k, other=-1)
    m = tl.arange(0, H)
    at = half_reciprocal + c.to(tl.int64)[:, None] * half + m[None, :]
    j = tl.load(at, mask=(c >= 0)[:, None] & (m < half)[None, :], other=-1)
    return j, place[:, None] * H + m[None, :]


@triton.jit
def expand_kernel(
    reciprocal, half_reciprocal, products, claims, pointers, lengths, known, columns, values, rows, k, half,
    COUNT: tl.constexpr, K: tl.constexpr, C: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    """Reciprocal sets, then what the half sets add to them; similarities of the former.

    ``COUNT``: only ``lengths`` and, of these, how many are ``known`` from the search (int32, ``[rows]``). ``claims
    [programs, rows]``, int32, are ``FREE`` before and after. ``reciprocal [rows, k]`` and ``half_reciprocal [rows,
    half]`` are int32, -1 where a rank is not mutual; ``products [rows, k]`` float32; ``pointers [rows + 1]`` int64,
    ``columns`` int32 and ``values`` float32 are the sparse rows to write.
    """
    claims += tl.program_id(0).to(tl.int64) * rows
    place = tl.arange(0, K)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        members = tl.load(reciprocal + row * k + place, mask=place < k, other=-1)
        is_member = members >= 0
        tl.store(claims + members, tl.full([K], MEMBER, tl.int32), mask=is_member)
        tl.debug_barrier()
        found = tl.sum(is_member.to(tl.int32), 0)
        if COUNT:
            tl.store(known + row, found)
        else:
            begin = tl.load(pointers + row)
            at = begin + tl.cumsum(is_member.to(tl.int32), 0) - 1
            tl.store(columns + at, members, mask=is_member)
            tl.store(values + at, tl.load(products + row * k + place, mask=is_member, other=0.0), mask=is_member)
        for start in range(0, k, C):
            j, order = half_sets(reciprocal, half_reciprocal, row, start, k, half, C, H)
            claim = tl.load(claims + j, mask=j >= 0, other=0, cache_modifier=".cg")
            surplus = tl.sum(tl.where(claim == MEMBER, 1, tl.where(j >= 0, -2, 0)), 1)  # of 3·inside over 2·size
            tl.atomic_min(claims + j, order, mask=(j >= 0) & (surplus > 0)[:, None] & (claim != MEMBER), sem="relaxed")
        tl.debug_barrier()
        for start in range(0, k, C):
            j, order = half_sets(reciprocal, half_reciprocal, row, start, k, half, C, H)
            new = (j >= 0) & (tl.load(claims + j, mask=j >= 0, other=0, cache_modifier=".cg") == order)
            if not COUNT:
                added = tl.reshape(new.to(tl.int32), [C * H])
                to = begin + found + tl.cumsum(added, 0) - 1
                tl.store(columns + to, tl.reshape(j, [C * H]), mask=added > 0)
            found += tl.sum(new.to(tl.int32))
        tl.debug_barrier()
        if COUNT:
            tl.store(lengths + row, found)
        for start in range(0, k, C):  # a member is in its own half set
            j, _ = half_sets(reciprocal, half_reciprocal, row, start, k, half, C, H)
            tl.store(claims + j, tl.full([C, H], FREE, tl.int32), mask=j >= 0)
        tl.debug_barrier()


@triton.jit
def weights_kernel(
    features, pointers, known, factors, columns, values, width, SCALED: tl.constexpr, E: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Similarities of a row's entries, of which the first ``known`` are there, become ``softmax(2 similarity - 2)``.

    Where SCALED the logits are multiplied with the row's of ``factors [N]`` float32, of which none is negative.
    """
    row = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(pointers + row), tl.load(pointers + row + 1)
    e = tl.arange(0, E)
    d = tl.arange(0, D)
    for start in range(begin + tl.load(known + row), end, E):
        inside = start + e < end
        j = tl.load(columns + start + e, mask=inside, other=row).to(tl.int64)  # none: the row, which is read anyway
        total = tl.full([E, D], 0.0, tl.float32)
        for left in range(0, width, D):
            x = tl.load(features + row * width + left + d, mask=left + d < width, other=0.0)
            at = features + j[:, None] * width + (left + d)[None, :]
            total += tl.load(at, mask=(left + d < width)[None, :], other=0.0) * x[None, :]
        tl.store(values + start + e, tl.sum(total, 1), mask=inside)
    tl.debug_barrier()
    total = tl.full([E], 0.0, tl.float32)
    for start in range(begin, end, E):
        weight = entry_weights(values + start + e, start + e < end, factors + row, SCALED)
        total += weight
    total = tl.sum(total, 0)
    for start in range(begin, end, E):
        weight = entry_weights(values + start + e, start + e < end, factors + row, SCALED)
        tl.store(values + start + e, weight / total, mask=start + e < end)


@triton.jit
def entry_weights(similarities, inside, factor, SCALED: tl.constexpr):
    logit = 2 * tl.load(similarities, mask=inside, other=0.0) - 2
    if SCALED:
        logit *= tl.load(factor)
    return tl.where(inside, tl.exp(logit), 0.0)


@triton.jit
def mean_kernel(
    ranks, pointers, columns, values, sums, keys, uses, lengths, new_pointers, new_columns, new_values, rows, k, k2,
    room, scale, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The mean of the rows of the ``k2`` first ranks, by how many rows use a column.

    ``COUNT``: only ``lengths`` and, by column, ``uses``. ``sums [programs, rows]`` are 0 before and after; in ``keys
    [programs, room]`` a program lists its row's columns, each with its uses in the upper half.
    """
    sums += tl.program_id(0).to(tl.int64) * rows
    keys += tl.program_id(0).to(tl.int64) * room
    lane = tl.arange(0, BLOCK)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        count = 0
        for first in range(0, k2, ROWS):
            r = first + tl.arange(0, ROWS)
            j = tl.load(ranks + row * k + r, mask=r < k2, other=0).to(tl.int64)
            begin = tl.load(pointers + j, mask=r < k2, other=0)
            end = tl.load(pointers + j + 1, mask=r < k2, other=0)
            for start in range(0, tl.max(end - begin, 0), BLOCK):
                at = (begin + start)[:, None] + lane[None, :]
                inside = at < end[:, None]
                column = tl.load(columns + at, mask=inside, other=0)
                value = tl.load(values + at, mask=inside, other=0.0)
                before = tl.atomic_add(
                    sums + column, tl.maximum((value * ONE).to(tl.int64), 1), mask=inside, sem="relaxed"
                )
                new = inside & (before == 0)
                key = column.to(tl.int64)
                if not COUNT:
                    key += tl.load(uses + column, mask=new, other=0).to(tl.int64) << 32
                new = tl.reshape(new.to(tl.int32), [ROWS * BLOCK])
                tl.store(keys + count + tl.cumsum(new, 0) - 1, tl.reshape(key, [ROWS * BLOCK]), mask=new > 0)
                count += tl.sum(new, 0)
        tl.debug_barrier()
        if COUNT:
            tl.store(lengths + row, count)
        for start in range(0, count, BLOCK):
            inside = start + lane < count
            key = tl.load(keys + start + lane, mask=inside, other=0)
            column = (key & 0xFFFFFFFF).to(tl.int32)
            if COUNT:
                tl.atomic_add(uses + column, 1, mask=inside, sem="relaxed")
            else:
                rank = tl.full([BLOCK], 0, tl.int32)
                for other in range(0, count, BLOCK):
                    theirs = tl.load(keys + other + lane, mask=other + lane < count, other=0x7FFFFFFFFFFFFFFF)
                    rank += tl.sum((theirs[None, :] < key[:, None]).to(tl.int32), 1)
                total = tl.load(sums + column, mask=inside, other=0, cache_modifier=".cg").to(tl.float64)
                to = tl.load(new_pointers + row) + rank
                tl.store(new_columns + to, column, mask=inside)
                tl.store(new_values + to, (total / scale).to(tl.float32), mask=inside)
            tl.store(sums + column, tl.full([BLOCK], 0, tl.int64), mask=inside)
        tl.debug_barrier()


def row_pointers(lengths: torch.Tensor) -> torch.Tensor:
    """``[N + 1]`` int64: where each row begins, and the end."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int64), (1, 0))


def encode(
    features: torch.Tensor,
    ranks: torch.Tensor,
    products: torch.Tensor,
    *,
    half: int,
    k2: int,
    factors: torch.Tensor | None = None,
) -> Encodings:
    """Encodings of ``features``. Waits for the device twice, for the entries before and after the averaging.

    Args:
        features: ``[N, D]`` float32, unit rows, contiguous.
        ranks: ``[N, k1]`` int32, each row's nearest in order, itself first; contiguous.
        products: ``[N, k1]`` float32, their inner products with it; contiguous.
        half: ranks of the sets that may join a reciprocal set.
        k2: encodings are averaged over this many first ranks, at most ``k1``.
        factors: ``[N]`` float32: multiply each row's squared distances before the softmax; by default nothing does.
    """
    with on_device(features):
        return _averaged(ranks, *_expanded(features, ranks, products, half, factors), k2)


def _expanded(
    features: torch.Tensor, ranks: torch.Tensor, products: torch.Tensor, half: int, factors: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Row pointers, columns and weights of the expanded sets, and the length of the longest."""
    (rows, k), device = ranks.shape, ranks.device
    reciprocal, half_reciprocal = torch.empty_like(ranks), ranks.new_empty(rows, half)
    wide, half_wide = triton.next_power_of_2(k), triton.next_power_of_2(half)
    t = configuration("jaccard_encodings.reciprocal", device)
    tile = dict(R=max(1, t.pop("ELEMENTS") // wide), K=wide)
    reciprocal_kernel[(rows,)](ranks, reciprocal, half_reciprocal, k, half, **tile, **t)

    count = resident_programs(rows, 4 * rows, device)
    claims = torch.full((count, rows), FREE.value, dtype=torch.int32, device=device)
    lengths, known = ranks.new_empty(rows), ranks.new_empty(rows)
    t, warps = configuration("jaccard_encodings.expand", device), 1 if wide <= 128 else 4
    members = min(wide, max(1, t.pop("ELEMENTS") * warps // half_wide))
    blocks = dict(K=wide, C=members, H=half_wide, num_warps=warps, **t)
    sets, sizes = (reciprocal, half_reciprocal, products, claims), (rows, k, half)
    expand_kernel[(count,)](*sets, ranks, lengths, known, ranks, products, *sizes, COUNT=True, **blocks)
    pointers = row_pointers(lengths)
    total, longest = torch.stack([pointers[-1], lengths.max().long()]).tolist()
    columns, values = ranks.new_empty(total), features.new_empty(total)
    expand_kernel[(count,)](*sets, pointers, lengths, known, columns, values, *sizes, COUNT=False, **blocks)
    width, t = features.shape[1], configuration("jaccard_encodings.weights", device)
    block = min(t.pop("BLOCK"), triton.next_power_of_2(width))
    of_rows, scaled = features if factors is None else factors, factors is not None
    weights_kernel[(rows,)](features, pointers, known, of_rows, columns, values, width, SCALED=scaled, D=block, **t)
    return pointers, columns, values, longest


def _averaged(
    ranks: torch.Tensor, pointers: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, longest: int, k2: int
) -> Encodings:
    (rows, k), device = ranks.shape, ranks.device
    room = min(rows, k2 * longest)
    count = resident_programs(rows, 8 * (rows + room), device)
    sums = torch.zeros(count, rows, dtype=torch.int64, device=device)
    keys = torch.empty(count, room, dtype=torch.int64, device=device)
    uses, lengths = torch.zeros_like(ranks[:, 0]), ranks.new_empty(rows)
    shared = ranks, pointers, columns, values, sums, keys, uses, lengths
    sizes = rows, k, k2, room, k2 * ONE.value
    blocks = configuration("jaccard_encodings.mean", device)
    mean_kernel[(count,)](*shared, pointers, columns, values, *sizes, COUNT=True, **blocks)
    new_pointers = row_pointers(lengths)
    total = int(new_pointers[-1])
    new_columns, new_values = columns.new_empty(total), values.new_empty(total)
    mean_kernel[(count,)](*shared, new_pointers, new_columns, new_values, *sizes, COUNT=False, **blocks)
    return Encodings(new_pointers, new_columns, new_values, uses)
