"""What TensorBoard shows of a run: every figure of its epochs, augmented views and some clusters."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from salcr.ops.augmentation import MEAN, STD

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PICTURES_EVERY = 10  # epochs, from the first of a stage
POSITIONS, CLUSTERS, MEMBERS = 6, 4, 6
HEIGHT = 144  # of an image on a sheet, at most


def require() -> None:
    """Raise unless event files can be written.

    Raises:
        ValueError: the package is not installed; names the extra.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    except ImportError as error:
        raise ValueError("logging.tensorboard=true needs tensorboard: pip install 'salcr[viz]'") from error


class Board:
    """Event files in ``folder``; a step is an epoch, and a run that goes on takes back what was said of later ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, record: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> None:
        """The numbers of an epoch's record, named by their keys, and pictures ``[H, W, 3]``, uint8; on disk at once."""
        from torch.utils.tensorboard import SummaryWriter

        epoch = record["epoch"]
        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder), purge_step=epoch)
        for name, value in _numbers(record):
            self._writer.add_scalar(name, value, epoch)
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, epoch, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Nothing more will be written."""
        if self._writer is not None:
            self._writer.close()


def views_sheet(views: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
    """The first positions of a batch: visible, channel-augmented and infrared view below each other.

    Args:
        views: network inputs ``[2S, 3, H, W]`` and ``[S, 3, H, W]``, as :func:`salcr.engine.steps.training_views`.
    """
    plain, augmented = views[0].chunk(2)
    rows = torch.stack([x[:POSITIONS].float().cpu() for x in (plain, augmented, views[1])])
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (MEAN, STD))
    pixels = ((rows * std + mean).clamp(0, 1) * 255).round().byte()
    return _sheet(list(pixels.movedim(2, -1).numpy()))


def clusters_sheet(images: np.ndarray, labels: torch.Tensor) -> np.ndarray:
    """Some clusters, a row each, evenly spaced by number, and in each some images, evenly spaced by row.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        labels: ``[N]``, -1 for noise.
    """
    y = labels.numpy()
    rows = [np.flatnonzero(y == cluster) for cluster in _evenly(np.unique(y[y >= 0]), CLUSTERS)]
    return _sheet([images[_evenly(members, MEMBERS)] for members in rows])


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "epoch":
            yield prefix + name, value


def _evenly(items: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the items, or all if there are no more."""
    return items[np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]


def _sheet(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of images ``[n, H, W, 3]`` on black, each at most ``HEIGHT`` high."""
    height, width = rows[0].shape[1:3]
    scale = min(1.0, HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (size[0] * max(map(len, rows)), size[1] * len(rows)))
    for i, images in enumerate(rows):
        for j, image in enumerate(images):
            sheet.paste(Image.fromarray(image).resize(size), (j * size[0], i * size[1]))
    return np.asarray(sheet)
