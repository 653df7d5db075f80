"""What the augmentation of training draws: a table with a row a view; :func:`salcr.ops.augment` makes the pixels.

All random numbers come from one CPU generator, so a run can be repeated and resumed on any device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from salcr.ops.augmentation import Adjust, Draw, Mix, augment

RECTANGLE_DRAWS = 20
LOCAL_SCALINGS = 32
ADJUSTMENTS = (Adjust.BRIGHTNESS, Adjust.CONTRAST, Adjust.SATURATION, Adjust.HUE)


class Draws(NamedTuple):
    """Arguments of :func:`salcr.ops.augment`: the table ``[B, 17]`` and the chains ``[C, 32, 7]``, or None."""

    table: torch.Tensor
    scalings: torch.Tensor | None = None

    def of(self, views: slice) -> "Draws":
        """Those of some of the views."""
        return self._replace(table=self.table[views])


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of docs/method.md, "Augmentation", with its strengths.

    ``visible``, ``channel_augmented`` and ``infrared`` take the number of images, their height and width and a CPU
    generator.
    """

    pad: int = 10
    """Black pixels added on each side before the random crop, 10 at 288×144."""
    erase: float = 0.5
    """Probability of random erasing."""
    jitter: float = 0.5
    """Strength of brightness, contrast, saturation and hue jitter."""

    def visible(
        self, batch: int, height: int, width: int, generator: torch.Generator, *, local_scaling: bool = False
    ) -> Draws:
        """Crop, mirror, (in stage one) local linear scaling, erase."""
        table = draw_crops(batch, self.pad, generator)
        scalings = draw_scalings(table, height, width, generator) if local_scaling else None
        draw_erased(table, self.erase, height, width, generator)
        return Draws(table, scalings)

    def channel_augmented(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Crop, mirror, jitter, erase, then one random channel of each image copied to all three."""
        table = self._jittered(batch, height, width, generator)
        table[:, Draw.CHANNELS] = torch.randint(0, 3, (batch,), generator=generator).float()
        return Draws(table)

    def infrared(self, batch: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """As the channel-augmented view, but one channel for 75 % of images, weighted grey for 12.5 %, else as is."""
        table = self._jittered(batch, height, width, generator)
        kind, channel = torch.rand(batch, generator=generator), torch.randint(0, 3, (batch,), generator=generator)
        mixed = torch.where(kind < 0.875, int(Mix.GREY), int(Mix.NONE))
        table[:, Draw.CHANNELS] = torch.where(kind < 0.75, channel, mixed).float()
        return Draws(table)

    def _jittered(self, batch: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
        table = draw_crops(batch, self.pad, generator)
        draw_jitter(table, self.jitter, generator)
        draw_erased(table, self.erase, height, width, generator)
        return table


def make_views(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """``[B, 3, H, W]``, float32, channels last: the views of uint8 images ``[B, H, W, 3]`` on any device."""
    table, scalings = (None if x is None else sent(x, images.device) for x in draws)
    return augment(images, table, scalings=scalings)


def draw_crops(batch: int, pad: int, generator: torch.Generator) -> torch.Tensor:
    """A table of views that are cropped from the image padded by ``pad``, half of them mirrored."""
    table = torch.zeros(batch, len(Draw))
    table[:, Draw.CHANNELS], table[:, Draw.SCALING] = Mix.NONE, -1
    top, left = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator) - pad
    table[:, Draw.TOP], table[:, Draw.LEFT] = top.float(), left.float()
    table[:, Draw.MIRRORED] = (torch.rand(batch, generator=generator) < 0.5).float()
    return table


def draw_jitter(table: torch.Tensor, strength: float, generator: torch.Generator) -> None:
    """Brightness, contrast and saturation times a factor in 1 ± strength, hue turned by up to ± strength turns.

    Factors differ between images; the order of the four is drawn once a batch.
    """
    batch = len(table)
    table[:, Draw.BRIGHTNESS : Draw.SATURATION + 1] = (
        1 + strength * (2 * torch.rand(3, batch, generator=generator) - 1).T
    )
    table[:, Draw.TURN] = strength * (2 * torch.rand(batch, generator=generator) - 1)
    order = [ADJUSTMENTS[i] for i in torch.randperm(4, generator=generator).tolist()]
    table[:, Draw.FIRST : Draw.FOURTH + 1] = torch.tensor(order, dtype=torch.float32)


def draw_erased(table: torch.Tensor, probability: float, height: int, width: int, generator: torch.Generator) -> None:
    """A random rectangle of an image is erased with the given probability."""
    chosen = torch.rand(len(table), generator=generator) < probability
    rectangles = draw_rectangles(len(table), height, width, generator) * chosen.unsqueeze(1)
    table[:, Draw.ERASED_TOP : Draw.ERASED_RIGHT + 1] = rectangles


def draw_scalings(
    table: torch.Tensor, height: int, width: int, generator: torch.Generator, *, probability: float = 0.5
) -> torch.Tensor | None:
    """Chains ``[C, 32, 7]`` of local linear scalings for the images that have one, which the table then names.

    β ~ Beta(½, ½), drawn for each rectangle and channel. The numbers of all 32 rectangles are drawn although a chain
    mostly ends before, so that the generator goes on from the same place whatever the images hold.
    """
    chosen = (torch.rand(len(table), generator=generator) < probability).nonzero()[:, 0]
    links = []
    for _ in range(LOCAL_SCALINGS):
        rectangles = draw_rectangles(len(chosen), height, width, generator)
        uniform = torch.rand(len(chosen), 3, generator=generator)
        # The arcsine law: sin²(πu/2) of a uniform u is Beta(½, ½).
        links.append(torch.cat([rectangles, torch.sin(uniform * (torch.pi / 2)).square()], 1))
    table[chosen, Draw.SCALING] = torch.arange(len(chosen), dtype=torch.float32)
    return torch.stack(links, 1) if len(chosen) else None


def draw_rectangles(batch: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """``[B, 4]``: top, bottom, left and right, bottom and right being the first outside; area 2-40 %, aspect 0.3-3.3.

    The first of 20 draws that fits is taken; if none fits (rare) top is bottom.
    """
    area, aspect, y, z = torch.rand(4, batch, RECTANGLE_DRAWS, generator=generator)
    area, aspect = (0.02 + 0.38 * area) * height * width, 0.3 + 3.0 * aspect
    tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (tall < height) & (wide < width)
    first = fits.int().argmax(1, keepdim=True)
    fits, tall, wide, y, z = (v.gather(1, first)[:, 0] for v in (fits, tall, wide, y, z))
    top, left = (y * (height - tall + 1)).floor(), (z * (width - wide + 1)).floor()
    return torch.stack([top, top + tall * fits, left, left + wide], 1)


def sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``x`` of the CPU on ``device``, without waiting for that."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x
