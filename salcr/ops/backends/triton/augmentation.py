"""Augmentation on the GPU, in Triton."""

import torch


def augment(
    images: torch.Tensor,
    draws: torch.Tensor | None,
    *,
    rows: torch.Tensor | None,
    scalings: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """See :func:`salcr.ops.augment`."""
    from salcr.kernels import augmentation

    tables = (None if x is None else x.contiguous() for x in (draws, rows, scalings))
    return augmentation.augment(images.contiguous(), *tables, dtype)
