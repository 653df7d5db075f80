"""What a training step of either stage does around its losses: views, the optimiser, and a watch over the losses.

Nothing here waits for the device within a step: what goes there is pinned, and losses are read when they are here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from salcr import distributed
from salcr.data.augment import Augmentation, make_views, sent
from salcr.data.resident import Images

CHECK_EVERY = 10

Rows = tuple[torch.Tensor, torch.Tensor]


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the message names the step and the images of its batch."""


class LossWatch:
    """Losses of an epoch's steps, kept on the device and looked at every ``CHECK_EVERY`` steps.

    A look judges what the look before began to copy, which has arrived by now, so that on a GPU none waits.

    Args:
        epoch: named in the error.
        paths: image paths of the visible and of the infrared rows, named in the error.
    """

    def __init__(self, epoch: int, paths: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
        self.epoch, self.paths = epoch, paths
        self.names: tuple[str, ...] = ()
        self.values: list[torch.Tensor] = []
        self.rows: list[Rows] = []
        self.recent: float | None = None
        """Mean sum of the losses of the steps that were judged last."""
        self._copied = 0
        self._coming: tuple[int, torch.Tensor, Callable[[], None] | None] | None = None

    def add(self, losses: dict[str, torch.Tensor], rows: Rows) -> None:
        """Note the losses of a step and the image rows of its batch; every few steps look for non-finite ones.

        Of several processes each gives the losses of its share of the batch, and all note their mean.

        Raises:
            NonFiniteLoss: a step of the last two looks (on a CPU: of this one) had a NaN or infinite loss.
        """
        self.names = tuple(losses)
        values = torch.stack([loss.detach() for loss in losses.values()])
        self.values.append(distributed.mean(values))
        self.rows.append(rows)
        if len(self.values) % CHECK_EVERY == 0:
            self._look()

    def means(self) -> dict[str, float]:
        """Mean of each loss over the epoch.

        Raises:
            NonFiniteLoss: as :meth:`add`.
        """
        if self._copied < len(self.values):
            self._look()
        self._judge()
        means = torch.stack(self.values).mean(0).tolist()
        return {name: round(mean, 5) for name, mean in zip(self.names, means, strict=True)}

    def so_far(self) -> dict[str, Any]:
        """The losses of the steps so far, for :meth:`resume`."""
        return {"names": self.names, "values": torch.stack(self.values).cpu()}

    def resume(self, losses: dict[str, Any], rows: Sequence[Rows], device: torch.device) -> None:
        """Go on after the steps that :meth:`so_far` returned ``losses`` of; their batches are the first of ``rows``."""
        self.names, self.values = losses["names"], list(losses["values"].to(device))
        self.rows, self._copied = list(rows[: len(self.values)]), len(self.values)

    def _look(self) -> None:
        self._judge()
        values, wait = begin_copy(torch.stack(self.values[self._copied :]))
        self._coming, self._copied = (self._copied, values, wait), len(self.values)
        if wait is None:
            self._judge()

    def _judge(self) -> None:
        if self._coming is None:
            return
        (first, losses, wait), self._coming = self._coming, None
        if wait is not None:
            wait()
        self.recent = float(losses.sum(1).mean())
        for step, values in enumerate(losses, first):
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


def begin_copy(x: torch.Tensor) -> tuple[torch.Tensor, Callable[[], None] | None]:
    """``x`` on the host, and the function after which it is there; None if it is there already."""
    if x.device.type != "cuda":
        return x, None
    host, arrived = x.to("cpu", non_blocking=True), torch.cuda.Event()  # pinned, since the copy is not waited for
    arrived.record()
    return host, arrived.synchronize


class Batch(NamedTuple):
    """Images of this process's share of a batch, uint8 ``[S, H, W, 3]``, and the rows of the whole batch."""

    visible: torch.Tensor
    infrared: torch.Tensor
    rows: Rows  # on the CPU
    rows_on_device: Rows


def load_batches(
    batches: Iterable[Rows],
    visible: Images,
    infrared: Images,
    device: torch.device,
) -> Iterator[Batch]:
    """The images and rows of each batch on ``device``; one is gathered in a thread while another is trained on.

    Images come from arrays of the host, or from tensors on ``device``; see :func:`salcr.data.resident.resident`.
    """

    def taken(store: Images, rows: torch.Tensor, rows_on_device: torch.Tensor) -> torch.Tensor:
        if isinstance(store, torch.Tensor):
            return store[rows_on_device]
        return sent(torch.from_numpy(store[rows.numpy()]), device)

    def gather(rows: Rows) -> Batch:
        on_device = sent(rows[0], device), sent(rows[1], device)
        own = zip((visible, infrared), share_of(rows), share_of(on_device), strict=True)
        visible_images, infrared_images = (taken(*of_modality) for of_modality in own)
        return Batch(visible_images, infrared_images, rows, on_device)

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
