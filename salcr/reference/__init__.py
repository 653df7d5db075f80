"""The operators of :mod:`salcr.ops` in plain PyTorch and NumPy: the oracle of tests and the baseline of benchmarks.

Same names, same arguments (without ``impl``), no argument checks, any device, float64 where floating point.
:mod:`salcr.reference.published` holds the forms that published implementations use, for measuring against them.
"""

from salcr.reference.cluster_memory import cluster_contrast, update_cluster_memory_

__all__ = ["cluster_contrast", "update_cluster_memory_"]
