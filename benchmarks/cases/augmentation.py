"""The views of a training step, from uint8 images and a table of draws to the network's inputs."""

from functools import partial

import torch

from benchmarks.case import Case
from salcr import ops
from salcr.data.augment import Augmentation
from salcr.reference.published import augmentation

LIMIT = 1e-5


def _batch(local_scaling: bool, device: str, quick: bool) -> tuple[torch.Tensor | None, ...]:
    """Of plain and channel-augmented views: images, draws, rows, and stage one's chains of local scalings."""
    batch, height, width = (4, 24, 12) if quick else (144, 288, 144)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, height, width, 3), generator=generator, dtype=torch.uint8)
    made = Augmentation()
    plain = made.visible(batch, height, width, generator, local_scaling=local_scaling)
    draws = torch.cat([plain.table, made.channel_augmented(batch, height, width, generator).table])
    given = images, draws, torch.arange(batch).repeat(2), plain.scalings
    return tuple(None if x is None else x.to(device) for x in given)


def _views(impl: str, images: torch.Tensor, draws: torch.Tensor, rows: torch.Tensor, scalings: torch.Tensor | None):
    return ops.augment(images, draws, rows=rows, scalings=scalings, impl=impl)


def _one_by_one(images: torch.Tensor, draws: torch.Tensor, rows: torch.Tensor, scalings: torch.Tensor | None):
    return augmentation.augment(images, draws, rows=rows, scalings=scalings).to(images.device)


def _within_limit(views: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(views, expected, atol=LIMIT, rtol=0)


def _case(name: str, note: str, local_scaling: bool) -> Case:
    variants = {impl: partial(_views, impl) for impl in ("reference", "cpp", "triton")} | {"published": _one_by_one}
    floor = {"floor_bytes": lambda images, draws, rows, scalings: len(rows) * images[0].numel() * (1 + 4)}
    note = f"plain and channel-augmented views of 144 images of 288×144 in float32, {note}"
    return Case(name, note, partial(_batch, local_scaling), variants, _within_limit, **floor)


CASES = (
    _case("augment-stage-one", "half of the plain ones scaled locally", local_scaling=True),
    _case("augment-stage-two", "as in stage two", local_scaling=False),
)
