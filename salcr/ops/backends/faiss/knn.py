"""Approximate nearest neighbours by faiss: rows in cells around centroids, of which the nearest few are searched.

faiss is imported at the first call and so after torch: the other way round, their OpenMP runtimes are known to clash.
"""

import math
from importlib import import_module
from typing import Any

import torch

from salcr.ops._checks import wide_dtype
from salcr.ops.backends.eager.knn import both_sides, fill

PROBED = 16  # one of so many cells is searched
MOST_ON_DEVICE = 2048  # neighbours that faiss selects on a GPU


def knn(
    queries: torch.Tensor, k: int, *, database: torch.Tensor | None = None, metric: str = "cosine"
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.knn`: about the square root of N cells, on the tensors' GPU or on the host."""
    exclude_self, device, dtype = database is None, queries.device, wide_dtype(queries)
    search, place = (_search_on_device, device) if searches_on(device, k) else (_search, torch.device("cpu"))
    queries = queries.to(place, torch.float32).contiguous()
    database = None if exclude_self else database.to(place, torch.float32).contiguous()
    queries, database = both_sides(queries, database, metric)
    scores, indices = _ordered(*search(queries, database, k, metric))
    rows = torch.arange(len(queries), device=place)
    if exclude_self:  # a row that is in its own list goes to the end of it, and then before all others
        itself = indices == rows[:, None]
        scores, indices = _ordered(scores.masked_fill(itself, -torch.inf), indices)
        scores_with_itself = (
            queries.square().sum(1, keepdim=True) if metric == "cosine" else scores.new_zeros(len(queries), 1)
        )
        scores = torch.cat([scores_with_itself, scores[:, : k - 1]], 1)
        indices = torch.cat([rows[:, None], indices[:, : k - 1]], 1)
    fill(rows[(indices < 0).any(1)], scores, indices, queries, database, exclude_self, metric)
    values = scores if metric == "cosine" else 0 - scores  # 0, not -0
    return values.to(device, dtype), indices.to(device)


def searches_on(device: torch.device, k: int) -> bool:
    """Whether faiss, which has to be installed, searches for ``k`` neighbours on ``device``: a GPU, built for it."""
    import faiss

    if device.type != "cuda" or k > MOST_ON_DEVICE:
        return False
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _search(queries: torch.Tensor, database: torch.Tensor, k: int, metric: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, the larger the nearer, and indices ``[Q, k]``; -Inf and -1 where the cells hold fewer rows than ``k``."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    width, cells, measure = _layout(database, metric)
    index = faiss.IndexIVFFlat(faiss.IndexFlat(width, measure), width, cells, measure)
    _prepare(index, cells)
    index.train(database.numpy())
    index.add(database.numpy())
    scores, indices = map(torch.from_numpy, index.search(queries.numpy(), k))
    return _scored(scores, indices, metric)


def _search_on_device(
    queries: torch.Tensor, database: torch.Tensor, k: int, metric: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`_search`, of tensors on one GPU: index and features stay there, in the order of the current stream.

    faiss takes their addresses, by the calls that its own wrappers for NumPy are made of (``train_c`` and so on).
    """
    faiss: Any = import_module("faiss")  # faiss-cpu has no such names
    device, (width, cells, measure) = queries.get_device(), _layout(database, metric)
    stream = torch.cuda.current_stream(queries.device).cuda_stream
    resources = faiss.StandardGpuResources()
    resources.setDefaultStream(device, faiss.cast_integer_to_cudastream_t(stream))
    config = faiss.GpuIndexIVFFlatConfig()
    config.device = device
    index = faiss.GpuIndexIVFFlat(resources, width, cells, measure, config)
    _prepare(index, cells)
    rows = faiss.cast_integer_to_float_ptr(database.data_ptr())
    index.train_c(len(database), rows)
    index.add_c(len(database), rows)
    scores = queries.new_empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    places = (
        faiss.cast_integer_to_float_ptr(queries.data_ptr()),
        k,
        faiss.cast_integer_to_float_ptr(scores.data_ptr()),
        faiss.cast_integer_to_idx_t_ptr(indices.data_ptr()),
    )
    index.search_c(len(queries), *places)
    return _scored(scores, indices, metric)


def _layout(database: torch.Tensor, metric: str) -> tuple[int, int, int]:
    """Width of the rows, number of cells, and faiss's name of the metric."""
    import faiss

    measure = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    return database.shape[1], math.isqrt(len(database)), measure


def _prepare(index, cells: int) -> None:
    index.cp.min_points_per_centroid = 1  # or it complains of a database below 1,521 rows
    index.nprobe = -(-cells // PROBED)


def _scored(scores: torch.Tensor, indices: torch.Tensor, metric: str) -> tuple[torch.Tensor, torch.Tensor]:
    return (scores if metric == "cosine" else -scores).masked_fill(indices < 0, -torch.inf), indices


def _ordered(scores: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The larger first, equal ones by index."""
    indices, order = indices.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, indices.gather(1, order)
