"""Aggregation over the neighbour graph on the CPU: sparse rows in C++ all the way."""

import torch


def graph_cosines(ranks: torch.Tensor, weights: torch.Tensor, queries: int) -> torch.Tensor:
    """See :func:`salcr.reference.reranking.graph_cosines`."""
    from salcr import _C

    cosines = weights.new_empty(queries, len(ranks) - queries)
    arrays = ranks.int().contiguous().numpy(), weights.contiguous().numpy(), cosines.numpy()
    _C.graph_cosines(*arrays, torch.get_num_threads())
    return cosines
