"""Augmentation as data loaders run it, one image after the other on the CPU: a baseline of benchmarks, not for use."""

import torch

from salcr.reference.augmentation import augment as formulas


def augment(
    images: torch.Tensor,
    draws: torch.Tensor | None = None,
    *,
    rows: torch.Tensor | None = None,
    scalings: torch.Tensor | None = None,
) -> torch.Tensor:
    """The views of :func:`salcr.ops.augment` in float32, made on the CPU and collated there."""
    images, draws, rows, scalings = (None if x is None else x.cpu() for x in (images, draws, rows, scalings))
    views = []
    for view in range(len(images) if rows is None else len(rows)):
        image = images[view if rows is None else rows[view]].unsqueeze(0)
        views.append(formulas(image, None if draws is None else draws[view : view + 1], scalings=scalings))
    return torch.cat(views)
