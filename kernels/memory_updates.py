"""The momentum updates of several cluster memories in one launch, each as :mod:`cluster_memory_update` makes it alone.

A program is a class of a part of a memory, so that the chains of all memories run side by side: in a training step the
14 of stage two, 72 samples long at most, take the time of the longest instead of their sum. Which memory a part belongs
to is read off the arguments, so no table of addresses is copied to the device. Floor: the touched rows' traffic.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .cluster_memory_update import update_kernel
from .launch import configuration, on_device


@triton.jit
def updates_kernel(
    memories, features, targets, orders, members, parts, classes, samples, width, momentum, SCAN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A chain; see :func:`update_kernel`. Tuples of the memories' tensors and sizes, which differ in all but the width.

    ``members`` has room for the samples of all parts.
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
    # The kernel counts parts from the launch's first: what it gets begins as if all of them were like this one.
    skipped = first.to(tl.int64) * count
    memory -= first.to(tl.int64) * height * width
    if tl.program_id(0) < height:
        update_kernel(
            memory, rows - skipped * width, labels - skipped, order, members + begin - skipped, count, height, width,
            momentum, SCAN, BLOCK,
        )  # fmt: skip


def update_cluster_memories(
    memories: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    orders: Sequence[torch.Tensor],
    *,
    momentum: float,
) -> None:
    """Update every one of ``memories`` in place; arguments as of :func:`update_cluster_memory`, one a memory.

    All have one dtype, one width and one device; no memory shares elements with another.
    """
    parts, classes, widths = zip(*(memory.shape for memory in memories), strict=True)
    samples = tuple(rows.shape[1] for rows in features)
    first, block = memories[0], triton.next_power_of_2(widths[0])
    room = sum(p * n for p, n in zip(parts, samples, strict=True))
    members = torch.empty(room, dtype=torch.int32, device=first.device)
    t = configuration("cluster_memory_update", first.device)
    t["num_warps"] *= 1 if block <= 4096 else 2
    with on_device(first):
        updates_kernel[(max(classes), sum(parts))](
            tuple(memories), tuple(features), tuple(targets), tuple(orders), members, parts, classes, samples,
            widths[0], momentum, BLOCK=block, **t,
        )  # fmt: skip
