"""DBSCAN on the GPU, in Triton: dense distances or CSR."""

import numpy as np
import torch


def dbscan(distances: torch.Tensor, *, eps: float, min_samples: int = 4) -> torch.Tensor:
    """See :func:`salcr.ops.dbscan`. Of sparse distances it checks the indices, which waits for the device."""
    from salcr.kernels import dbscan

    eps, distances = float(np.float32(eps)), distances.detach()
    if distances.layout == torch.strided:
        return dbscan.dbscan(distances.contiguous(), None, None, eps=eps, min_samples=min_samples)
    parts = distances.values(), distances.crow_indices(), distances.col_indices()
    values, pointers, columns = (x.contiguous() for x in parts)
    rows, stored = len(pointers) - 1, len(columns)
    sound = (pointers[0] == 0) & (pointers[-1] == stored) & (pointers.diff() >= 0).all()
    if not sound & ((columns >= 0) & (columns < rows)).all():
        raise ValueError("dbscan: row pointers or columns out of range")
    return dbscan.dbscan(values, pointers, columns, eps=eps, min_samples=min_samples)
