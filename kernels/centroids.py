"""Means of clusters: a sort of the rows by label, then one program a cluster and strip of columns.

Source: docs/method.md, "Centroids".

A program walks its cluster's rows in the order of their index, ``ROWS`` at a time, and adds them up in float64, so that
equal inputs give equal bits. Every feature is read once, every centroid written once, which is the floor. A cluster of
all N rows is walked by as few programs as there are strips: slower, not wrong.
"""

import torch
import triton
import triton.language as tl

from .launch import configuration, on_device


@triton.jit
def means_kernel(features, order, bounds, out, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    cluster = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin, end = tl.load(bounds + cluster), tl.load(bounds + cluster + 1)
    r = tl.arange(0, ROWS)
    total = tl.full([ROWS, BLOCK], 0.0, tl.float64)
    for start in range(begin, end, ROWS):
        row = tl.load(order + start + r, mask=start + r < end, other=0)
        inside = (start + r < end)[:, None] & (d < width)[None, :]
        total += tl.load(features + row[:, None] * width + d[None, :], mask=inside, other=0.0).to(tl.float64)
    mean = tl.sum(total, 0) / (end - begin).to(tl.float64)
    tl.store(out + cluster * width + d, mean.to(out.dtype.element_ty), mask=d < width)


def cluster_centroids(features: torch.Tensor, labels: torch.Tensor, num_clusters: int) -> torch.Tensor:
    """``[num_clusters, D]`` of the dtype of ``features``; rows with label -1 are left out, no cluster is empty.

    Args:
        features: ``[N, D]``, float, contiguous.
        labels: ``[N]``, int64 in ``[-1, num_clusters)``.
    """
    width = features.shape[1]
    out = features.new_empty(num_clusters, width)
    with on_device(features):
        labels, order = labels.sort(stable=True)
        bounds = torch.searchsorted(labels, torch.arange(num_clusters + 1, device=labels.device))
        t = configuration("centroids", features.device)
        t["BLOCK"] = min(t["BLOCK"], triton.next_power_of_2(width))
        means_kernel[num_clusters, triton.cdiv(width, t["BLOCK"])](features, order, bounds, out, width, **t)
    return out
