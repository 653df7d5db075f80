"""The momentum update of cluster memories, sample after sample: ``m ← normalize(μm + (1−μ)x̂)``.

Source: docs/method.md, "Memory update".

One launch a call: a program is a class of a part. Samples of other classes commute with its own, so it visits its own
only, in the given order, with its row in registers: of the memory it reads and writes that one row, of the features
every sample's row once. A counting sort makes the list of its samples: each program counts the samples of lower
classes, which is where its part of the list begins, so programs need not meet. The loads of the next samples do not
depend on the row and are in flight while it is renormalised.

A step of the chain costs two block-wide sums, and there are as many steps as samples of the largest class (72 in
training). The chain through the Gram matrix of a class's samples has cheaper steps, but the Gram matrix itself (72 x 72
x 2048, float32 without tensor cores) takes longer than the 72 sums it saves. Where the hardest sample alone counts
there is no chain: one pass over the samples finds it. Floor: the touched rows' traffic.

Several memories take one launch as well, a program a class of a part of a memory: the chains of all run side by side,
and the 14 memories of stage two take the time of the longest chain instead of their sum. Which memory a part belongs
to is read off the arguments, so no table of addresses is copied to the device.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .launch import configuration, on_device


@triton.jit
def inverse_norm(x):
    """NaN where a square is NaN or their sum overflows: a row of which one element is spoilt is spoilt whole."""
    square = tl.sum(x * x, 0)
    return tl.where(square < float("inf"), tl.rsqrt(tl.maximum(square, 1e-24)), float("nan"))


@triton.jit
def update_kernel(
    memory, features, targets, order, members, samples, classes, width, momentum, SCAN: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, ORDERED: tl.constexpr, HARDEST: tl.constexpr = False,
):  # fmt: skip
    """The chain of one class; where HARDEST its sample of smallest cosine, the first in order of equals.

    ``memory [P, classes, D]``, ``features [P, samples, D]`` of any float dtype; ``targets [P, samples]`` and ``order
    [samples]``, which is read where ORDERED, int64; ``members [P, samples]`` int32 receives the samples class after
    class.
    """
    class_id, part = tl.program_id(0), tl.program_id(1).to(tl.int64)
    targets += part * samples
    members += part * samples
    begin, count = 0, 0
    for start in range(0, samples, SCAN):
        n = start + tl.arange(0, SCAN)
        target = tl.load(targets + n, mask=n < samples, other=-1)
        begin += tl.sum(((target >= 0) & (target < class_id)).to(tl.int32), 0)
        count += tl.sum((target == class_id).to(tl.int32), 0)
    if count > 0:
        found = begin
        for start in range(0, samples, SCAN):
            n = start + tl.arange(0, SCAN)
            sample = tl.load(order + n, mask=n < samples, other=0) if ORDERED else n
            sample = tl.minimum(tl.maximum(sample, 0), samples - 1)  # no permutation: undefined, but in bounds
            hit = (tl.load(targets + sample) == class_id) & (n < samples)
            place = found + tl.cumsum(hit.to(tl.int32), 0) - 1
            tl.store(members + place, sample.to(tl.int32), mask=hit & (place < begin + count))
            found += tl.sum(hit.to(tl.int32), 0)
        tl.debug_barrier()
        d = tl.arange(0, BLOCK)
        inside = d < width
        at = memory + (part * classes + class_id) * width + d
        row = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        end = begin + count
        if HARDEST:
            smallest = float("inf")
            hardest = begin
            for n in tl.range(begin, end, num_stages=STAGES):
                x = member_row(features, members, n, part, samples, width, d)
                cosine = tl.sum(x * row, 0) * inverse_norm(x)
                cosine = tl.where(cosine == cosine, cosine, float("-inf"))  # NaN shows in the row
                hardest = tl.where(cosine < smallest, n, hardest)
                smallest = tl.minimum(cosine, smallest)
            begin = hardest
            end = hardest + 1
        for n in tl.range(begin, end, num_stages=STAGES):
            x = member_row(features, members, n, part, samples, width, d)
            row = momentum * row + x * ((1 - momentum) * inverse_norm(x))
            row *= inverse_norm(row)
        tl.store(at, row.to(memory.dtype.element_ty), mask=inside)


@triton.jit
def member_row(features, members, n, part, samples, width, d):
    """The feature row of the n-th sample of the list, in float32."""
    sample = tl.minimum(tl.maximum(tl.load(members + n), 0), samples - 1).to(tl.int64)
    return tl.load(features + (part * samples + sample) * width + d, mask=d < width, other=0.0).to(tl.float32)


@triton.jit
def updates_kernel(
    memories, features, targets, orders, members, parts, classes, samples, width, momentum, SCAN: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, ORDERED: tl.constexpr,
):  # fmt: skip
    """The chain of one class of one of several memories; see :func:`update_kernel`.

    Arguments are tuples, an entry for each memory; ``members`` has room for the samples of all parts. ``place * 0`` is
    a zero of the type of ``place``: what a branch changes must keep its type.
    """
    place = tl.program_id(1)
    memory, rows, labels, order = memories[0], features[0], targets[0], orders[0]
    first, count, height = place * 0, place * 0 + samples[0], place * 0 + classes[0]
    begin, behind, room = first.to(tl.int64), parts[0], parts[0] * samples[0]
    for i in tl.static_range(1, len(memories)):
        if place >= behind:
            memory, rows, labels, order = memories[i], features[i], targets[i], orders[i]
            first, count, height = place * 0 + behind, place * 0 + samples[i], place * 0 + classes[i]
            begin = first.to(tl.int64) * 0 + room
        behind += parts[i]
        room += parts[i] * samples[i]
    # update_kernel counts parts from the first of the launch: addresses are moved back by parts of this memory's size.
    skipped = first.to(tl.int64) * count
    memory -= first.to(tl.int64) * height * width
    if tl.program_id(0) < height:
        update_kernel(
            memory, rows - skipped * width, labels - skipped, order, members + begin - skipped, count, height, width,
            momentum, SCAN, BLOCK, STAGES, ORDERED,
        )  # fmt: skip


def update_cluster_memory(
    memory: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    order: torch.Tensor | None,
    *,
    momentum: float,
    hardest: bool = False,
) -> None:
    """Update ``memory [P, K, D]`` in place with ``features [P, B, D]``; all arguments contiguous.

    Args:
        memory: float; the chain is float32 whatever its dtype.
        features: of any float dtype; need not be normalised.
        targets: ``[P, B]`` int64; a negative one, or one of no class, changes nothing.
        order: ``[B]`` int64, a permutation of the samples; by default their own order.
        momentum: share of the old row.
        hardest: of each class only the first sample in order of smallest cosine to the row counts.
    """
    (parts, classes, width), samples = memory.shape, features.shape[1]
    members = torch.empty(parts, samples, dtype=torch.int32, device=memory.device)
    t = launch_for(width, memory.device)
    with on_device(memory):
        update_kernel[(classes, parts)](
            memory, features, targets, targets if order is None else order, members, samples, classes, width, momentum,
            ORDERED=order is not None, HARDEST=hardest, **t,
        )  # fmt: skip


def update_cluster_memories(
    memories: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    orders: Sequence[torch.Tensor] | None,
    *,
    momentum: float,
) -> None:
    """Update every one of ``memories`` in place; arguments as of :func:`update_cluster_memory`, one a memory.

    All have one dtype, one width and one device; no memory shares elements with another.
    """
    parts, classes, widths = zip(*(memory.shape for memory in memories), strict=True)
    samples, first = tuple(rows.shape[1] for rows in features), memories[0]
    room = sum(p * n for p, n in zip(parts, samples, strict=True))
    members = torch.empty(room, dtype=torch.int32, device=first.device)
    t = launch_for(widths[0], first.device)
    with on_device(first):
        updates_kernel[(max(classes), sum(parts))](
            tuple(memories), tuple(features), tuple(targets), tuple(orders or targets), members, parts, classes,
            samples, widths[0], momentum, ORDERED=bool(orders), **t,
        )  # fmt: skip


def launch_for(width: int, device: torch.device) -> dict[str, int]:
    """For rows of ``width``: two are under way, which shared memory of any GPU holds, and none above 8,192 numbers."""
    block, t = triton.next_power_of_2(width), configuration("cluster_memory_update", device)
    t["num_warps"] *= 1 if block <= 4096 else 2
    return t | dict(BLOCK=block, STAGES=3 if block <= 8192 else 1)
