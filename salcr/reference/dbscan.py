"""DBSCAN on given distances (docs/method.md, "DBSCAN"), in NumPy and SciPy."""

import numpy as np
import torch


def dbscan(distances: torch.Tensor, *, eps: float, min_samples: int = 4) -> torch.Tensor:
    """Connected components of the core points, then their borders; see :func:`salcr.ops.dbscan`."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    count = distances.shape[0]
    rows, columns = _near(distances, np.float32(eps))
    core = np.bincount(rows, minlength=count) >= min_samples
    linked = core[rows] & core[columns]
    graph = sparse.coo_array((np.ones(linked.sum(), bool), (rows[linked], columns[linked])), shape=(count, count))
    component = connected_components(graph, directed=False)[1][core]
    _, first, component = np.unique(component, return_index=True, return_inverse=True)
    labels = np.full(count, count)
    labels[core] = np.argsort(np.argsort(first))[component]
    border = ~core[rows] & core[columns]
    np.minimum.at(labels, rows[border], labels[columns[border]])
    return torch.from_numpy(np.where(labels == count, -1, labels)).to(distances.device)


def _near(distances: torch.Tensor, eps: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs within ``eps``; in a sparse matrix a point without a diagonal entry is included."""
    if distances.layout == torch.strided:
        return (distances.detach().cpu().float().numpy() <= eps).nonzero()
    pointers, columns, values = (
        x.detach().cpu() for x in (distances.crow_indices(), distances.col_indices(), distances.values())
    )
    rows, columns = np.repeat(np.arange(len(pointers) - 1), pointers.diff().numpy()), columns.numpy().astype(np.int64)
    alone = np.setdiff1d(np.arange(len(pointers) - 1), rows[rows == columns])
    near = values.float().numpy() <= eps
    return np.concatenate([rows[near], alone]), np.concatenate([columns[near], alone])
