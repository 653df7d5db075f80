"""The functions of published re-identification code under their own names: change the import, nothing else.

They take NumPy arrays or tensors in the shapes and conventions of the code they replace, and run on :mod:`salcr.ops`.
docs/adopting.md says for which code bases, what stays equal and what does not. New code is better off with
:mod:`salcr.ops` and :mod:`salcr.nn` themselves.
"""

from salcr.compat.assignment import linear_sum_assignment
from salcr.compat.clustering import DBSCAN, compute_jaccard_distance
from salcr.compat.memory import ClusterMemory
from salcr.compat.ranking import eval_llcm, eval_regdb, eval_sysu, evaluate_rank, re_ranking

__all__ = [
    "DBSCAN",
    "ClusterMemory",
    "compute_jaccard_distance",
    "eval_llcm",
    "eval_regdb",
    "eval_sysu",
    "evaluate_rank",
    "linear_sum_assignment",
    "re_ranking",
]
