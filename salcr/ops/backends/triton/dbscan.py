"""DBSCAN on the GPU, in Triton: dense distances or CSR."""

import numpy as np
import torch


def dbscan(distances: torch.Tensor, *, eps: float, min_samples: int = 4) -> torch.Tensor:
    """See :func:`salcr.ops.dbscan`. Of sparse distances it checks the indices, which waits for the device."""
    if distances.layout == torch.strided:
        return _labels(distances.detach(), None, None, eps, min_samples)
    pointers, columns = distances.crow_indices(), distances.col_indices()
    rows, stored = len(pointers) - 1, len(columns)
    sound = (pointers[0] == 0) & (pointers[-1] == stored) & (pointers.diff() >= 0).all()
    if not sound & ((columns >= 0) & (columns < rows)).all():
        raise ValueError("dbscan: row pointers or columns out of range")
    return labels_of_graph(distances, eps=eps, min_samples=min_samples)


def labels_of_graph(distances: torch.Tensor, *, eps: float, min_samples: int) -> torch.Tensor:
    """Labels of sparse distances that are known to be sound; does not wait for the device."""
    parts = distances.values(), distances.crow_indices(), distances.col_indices()
    return _labels(*(x.detach() for x in parts), eps, min_samples)


def _labels(
    distances: torch.Tensor, pointers: torch.Tensor | None, columns: torch.Tensor | None, eps: float, min_samples: int
) -> torch.Tensor:
    from salcr.kernels import dbscan

    eps = float(np.float32(eps))
    return dbscan.dbscan(distances.contiguous(), pointers, columns, eps=eps, min_samples=min_samples)
