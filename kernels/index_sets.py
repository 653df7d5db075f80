"""Intersection and union of index sets held as padded rows: ascending, each index once, -1 behind them.

One program is one row of the result. All sets of a row lie side by side; an index stays if it is the first of its value
and, for the intersection, as many equal ones exist as sets. Its place is the number of smaller ones that stay: ranks by
comparison instead of a sort, W² comparisons for W entries in all (60 in training, where a row's traffic is 1 kB and
launch overhead is all the time there is). Read once, written once; nothing depends on scheduling.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .launch import configuration, on_device


@triton.jit
def sets_kernel(entries, keeps, out, wide, out_wide, needed, W: tl.constexpr, BLOCK: tl.constexpr):
    """``out [rows, out_wide]``: what is at least ``needed`` times in a row of ``entries [rows, wide]``, each once.

    Both are int64; ``keeps [rows, wide]``, int8, is scratch.
    """
    row = tl.program_id(0).to(tl.int64)
    entries += row * wide
    keeps += row * wide
    i = tl.arange(0, W)
    value = tl.load(entries + i, mask=i < wide, other=-1)
    equal = tl.zeros([W], tl.int32)
    earlier = tl.zeros([W], tl.int32)
    for start in range(0, wide, BLOCK):
        j = start + tl.arange(0, BLOCK)
        other = tl.load(entries + j, mask=j < wide, other=-1)
        same = (value[:, None] == other[None, :]) & (j < wide)[None, :]
        equal += tl.sum(same.to(tl.int32), 1)
        earlier += tl.sum((same & (j[None, :] < i[:, None])).to(tl.int32), 1)
    keep = (value >= 0) & (earlier == 0) & (equal >= needed)
    tl.store(keeps + i, keep.to(tl.int8), mask=i < wide)
    tl.debug_barrier()
    rank = tl.zeros([W], tl.int32)
    for start in range(0, wide, BLOCK):
        j = start + tl.arange(0, BLOCK)
        other = tl.load(entries + j, mask=j < wide, other=-1)
        counted = tl.load(keeps + j, mask=j < wide, other=0) > 0
        rank += tl.sum((counted[None, :] & (other[None, :] < value[:, None])).to(tl.int32), 1)
    count = tl.sum(keep.to(tl.int32), 0)
    tl.store(out + row * out_wide + rank, value, mask=keep & (rank < out_wide))
    tl.store(out + row * out_wide + i, tl.full([W], -1, tl.int64), mask=(i >= count) & (i < out_wide))


def intersect_sets(*sets: torch.Tensor) -> torch.Tensor:
    """Indices in every one of the sets ``[..., m]`` int64, as wide as the narrowest."""
    return _merge(sets, min(rows.shape[-1] for rows in sets), needed=len(sets))


def unite_sets(*sets: torch.Tensor) -> torch.Tensor:
    """Indices in any of the sets ``[..., m]`` int64, as wide as all of them."""
    return _merge(sets, sum(rows.shape[-1] for rows in sets), needed=1)


def _merge(sets: Sequence[torch.Tensor], out_wide: int, needed: int) -> torch.Tensor:
    lead = torch.broadcast_shapes(*(rows.shape[:-1] for rows in sets))
    entries = torch.cat([rows.expand(*lead, -1) for rows in sets], dim=-1)
    wide = entries.shape[-1]
    out = entries.new_empty(*lead, out_wide)
    keeps = torch.empty_like(entries, dtype=torch.int8)
    warps = 1 if wide <= 64 else 4 if wide <= 256 else 8
    with on_device(entries):
        sets_kernel[(lead.numel(),)](
            entries, keeps, out, wide, out_wide, needed, W=triton.next_power_of_2(wide), num_warps=warps,
            **configuration("index_sets", entries.device),
        )  # fmt: skip
    return out
