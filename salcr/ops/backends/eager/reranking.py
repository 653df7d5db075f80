"""Aggregation over the neighbour graph in plain PyTorch, on any device: a block of columns at a time, nothing N×N.

Both aggregations take columns one by one, but for the norms of rows between them: these are added up in a first pass.
"""

import torch
import torch.nn.functional as F

BLOCK_ENTRIES = 1 << 26  # of a block of columns
TINY = 1e-12  # torch.nn.functional.normalize's eps


def graph_cosines(ranks: torch.Tensor, weights: torch.Tensor, queries: int) -> torch.Tensor:
    """See :func:`salcr.reference.reranking.graph_cosines`."""
    count = len(ranks)
    near = ranks[:, : weights.shape[1]].contiguous()
    blocks = _blocks(count)

    def aggregated(rows: torch.Tensor) -> torch.Tensor:
        return F.embedding_bag(near, rows, mode="sum", per_sample_weights=weights)

    squares = sum(aggregated(_adjacency(ranks, columns, weights.dtype)).square().sum(1) for columns in blocks)
    norms = squares.sqrt().clamp_min(TINY)
    cosines, squares = 0, 0
    for columns in blocks:
        rows = aggregated(aggregated(_adjacency(ranks, columns, weights.dtype)) / norms[:, None])
        squares = squares + rows.square().sum(1)
        cosines = cosines + rows[:queries] @ rows[queries:].T
    norms = squares.sqrt().clamp_min(TINY)
    return cosines / norms[:queries, None] / norms[queries:]


def _blocks(count: int) -> list[slice]:
    width = max(1, BLOCK_ENTRIES // count)
    return [slice(start, min(start + width, count)) for start in range(0, count, width)]


def _adjacency(ranks: torch.Tensor, columns: slice, dtype: torch.dtype) -> torch.Tensor:
    """The ``columns`` of A + A.T, where A is 1 at the images that a row ranks."""
    width = columns.stop - columns.start
    places = ranks - columns.start
    inside = (places >= 0) & (places < width)
    places = torch.where(inside, places, width)  # one more column takes all that lie elsewhere
    block = torch.zeros(len(ranks), width + 1, dtype=dtype, device=ranks.device).scatter_(1, places, 1)
    block[ranks[columns], torch.arange(width, device=ranks.device)[:, None]] += 1
    return block[:, :width].contiguous()
