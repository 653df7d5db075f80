"""Augmentation on the CPU, in C++."""

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
    from salcr import _C

    stored = dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
    height, width = images.shape[1:3]
    views = torch.empty(len(images) if rows is None else len(rows), height, width, 3, dtype=stored)
    tables = (None if x is None else x.contiguous().numpy() for x in (draws, rows, scalings))
    bits = views if stored == torch.float32 else views.view(torch.int16)
    _C.augment(images.contiguous().numpy(), *tables, bits.numpy(), torch.get_num_threads())
    return views.to(dtype).permute(0, 3, 1, 2)
