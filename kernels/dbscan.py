"""DBSCAN on given distances, dense or sparse rows, without waiting for the device.

Source: docs/method.md, "DBSCAN".

Three passes over the stored pairs and one over the rows. ``cores_kernel`` counts each row's near points.
``unite_kernel`` joins core points by union-find without locks: of two different roots the larger is hooked below the
smaller by an atomic minimum, which returns what it found; if another program hooked that root first, the pair goes on
with what was found. A parent is always smaller than its child, so there are no cycles, all lanes come to an end, and
whatever the order of programs, the root of a component ends as its smallest core point. A stale parent belongs to the
component still, so reads need no order. Numbering the roots by a cumulative sum is scikit-learn's numbering, and the
smallest label among a border point's core neighbours is its choice.

A program (one warp) is a row. Floor: the pairs are read three times, 12 bytes each in a graph, 0.5 GB at 40 million
pairs; walks along paths, which halve them, come on top.
"""

import torch
import triton
import triton.language as tl

from .launch import at_most_one_each, configuration, on_device


@triton.jit
def row_range(pointers, row, rows, DENSE: tl.constexpr):
    """Where a row's stored pairs begin and end."""
    if DENSE:
        begin = row * rows
        end = begin + rows
    else:
        begin = tl.load(pointers + row).to(tl.int64)
        end = tl.load(pointers + row + 1).to(tl.int64)
    return begin, end


@triton.jit
def near_points(columns, distances, begin, at, end, eps, DENSE: tl.constexpr):
    """The points of pairs ``at``, and which pairs are within ``eps``."""
    inside = at < end
    point = at - begin if DENSE else tl.load(columns + at, mask=inside, other=0).to(tl.int64)
    return point, inside & (tl.load(distances + at, mask=inside, other=float("inf")).to(tl.float32) <= eps)


@triton.jit
def cores_kernel(
    pointers, columns, distances, parents, eps, min_samples, rows, DENSE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Core points become their own parents, all others get -1. A point that stores no diagonal is near itself."""
    row = tl.program_id(0).to(tl.int64)
    begin, end = row_range(pointers, row, rows, DENSE)
    found = 0
    diagonal = 0
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        point, near = near_points(columns, distances, begin, at, end, eps, DENSE)
        found += tl.sum(near.to(tl.int32), 0)
        diagonal += tl.sum(((point == row) & (at < end)).to(tl.int32), 0)
    found += (diagonal == 0).to(tl.int32)
    tl.store(parents + row, tl.where(found >= min_samples, row, -1).to(tl.int32))


@triton.jit
def climb(parents, point, active):
    """Parent and grandparent of ``point``, which is hooked below the latter: paths halve as they are walked."""
    above = tl.load(parents + point, mask=active, other=0, volatile=True)
    top = tl.load(parents + above, mask=active, other=0, volatile=True)
    tl.atomic_min(parents + point, top, mask=active & (above != top), sem="relaxed")
    return above, top


@triton.jit
def unite_kernel(pointers, columns, distances, parents, eps, rows, DENSE: tl.constexpr, BLOCK: tl.constexpr):
    """Join every core point with the core points near it; ``parents`` of others are -1."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(parents + row) >= 0:
        begin, end = row_range(pointers, row, rows, DENSE)
        for start in range(begin, end, BLOCK):
            at = start + tl.arange(0, BLOCK)
            point, near = near_points(columns, distances, begin, at, end, eps, DENSE)
            a = tl.full([BLOCK], 0, tl.int32) + row.to(tl.int32)
            b = tl.where(near, point.to(tl.int32), a)
            b = tl.where(tl.load(parents + b) >= 0, b, a)
            while tl.max((a != b).to(tl.int32), 0) > 0:
                open_pair = a != b
                above, a_top = climb(parents, a, open_pair)
                other, b_top = climb(parents, b, open_pair)
                hooks = open_pair & (above == a) & (other == b)  # both are roots
                high = tl.maximum(a, b)
                low = tl.minimum(a, b)
                before = tl.atomic_min(parents + high, low, mask=hooks, sem="relaxed")
                # before: high itself, or what another program has hooked it below since
                a = tl.where(hooks, tl.where(before == high, low, before), tl.where(open_pair, a_top, a))
                b = tl.where(hooks, low, tl.where(open_pair, b_top, b))


@triton.jit
def roots_kernel(parents, roots, rows, BLOCK: tl.constexpr):
    """The root of every core point; -1 for the others."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_core = tl.load(parents + i, mask=i < rows, other=-1) >= 0
    root = i
    moves = is_core.to(tl.int32)
    while tl.max(moves, 0) > 0:
        above, top = climb(parents, root, moves > 0)
        moves = tl.where(above != root, moves, 0)
        root = tl.where(moves > 0, top, root)
    tl.store(roots + i, tl.where(is_core, root, -1), mask=i < rows)


@triton.jit
def labels_kernel(
    pointers, columns, distances, roots, numbers, labels, eps, rows, DENSE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """A core point has its root's number, another point the smallest among the core points near it, else -1."""
    row = tl.program_id(0).to(tl.int64)
    row_root = tl.load(roots + row)
    if row_root >= 0:
        tl.store(labels + row, tl.load(numbers + row_root))
    else:
        begin, end = row_range(pointers, row, rows, DENSE)
        best = tl.full([BLOCK], 0, tl.int64) + rows
        for start in range(begin, end, BLOCK):
            at = start + tl.arange(0, BLOCK)
            point, near = near_points(columns, distances, begin, at, end, eps, DENSE)
            root = tl.load(roots + point, mask=near, other=-1)
            best = tl.minimum(best, tl.load(numbers + root, mask=root >= 0, other=2**62))
        smallest = tl.min(best, 0)
        tl.store(labels + row, tl.where(smallest == rows, -1, smallest))


def dbscan(
    distances: torch.Tensor,
    pointers: torch.Tensor | None,
    columns: torch.Tensor | None,
    *,
    eps: float,
    min_samples: int,
) -> torch.Tensor:
    """Labels ``[N]``, int64, numbered by smallest core point; -1 for noise.

    Args:
        distances: ``[N, N]``, or the stored ones of sparse rows; any float dtype, contiguous.
        pointers, columns: of the sparse rows; None where ``distances`` is dense. Columns have to be below N.
        eps: largest distance of near points; compared in float32.
        min_samples: near points, itself among them, of a core point.
    """
    dense = pointers is None
    rows = len(distances) if dense else len(pointers) - 1
    if dense:
        pointers = columns = distances
    pairs = pointers, columns, distances
    blocks, flat = (configuration(f"dbscan.{name}", distances.device) for name in ("pairs", "roots"))
    for t in (blocks, flat):
        at_most_one_each(t["num_warps"], t["BLOCK"])
    blocks["DENSE"] = dense
    with on_device(distances):
        parents = torch.empty(rows, dtype=torch.int32, device=distances.device)
        roots, labels = torch.empty_like(parents), torch.empty_like(parents, dtype=torch.int64)
        cores_kernel[(rows,)](*pairs, parents, eps, min_samples, rows, **blocks)
        unite_kernel[(rows,)](*pairs, parents, eps, rows, **blocks)
        roots_kernel[(triton.cdiv(rows, flat["BLOCK"]),)](parents, roots, rows, **flat)
        is_root = roots == torch.arange(rows, device=roots.device)
        numbers = is_root.cumsum(0) - 1
        labels_kernel[(rows,)](*pairs, roots, numbers, labels, eps, rows, **blocks)
    return labels
