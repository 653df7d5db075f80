"""What a training step of either stage does around its losses: views, the optimiser, and a watch over the losses.

Nothing here waits for the device within a step: losses stay there and are looked at every ``CHECK_EVERY`` steps.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from salcr import distributed
from salcr.data.augment import Augmentation, make_views

CHECK_EVERY = 10

Rows = tuple[torch.Tensor, torch.Tensor]


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the message names the step and the images of its batch."""


class LossWatch:
    """Losses of an epoch's steps, kept on the device.

    Args:
        epoch: named in the error.
        paths: image paths of the visible and of the infrared rows, named in the error.
    """

    def __init__(self, epoch: int, paths: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
        self.epoch, self.paths = epoch, paths
        self.names: tuple[str, ...] = ()
        self.values: list[torch.Tensor] = []
        self.rows: list[Rows] = []

    def add(self, losses: dict[str, torch.Tensor], rows: Rows) -> None:
        """Note the losses of a step and the image rows of its batch; every few steps look for non-finite ones.

        Of several processes each gives the losses of its share of the batch, and all note their mean.

        Raises:
            NonFiniteLoss: one of the steps since the last look had a NaN or infinite loss.
        """
        self.names = tuple(losses)
        values = torch.stack([loss.detach() for loss in losses.values()])
        self.values.append(distributed.mean(values))
        self.rows.append(rows)
        if len(self.values) % CHECK_EVERY == 0:
            self._check(CHECK_EVERY)

    def recent(self) -> float | None:
        """Mean sum of the losses over the last steps, right after a look at them; otherwise None."""
        if not self.values or len(self.values) % CHECK_EVERY:
            return None
        return float(torch.stack(self.values[-CHECK_EVERY:]).sum(1).mean())

    def means(self) -> dict[str, float]:
        """Mean of each loss over the epoch.

        Raises:
            NonFiniteLoss: as :meth:`add`.
        """
        self._check(len(self.values) % CHECK_EVERY)
        means = torch.stack(self.values).mean(0).tolist()
        return {name: round(mean, 5) for name, mean in zip(self.names, means, strict=True)}

    def so_far(self) -> dict[str, Any]:
        """The losses of the steps so far, for :meth:`resume`."""
        return {"names": self.names, "values": torch.stack(self.values).cpu()}

    def resume(self, losses: dict[str, Any], rows: Sequence[Rows], device: torch.device) -> None:
        """Go on after the steps that :meth:`so_far` returned ``losses`` of; their batches are the first of ``rows``."""
        self.names, self.values = losses["names"], list(losses["values"].to(device))
        self.rows = list(rows[: len(self.values)])

    def _check(self, last: int) -> None:
        for step in range(len(self.values) - last, len(self.values)):
            values = self.values[step]
            if not torch.isfinite(values).all():
                terms = ", ".join(f"{n} {v:g}" for n, v in zip(self.names, values.tolist(), strict=True))
                files = [
                    paths[i]
                    for paths, rows in zip(self.paths, self.rows[step], strict=True)
                    for i in rows.unique().tolist()
                ]
                raise NonFiniteLoss(
                    f"epoch {self.epoch}, step {step}: the loss is not finite ({terms}); the batch: {', '.join(files)}"
                )


def load_batches(
    batches: Iterable[Rows],
    visible: np.ndarray,
    infrared: np.ndarray,
    device: torch.device,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, Rows]]:
    """(visible images, infrared images, rows) of each batch, uint8 ``[S, H, W, 3]`` on ``device``.

    The rows are those of the whole batch, the images those of this process's share. One batch is gathered ahead in a
    thread while the one before it is trained on.
    """

    def gather(rows):
        own = share_of(rows)
        images = (torch.from_numpy(store[r.numpy()]) for store, r in zip((visible, infrared), own, strict=True))
        if device.type == "cuda":
            images = (x.pin_memory().to(device, non_blocking=True) for x in images)
        return (*images, rows)

    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for rows in batches:
            pending = pool.submit(gather, rows)
            if ahead is not None:
                yield ahead.result()
            ahead = pending
        if ahead is not None:
            yield ahead.result()


def training_views(
    visible: torch.Tensor,
    infrared: torch.Tensor,
    augmentation: Augmentation,
    generator: torch.Generator,
    *,
    local_scaling: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Network inputs ``[2S, 3, H, W]`` (visible, channel-augmented) and ``[S, 3, H, W]``, channels last.

    Of several processes each has images of its share of a batch, and draws the numbers of the whole batch.
    """
    height, width = visible.shape[1:3]
    batch = len(visible) * distributed.world()
    plain = augmentation.visible(batch, height, width, generator, local_scaling=local_scaling)
    augmented = augmentation.channel_augmented(batch, height, width, generator)
    other = augmentation.infrared(batch, height, width, generator)
    plain, augmented, other = (draws.of(distributed.share(batch)) for draws in (plain, augmented, other))
    return make_views(visible, plain, augmented), make_views(infrared, other)


def share_of(rows: Rows) -> Rows:
    """Those of this process's positions of a batch."""
    visible, infrared = rows
    return visible[distributed.share(len(visible))], infrared[distributed.share(len(infrared))]


def optimise(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Gradients of ``loss`` and one step."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
