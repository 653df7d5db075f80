"""DBSCAN on the GPU, in Triton: dense distances or CSR."""

import torch


def dbscan(distances: torch.Tensor, *, eps: float, min_samples: int = 4) -> torch.Tensor:
    """See :func:`salcr.ops.dbscan`."""
    from salcr.kernels import dbscan

    if distances.layout == torch.strided:
        return dbscan.dbscan(distances.contiguous(), None, None, eps=eps, min_samples=min_samples)
    parts = distances.values().detach(), distances.crow_indices(), distances.col_indices()
    values, pointers, columns = (x.contiguous() for x in parts)
    return dbscan.dbscan(values, pointers, columns, eps=eps, min_samples=min_samples)
