"""The operators of salcr: the public API.

Every operator takes ``impl``, the name of a technology or ``"auto"``, which follows the tensor's device and falls back
to what exists there:

- ``"cpp"``: C++ with OpenMP; ``"numba"``: compiled loops, for rankings; ``"faiss"``: approximate neighbours
- ``"triton"`` and ``"cuda"``: GPU kernels
- ``"eager"``: PyTorch on any device, in blocks and with gradients written out
- ``"reference"``: the formula in plain PyTorch, NumPy or SciPy, on any device; the only one with second derivatives:
  the others raise

A backend asked for by name that cannot run raises :class:`BackendError` and says why; ``salcr info`` prints which exist
on this machine. :func:`use_backend` chooses for everything that is called inside it.

In functions that torch.compile or torch.export compiles, an operator is one opaque node of the graph. Two end the graph
instead and run uncompiled: :func:`evaluate_ranking`, which computes in NumPy, and :func:`jaccard_graph`, since PyTorch
compiles no sparse matrix (``torch.ops.salcr.jaccard_graph`` returns its parts); so does :func:`dbscan` of a sparse one.

:func:`torch.func.vmap` calls an operator once for each element, which is as fast as a loop; a leading part axis is
faster where there is one.

Examples in the docstrings assume ``import torch`` and ``from salcr import ops``.
"""

from salcr.ops import instance_memories  # noqa: F401  operators of a training step, registered with the others
from salcr.ops._dispatch import BackendError, use_backend
from salcr.ops.assignment import bidirectional_assignment, linear_assignment, progressive_matching
from salcr.ops.augmentation import augment
from salcr.ops.batch_norm import batch_norm_relu
from salcr.ops.centroids import cluster_centroids
from salcr.ops.cluster_memories import cluster_contrast_sum
from salcr.ops.cluster_memory import cluster_contrast
from salcr.ops.cluster_memory_update import update_cluster_memory_
from salcr.ops.clustering import cluster, label_agreement, pair_votes
from salcr.ops.dbscan import dbscan
from salcr.ops.index_sets import intersect_sets, unite_sets
from salcr.ops.instance_memory import instance_neighbors, instance_search, set_contrast
from salcr.ops.jaccard import jaccard_distance, jaccard_graph
from salcr.ops.knn import knn
from salcr.ops.pooling import gem_pool, part_attention, part_prototypes, semantic_parts, semantic_pool
from salcr.ops.propagation import propagate_features
from salcr.ops.ranking import RankingResult, evaluate_ranking
from salcr.ops.reranking import (
    affinity_inference,
    rerank_cross_modality,
    rerank_distances,
    rerank_gnn,
    rerank_k_reciprocal,
)
from salcr.ops.sinkhorn import sinkhorn

__all__ = [
    "BackendError",
    "RankingResult",
    "affinity_inference",
    "augment",
    "batch_norm_relu",
    "bidirectional_assignment",
    "cluster",
    "cluster_centroids",
    "cluster_contrast",
    "cluster_contrast_sum",
    "dbscan",
    "evaluate_ranking",
    "gem_pool",
    "instance_neighbors",
    "instance_search",
    "intersect_sets",
    "jaccard_distance",
    "jaccard_graph",
    "knn",
    "label_agreement",
    "linear_assignment",
    "pair_votes",
    "part_attention",
    "part_prototypes",
    "progressive_matching",
    "propagate_features",
    "rerank_cross_modality",
    "rerank_distances",
    "rerank_gnn",
    "rerank_k_reciprocal",
    "semantic_parts",
    "semantic_pool",
    "set_contrast",
    "sinkhorn",
    "unite_sets",
    "update_cluster_memory_",
    "use_backend",
]
