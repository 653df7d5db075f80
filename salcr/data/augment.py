"""Augmentation of whole batches on the training device: the three views of a batch from its uint8 images.

All random numbers come from one CPU generator, so a run can be repeated and resumed on any device; the pixels are
worked on where the images are.
"""

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ERASED = (0.4914, 0.4822, 0.4465)
GREY = (0.2989, 0.5870, 0.1140)
RECTANGLE_DRAWS = 20
LOCAL_SCALINGS = 32
SCALED_AWAY = 1e-6


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of docs/method.md, "Augmentation", with its strengths.

    ``visible``, ``channel_augmented`` and ``infrared`` take uint8 images ``[B, H, W, 3]`` on any device and a CPU
    generator, and return normalised float32 ``[B, 3, H, W]``.
    """

    pad: int = 10
    """Zero pixels added on each side before the random crop: 10 at 288×144."""
    erase: float = 0.5
    """Probability of random erasing."""
    jitter: float = 0.5
    """Strength of brightness, contrast, saturation and hue jitter."""

    def visible(self, images: torch.Tensor, generator: torch.Generator, *, local_scaling: bool = False) -> torch.Tensor:
        """Crop, flip, (in stage one) local linear scaling, normalise, erase."""
        x = crop_and_flip(images, self.pad, generator)
        if local_scaling:
            x = scale_locally(x, generator)
        return random_erase(normalize(x), self.erase, generator)

    def channel_augmented(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Crop, flip, jitter, normalise, erase, then one random channel of each image copied to all three."""
        x = color_jitter(crop_and_flip(images, self.pad, generator), self.jitter, generator)
        return copy_channel(random_erase(normalize(x), self.erase, generator), generator)

    def infrared(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """As the channel-augmented view, but one channel for 75 % of images, weighted grey for 12.5 %, else as is."""
        x = color_jitter(crop_and_flip(images, self.pad, generator), self.jitter, generator)
        x = random_erase(normalize(x), self.erase, generator)
        draw = _send(torch.rand(len(x), 1, 1, 1, generator=generator), x)
        grey = (x * _channels(GREY, x.device)).sum(1, keepdim=True).expand_as(x)
        return torch.where(draw < 0.75, copy_channel(x, generator), torch.where(draw < 0.875, grey, x))


def normalize(x: torch.Tensor) -> torch.Tensor:
    """``[B, 3, H, W]`` in [0, 1], less the ImageNet mean, over its deviation."""
    return (x - _channels(MEAN, x.device)) / _channels(STD, x.device)


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """uint8 ``[B, H, W, 3]`` -> float32 ``[B, 3, H, W]`` in [0, 1]."""
    return images.movedim(3, 1).float() / 255


def crop_and_flip(images: torch.Tensor, pad: int, generator: torch.Generator) -> torch.Tensor:
    """Pad with zeros, crop back to the size at a random place, mirror half of the images."""
    batch, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5
    rows = torch.arange(height) + top
    columns = torch.arange(width)
    columns = torch.where(mirrored, width - 1 - columns, columns) + left
    image = torch.arange(batch).view(-1, 1, 1)
    index = (_send(x, images) for x in (image, rows.unsqueeze(2), columns.unsqueeze(1)))
    return to_unit(padded[tuple(index)])


def color_jitter(x: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Brightness, contrast and saturation times a factor in 1 ± strength, hue turned by up to ± strength turns.

    Factors differ between images; the order of the four is drawn once a batch.
    """
    batch = len(x)
    factors = 1 + strength * _send(2 * torch.rand(3, batch, 1, 1, 1, generator=generator) - 1, x)
    turn = strength * _send(2 * torch.rand(batch, 1, 1, generator=generator) - 1, x)
    weights = _channels(GREY, x.device)
    for step in torch.randperm(4, generator=generator).tolist():
        if step == 0:
            x = (x * factors[0]).clamp_(0, 1)
        elif step == 1:
            mean = (x * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
            x = torch.lerp(mean, x, factors[1]).clamp_(0, 1)
        elif step == 2:
            x = torch.lerp((x * weights).sum(1, keepdim=True), x, factors[2]).clamp_(0, 1)
        else:
            x = turn_hue(x, turn)
    return x


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
    hue = hue + 6 * turn
    phase = (hue.unsqueeze(1) + _channels((5.0, 3.0, 1.0), x.device)) % 6
    ramp = torch.minimum(phase, 4 - phase).clamp_(0, 1)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * ramp


def random_erase(x: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """A random rectangle of an image becomes the constants 0.4914/0.4822/0.4465, with the given probability."""
    chosen = torch.rand(len(x), generator=generator) < probability
    mask = random_rectangles(x, generator) & _send(chosen, x).view(-1, 1, 1, 1)
    return torch.where(mask, _channels(ERASED, x.device), x)


def scale_locally(x: torch.Tensor, generator: torch.Generator, *, probability: float = 0.5) -> torch.Tensor:
    """Random local linear scaling: rectangles one after the other, each channel times β/max of that channel there.

    β ~ Beta(½, ½), drawn for each rectangle and channel; a channel that is black in a rectangle stays as it is there.
    An image ends with the rectangle after which the product of the factors of some pixel and channel is at most 1e-6
    (11.3 rectangles on average), and with the 32nd. The numbers for all 32 are drawn whatever the images hold, so the
    generator goes on from the same place on every device.
    """
    batch, _, height, width = x.shape
    chosen = (torch.rand(batch, generator=generator) < probability).nonzero()[:, 0]
    rectangles, uniform = [], []
    for _ in range(LOCAL_SCALINGS):
        rectangles.append(_draw_rectangles(len(chosen), height, width, generator))
        uniform.append(torch.rand(len(chosen), 3, 1, 1, generator=generator))
    # The arcsine law: sin²(πu/2) of a uniform u is Beta(½, ½).
    betas = torch.sin(_send(torch.stack(uniform), x) * (torch.pi / 2)).square()

    chosen = _send(chosen, x)
    plain = x[chosen]
    product, running = torch.ones_like(plain), torch.ones(len(plain), dtype=torch.bool, device=x.device)
    for rectangle, beta in zip(_send(torch.stack(rectangles), x), betas, strict=True):
        # Finished images are left out where that is known without waiting for a device, and masked elsewhere.
        rows = running.nonzero()[:, 0] if x.device.type == "cpu" else slice(None)
        mask, now = _inside(rectangle[:, rows], height, width) & running[rows].view(-1, 1, 1, 1), product[rows]
        brightest = torch.where(mask, plain[rows] * now, 0).amax((2, 3), keepdim=True)
        product[rows] = torch.where(mask & (brightest > 0), now * (beta[rows] / brightest), now)
        running[rows] &= product[rows].amin((1, 2, 3)) > SCALED_AWAY
    return x.index_copy(0, chosen, (plain * product).clamp_(0, 1))


def copy_channel(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One channel of each image, uniformly drawn, in all three places."""
    channel = _send(torch.randint(0, 3, (len(x), 1, 1, 1), generator=generator), x)
    return x.gather(1, channel.expand(-1, 1, *x.shape[2:])).expand_as(x)


def random_rectangles(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A mask ``[B, 1, H, W]`` of one rectangle an image: area 2-40 % of it, aspect ratio 0.3-3.3.

    The first of 20 draws that fits is taken; an image for which none fits (rare) gets no rectangle.
    """
    batch, _, height, width = x.shape
    return _inside(_send(_draw_rectangles(batch, height, width, generator), x), height, width)


def _draw_rectangles(batch: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """``[4, B]``: top, bottom, left and right, bottom and right being the first outside; top = bottom if none fits."""
    area, aspect, y, z = torch.rand(4, batch, RECTANGLE_DRAWS, generator=generator)
    area, aspect = (0.02 + 0.38 * area) * height * width, 0.3 + 3.0 * aspect
    tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (tall < height) & (wide < width)
    first = fits.int().argmax(1, keepdim=True)
    fits, tall, wide, y, z = (v.gather(1, first)[:, 0] for v in (fits, tall, wide, y, z))
    top, left = (y * (height - tall + 1)).floor(), (z * (width - wide + 1)).floor()
    return torch.stack([top, top + tall * fits, left, left + wide])


def _inside(rectangles: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The mask ``[B, 1, H, W]`` of rectangles ``[4, B]``."""
    top, bottom, left, right = rectangles.unsqueeze(-1)
    rows, columns = (torch.arange(n, device=rectangles.device) for n in (height, width))
    inside_rows, inside_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (inside_rows.unsqueeze(-1) & inside_columns.unsqueeze(-2)).unsqueeze(1)


def _send(drawn: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """Random numbers of the CPU generator on the device of ``to``, without waiting for it."""
    return drawn.to(to.device, non_blocking=True)


@cache
def _channels(values: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    """``[3, 1, 1]`` constants, sent to the device once."""
    return torch.tensor(values, device=device).view(3, 1, 1)
