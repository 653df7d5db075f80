"""Augmentation of uint8 images into the network's inputs."""

import torch

from salcr import reference
from salcr.ops._checks import check_finite, check_indices, check_same, check_tensor
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import HALF_TO_SINGLE
from salcr.ops._register import register
from salcr.ops.backends.cpp import augmentation as _cpp
from salcr.ops.backends.triton import augmentation as _triton
from salcr.reference.augmentation import MEAN, STD, Adjust, Draw, Mix

__all__ = ["MEAN", "STD", "Adjust", "Draw", "Mix", "augment"]
SCALING_COLUMNS = 7


def augment(
    images: torch.Tensor,
    draws: torch.Tensor | None = None,
    *,
    rows: torch.Tensor | None = None,
    scalings: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    impl: str = "auto",
) -> torch.Tensor:
    """Views of images for the network: cropped, mirrored, recoloured, normalised, erased, in one pass over the pixels.

    The random numbers come as a table with one row a view, so that a run draws the same ones on every device.
    Equivalent eager expression, for a view with draws ``d``::

        x = pad(images[rows], d.top, d.left, d.mirrored) / 255                # [3, H, W], black outside of the image
        x = scale_locally(x, scalings[d.scaling])                              # where d.scaling >= 0
        for adjustment in (d.first, d.second, d.third, d.fourth):
            x = brightness, contrast, saturation or hue(x)                     # each stays in [0, 1]
        x = (x - MEAN) / STD                                                   # of ImageNet
        x[:, d.erased_top : d.erased_bottom, d.erased_left : d.erased_right] = (0.4914, 0.4822, 0.4465)
        x = x[d.channels] in all three places, or the weighted grey, or x as it is

    Args:
        images: ``[N, H, W, 3]``, uint8, contiguous: RGB.
        draws: ``[B, 17]``, float32, with the columns of :class:`salcr.ops.augmentation.Draw`; by default only
            normalised. :class:`salcr.data.augment.Augmentation` draws the table for the views of training.
        rows: ``[B]``, int64 in ``[0, N)``: which image each view shows; by default view b shows image b.
        scalings: ``[C, R, 7]``, float32: chains of R rectangles (top, bottom, left, right, the last of either pair the
            first outside) with a β for each channel. In a rectangle every channel whose maximum there is above 0 is
            multiplied by β / maximum, one rectangle after the other; a chain ends with the rectangle after which the
            product of the factors of some pixel and channel is at most 1e-6.
        dtype: of the result: float32, bfloat16, float16, or float64, which the reference alone has.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[B, 3, H, W]`` in channels-last memory format, with ImageNet's mean and deviation taken out.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or device; scalings without draws. On the CPU also a row outside
            ``[0, N)``, or a draw that names no adjustment, channel or scaling, or an adjustment twice (on a GPU they
            are not looked at: such a view is undefined).

    Example:
        >>> images = torch.full((2, 288, 144, 3), 255, dtype=torch.uint8)
        >>> views = ops.augment(images)  # white, normalised
        >>> views.shape, [round(x, 2) for x in views[0, :, 0, 0].tolist()]
        (torch.Size([2, 3, 288, 144]), [2.25, 2.43, 2.64])

    Source: docs/method.md, "Augmentation"; Random Erasing Data Augmentation (Zhong et al., 2020).
    """
    _check_images(images)
    if rows is not None:
        check_tensor("rows", rows, ndim=1, floating=False)
        check_same("rows", rows, "images", images, dtype=False)
    views = len(images) if rows is None else len(rows)
    if draws is not None:
        _check_table("draws", draws, images, ndim=2, columns=len(Draw))
        if len(draws) != views:
            raise ValueError(f"draws must have {views} rows, one a view, got {len(draws)}")
    if scalings is not None:
        if draws is None:
            raise ValueError("scalings are given without draws, whose last column says which of them each view has")
        _check_table("scalings", scalings, images, ndim=3, columns=SCALING_COLUMNS)
    if dtype not in (*HALF_TO_SINGLE, torch.float64):
        raise TypeError(f"dtype must be a floating-point dtype of 16 to 64 bits, got {dtype}")
    return torch.ops.salcr.augment(images, draws, rows, scalings, dtype, check_impl(impl))


def _check_images(images: torch.Tensor) -> None:
    """uint8 ``[N, H, W, 3]``."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if images.layout != torch.strided:
        raise TypeError(f"images must be dense, got {images.layout}")
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[3] != 3 or images.numel() == 0:
        raise ValueError(f"images must be [N, H, W, 3] and not empty, got shape {tuple(images.shape)}")


def _check_table(name: str, x: torch.Tensor, images: torch.Tensor, ndim: int, columns: int) -> None:
    check_tensor(name, x, ndim=ndim)
    check_same(name, x, "images", images, dtype=False)
    if x.dtype != torch.float32:
        raise TypeError(f"{name} must be float32, got {x.dtype}")
    if x.shape[-1] != columns:
        raise ValueError(f"{name} must have {columns} columns, got shape {tuple(x.shape)}")


def _augment(images, draws, rows, scalings, dtype, impl):
    if images.device.type == "cpu":
        _check_values(images, draws, rows, scalings)
    wanted = images.new_empty(0, dtype=dtype)
    views = pick("augment", impl, wanted)(images, draws, rows=rows, scalings=scalings, dtype=dtype)
    return views.contiguous(memory_format=torch.channels_last)


def _check_values(images, draws, rows, scalings):
    if rows is not None:
        check_indices("rows", rows, 0, len(images))
    if draws is None:
        return
    check_finite("draws", draws)
    if scalings is not None:
        check_finite("scalings", scalings)
    chains = 0 if scalings is None else len(scalings)
    for first, last, low, high in (
        (Draw.FIRST, Draw.FOURTH, 0, len(Adjust) - 1),
        (Draw.CHANNELS, Draw.CHANNELS, -1, Mix.GREY),
        (Draw.SCALING, Draw.SCALING, -1, chains - 1),
    ):
        found = draws[:, first : last + 1]
        if found.min() < low or found.max() > high or (found != found.round()).any():
            names = first.name if first == last else f"{first.name} to {last.name}"
            raise ValueError(
                f"draws must have whole numbers in [{low}, {high}] in {names}, got {found.unique().tolist()}"
            )
    order = draws[:, Draw.FIRST : Draw.FOURTH + 1].sort(1)[0]
    twice = ((order[:, 1:] == order[:, :-1]) & (order[:, 1:] != Adjust.NOTHING)).any(1)
    if twice.any():
        raise ValueError(f"draws name an adjustment twice in row {int(twice.nonzero()[0])}")


def _fake_augment(images, draws, rows, scalings, dtype, impl):
    views = len(images) if rows is None else len(rows)
    return images.new_empty(views, *images.shape[1:], dtype=dtype).permute(0, 3, 1, 2)


add_backend("augment", "cpp", _cpp.augment, dtypes=HALF_TO_SINGLE)
add_backend("augment", "triton", _triton.augment, dtypes=HALF_TO_SINGLE)
add_backend("augment", "reference", reference.augment)
register(
    "augment",
    "(Tensor images, Tensor? draws, Tensor? rows, Tensor? scalings, ScalarType dtype, str impl) -> Tensor",
    _augment,
    _fake_augment,
)
