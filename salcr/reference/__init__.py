"""The operators of :mod:`salcr.ops` in plain PyTorch and NumPy: the oracle of tests and the baseline of benchmarks.

Same names, same arguments (without ``impl``), no argument checks, any device, float64 where floating point. Autocast
rounds them like any formula; an operator with ``impl="reference"`` it does not.
:mod:`salcr.reference.published` holds the forms that published implementations use, for measuring against them.
"""

from salcr.reference.assignment import bidirectional_assignment, linear_assignment, progressive_matching
from salcr.reference.augmentation import augment
from salcr.reference.batch_norm import batch_norm_relu
from salcr.reference.centroids import cluster_centroids
from salcr.reference.cluster_memory import cluster_contrast, cluster_contrast_sum, update_cluster_memory_
from salcr.reference.clustering import cluster, label_agreement, pair_votes
from salcr.reference.dbscan import dbscan
from salcr.reference.index_sets import intersect_sets, unite_sets
from salcr.reference.instance_memory import instance_neighbors, instance_search, set_contrast
from salcr.reference.jaccard import jaccard_distance, jaccard_graph
from salcr.reference.knn import knn
from salcr.reference.pooling import gem_pool, part_attention, part_prototypes, semantic_parts, semantic_pool
from salcr.reference.propagation import propagate_features
from salcr.reference.ranking import RankingResult, evaluate_ranking
from salcr.reference.reranking import (
    affinity_inference,
    rerank_cross_modality,
    rerank_distances,
    rerank_gnn,
    rerank_k_reciprocal,
)
from salcr.reference.sinkhorn import sinkhorn

__all__ = [
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
]
