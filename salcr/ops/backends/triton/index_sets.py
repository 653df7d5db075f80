"""Index sets on the GPU, in Triton."""

import torch


def intersect_sets(*sets: torch.Tensor) -> torch.Tensor:
    """See :func:`salcr.ops.intersect_sets`."""
    from salcr.kernels import index_sets

    return index_sets.intersect_sets(*sets)


def unite_sets(*sets: torch.Tensor) -> torch.Tensor:
    """See :func:`salcr.ops.unite_sets`."""
    from salcr.kernels import index_sets

    return index_sets.unite_sets(*sets)
