"""DBSCAN on the CPU, in C++: dense distances or CSR."""

import numpy as np
import torch


def dbscan(distances: torch.Tensor, *, eps: float, min_samples: int = 4) -> torch.Tensor:
    """See :func:`salcr.ops.dbscan`."""
    from salcr import _C

    labels = torch.empty(distances.shape[0], dtype=torch.int64, device=distances.device)
    options = eps, min_samples, labels.numpy(), torch.get_num_threads()
    if distances.layout == torch.strided:
        _C.dbscan_dense(_readable(distances), *options)
    else:
        places = (x.to(torch.int64).contiguous().numpy() for x in (distances.crow_indices(), distances.col_indices()))
        values = distances.values().detach()  # Dynamo, here in a compiled caller, fails on a sparse matrix's view
        _C.dbscan_sparse(*places, _readable(values), *options)
    return labels


def _readable(distances: torch.Tensor) -> np.ndarray:
    distances = distances.contiguous()
    return (distances if distances.dtype in (torch.float32, torch.float64) else distances.float()).numpy()
