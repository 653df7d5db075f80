"""The operators of salcr: the public API.

Every operator takes ``impl``: ``"auto"`` follows the tensor's device and falls back to what exists there,
``"reference"`` is plain PyTorch, ``"cpu"`` is C++ with OpenMP, ``"triton"`` and ``"cuda"`` are GPU kernels. A backend
asked for by name that cannot run raises and says why; ``salcr info`` prints which exist on this machine.
"""

from salcr.ops.cluster_memory import cluster_contrast, update_cluster_memory_

__all__ = ["cluster_contrast", "update_cluster_memory_"]
