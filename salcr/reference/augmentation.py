"""Augmentation of uint8 images by given draws, as formulas over whole batches."""

from enum import IntEnum

import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ERASED = (0.4914, 0.4822, 0.4465)
GREY = (0.2989, 0.5870, 0.1140)
SCALED_AWAY = 1e-6


class Draw(IntEnum):
    """Columns of the table of draws that :func:`salcr.ops.augment` takes; a row says all about one view of an image."""

    TOP, LEFT, MIRRORED = 0, 1, 2
    """Pixel (y, x) shows pixel (y + TOP, x + LEFT), black outside; with MIRRORED 1 it is x counted from the right."""
    FIRST, SECOND, THIRD, FOURTH = 3, 4, 5, 6
    """The colour adjustments in their order, each a member of :class:`Adjust`."""
    BRIGHTNESS, CONTRAST, SATURATION, TURN = 7, 8, 9, 10
    """Three factors, and by how much of a full turn the hue is moved."""
    ERASED_TOP, ERASED_BOTTOM, ERASED_LEFT, ERASED_RIGHT = 11, 12, 13, 14
    """The erased rectangle, bottom and right being the first outside; none where top is bottom."""
    CHANNELS = 15
    """What of the channels is left, a member of :class:`Mix`."""
    SCALING = 16
    """Row of the local linear scalings, or -1."""


class Adjust(IntEnum):
    """A colour adjustment."""

    NOTHING, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(5)


class Mix(IntEnum):
    """The channels as they are, one of them in all three places, or their weighted grey in all three."""

    NONE, RED, GREEN, BLUE, GREY = -1, 0, 1, 2, 3


def augment(
    images: torch.Tensor,
    draws: torch.Tensor | None = None,
    *,
    rows: torch.Tensor | None = None,
    scalings: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """See :func:`salcr.ops.augment`."""
    images = images if rows is None else images[rows]
    precise = torch.promote_types(dtype, torch.float32)
    draws = None if draws is None else draws.to(precise)
    x = (images if draws is None else crop_and_mirror(images, draws)).movedim(3, 1).to(precise) / 255
    if scalings is not None:
        x = scale_locally(x, draws, scalings.to(precise))
    if draws is not None:
        x = adjust_colour(x, draws)
    x = (x - channels(MEAN, x)) / channels(STD, x)
    if draws is not None:
        rectangle = draws[:, Draw.ERASED_TOP : Draw.ERASED_RIGHT + 1]
        x = mix_channels(torch.where(inside(rectangle, *x.shape[2:]), channels(ERASED, x), x), draws[:, Draw.CHANNELS])
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def crop_and_mirror(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """``[B, H, W, 3]`` moved by (TOP, LEFT), black where nothing is, and mirrored."""
    height, width = images.shape[1:3]
    top, left, mirrored = draws[:, Draw.TOP : Draw.MIRRORED + 1].long().unsqueeze(2).unbind(1)
    y, x = torch.arange(height, device=images.device) + top, torch.arange(width, device=images.device)
    x = torch.where(mirrored != 0, width - 1 - x, x) + left
    seen = ((y >= 0) & (y < height)).unsqueeze(2) & ((x >= 0) & (x < width)).unsqueeze(1)
    image = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    found = images[image, y.clamp(0, height - 1).unsqueeze(2), x.clamp(0, width - 1).unsqueeze(1)]
    return found * seen.unsqueeze(3)


def scale_locally(x: torch.Tensor, draws: torch.Tensor, scalings: torch.Tensor) -> torch.Tensor:
    """Random local linear scaling of the images ``[B, 3, H, W]`` that have a row of ``scalings [C, R, 7]``."""
    chosen = (draws[:, Draw.SCALING] >= 0).nonzero()[:, 0]
    plain, scalings = x[chosen], scalings[draws[chosen, Draw.SCALING].long()]
    product, running = torch.ones_like(plain), torch.ones(len(plain), 1, 1, 1, dtype=torch.bool, device=x.device)
    for rectangle, beta in zip(scalings[..., :4].unbind(1), scalings[..., 4:, None, None].unbind(1), strict=True):
        mask = inside(rectangle, *x.shape[2:]) & running
        brightest = torch.where(mask, plain * product, 0).amax((2, 3), keepdim=True)
        product = torch.where(mask & (brightest > 0), product * (beta / brightest), product)
        running = running & (product.amin((1, 2, 3), keepdim=True) > SCALED_AWAY)
    return x.index_copy(0, chosen, (plain * product).clamp_(0, 1))


def adjust_colour(x: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, saturation and hue of ``[B, 3, H, W]`` in the order that each image's row names."""
    for place in range(Draw.FIRST, Draw.FOURTH + 1):
        for adjustment in (Adjust.BRIGHTNESS, Adjust.CONTRAST, Adjust.SATURATION, Adjust.HUE):
            chosen = (draws[:, place] == adjustment).nonzero()[:, 0]
            if len(chosen):
                x = x.index_copy(0, chosen, adjusted(x[chosen], adjustment, draws[chosen]))
    return x


def adjusted(x: torch.Tensor, adjustment: Adjust, draws: torch.Tensor) -> torch.Tensor:
    """One of the four adjustments of ``[B, 3, H, W]``, which stays in [0, 1]."""
    if adjustment == Adjust.HUE:
        return turn_hue(x, draws[:, Draw.TURN].view(-1, 1, 1))
    column = {Adjust.BRIGHTNESS: Draw.BRIGHTNESS, Adjust.CONTRAST: Draw.CONTRAST, Adjust.SATURATION: Draw.SATURATION}
    factor = draws[:, column[adjustment]].view(-1, 1, 1, 1)
    if adjustment == Adjust.BRIGHTNESS:
        return (x * factor).clamp_(0, 1)
    grey = (x * channels(GREY, x)).sum(1, keepdim=True)
    if adjustment == Adjust.CONTRAST:
        grey = grey.mean((2, 3), keepdim=True)
    return torch.lerp(grey, x, factor).clamp_(0, 1)


def turn_hue(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """RGB ``[B, 3, H, W]`` in [0, 1] with the hue (HSV) moved by ``turn [B, 1, 1]``, a fraction of a full turn."""
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1)
    red, green, blue = x.unbind(1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    phase = ((hue + 6 * turn).unsqueeze(1) + channels((5.0, 3.0, 1.0), x)) % 6
    ramp = torch.minimum(phase, 4 - phase).clamp_(0, 1)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * ramp


def mix_channels(x: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """``[B, 3, H, W]`` with the channels that ``mix [B]`` leaves."""
    mix = mix.view(-1, 1, 1, 1)
    one = x.gather(1, mix.long().clamp(0, 2).expand(-1, 1, *x.shape[2:]))
    grey = (x * channels(GREY, x)).sum(1, keepdim=True)
    return torch.where(mix == Mix.NONE, x, torch.where(mix == Mix.GREY, grey, one))


def inside(rectangles: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The mask ``[B, 1, H, W]`` of rectangles ``[B, 4]``: top, bottom, left, right, two of them the first outside."""
    top, bottom, left, right = rectangles.unsqueeze(2).unbind(1)
    y, x = (torch.arange(size, device=rectangles.device) for size in (height, width))
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def channels(values: tuple[float, float, float], like: torch.Tensor) -> torch.Tensor:
    """``[3, 1, 1]`` constants of the dtype and on the device of ``like``."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)
