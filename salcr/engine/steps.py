"""What a training step of either stage does around its losses: views, the optimiser, and a watch over the losses.

What a step computes it takes from memory that all steps of an epoch share, so that it can be called or replayed as a
CUDA graph (:mod:`salcr.engine.step_graph`). Nothing here waits for the device within a step: what goes there is pinned,
and losses are read when they are here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from salcr import distributed
from salcr.data.augment import LOCAL_SCALINGS, Augmentation, Draws
from salcr.data.resident import Images
from salcr.objectives.fgsal import random_orders
from salcr.ops.augmentation import SCALING_COLUMNS, augment

CHECK_EVERY = 10

Rows = tuple[torch.Tensor, torch.Tensor]


class NonFiniteLoss(ArithmeticError):
    """A loss became NaN or infinite; the message names the step and the images of its batch."""


class LossWatch:
    """Losses of an epoch's steps, kept on the device and looked at every ``CHECK_EVERY`` steps.

    A look begins to copy the newest losses to the host and judges those that the look before began to copy. On a GPU
    these have arrived by then, so that no look waits.

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
        self._judged: list[torch.Tensor] = []  # of the host
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
        means = torch.cat(self._judged).mean(0).tolist()
        return {name: round(mean, 5) for name, mean in zip(self.names, means, strict=True)}

    def so_far(self) -> dict[str, Any]:
        """The losses of the steps so far, for :meth:`resume`."""
        return {"names": self.names, "values": torch.stack(self.values).cpu()}

    def resume(self, losses: dict[str, Any], rows: Sequence[Rows], device: torch.device) -> None:
        """Go on after the steps that :meth:`so_far` returned ``losses`` of; their batches are the first of ``rows``."""
        self.names, self.values = losses["names"], list(losses["values"].to(device))
        self.rows, self._copied = list(rows[: len(self.values)]), len(self.values)
        self._judged = [losses["values"]]

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
        self._judged.append(losses)
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
    arrived.record(torch.cuda.current_stream(x.device))  # the current device can be another

    def wait() -> None:
        if not arrived.query():
            arrived.synchronize()

    return host, wait


class Loaded(NamedTuple):
    """Image rows of a whole batch, and this process's images of it, uint8 ``[S, H, W, 3]``, unless a GPU holds all."""

    rows: Rows
    images: tuple[torch.Tensor, ...]


class Batch(NamedTuple):
    """All that differs between an epoch's steps, of the same shapes: on the CPU as drawn, or where a step computes."""

    rows: Rows  # of the whole batch
    images: tuple[torch.Tensor, ...]  # as in Loaded
    visible: Draws  # of this process's 2S views, first the plain ones
    infrared: Draws  # of its S
    orders: torch.Tensor  # of the memories' updates, one behind the other


class BatchMemory:
    """The same memory of ``device`` for the batch of every step, so that a CUDA graph finds it there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.batch: Batch | None = None

    def load(self, batch: Batch) -> Batch:
        """Copy ``batch`` there, without waiting for that; returns what the step takes."""
        if self.batch is None:
            self.batch = tree_map_only(torch.Tensor, lambda x: torch.empty_like(x, device=self.device), batch)
        for held, x in zip(tree_leaves(self.batch), tree_leaves(batch), strict=True):
            if held is not None:
                held.copy_(x.pin_memory() if self.device.type == "cuda" else x, non_blocking=True)
        return self.batch


def load_batches(
    batches: Iterable[Rows],
    visible: Images,
    infrared: Images,
    device: torch.device,
) -> Iterator[Loaded]:
    """The batches; images of the host are gathered in a thread for the next one while another is trained on.

    Tensors on ``device`` (see :func:`salcr.data.resident.resident`) are left to :func:`training_views`.
    """
    if isinstance(visible, torch.Tensor):
        yield from (Loaded(rows, ()) for rows in batches)
        return

    def gather(rows: Rows) -> Loaded:
        own = zip((visible, infrared), share_of(rows), strict=True)
        images = (torch.from_numpy(store[of_modality.numpy()]) for store, of_modality in own)
        return Loaded(rows, tuple(x.pin_memory() if device.type == "cuda" else x for x in images))

    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for rows in batches:
            pending = pool.submit(gather, rows)
            if ahead is not None:
                yield ahead.result()
            ahead = pending
        if ahead is not None:
            yield ahead.result()


def draw_batch(
    loaded: Loaded,
    size: tuple[int, int],
    augmentation: Augmentation,
    generator: torch.Generator,
    *,
    local_scaling: bool,
    orders: Sequence[int] = (),
) -> Batch:
    """``loaded`` with what is drawn for its step: augmentations of images of ``size``, then orders of these lengths.

    Of several processes each draws the numbers of the whole batch, and keeps its share of the augmentations.
    """
    positions, (height, width) = len(loaded.rows[0]), size
    plain = augmentation.visible(positions, height, width, generator, local_scaling=local_scaling)
    augmented = augmentation.channel_augmented(positions, height, width, generator)
    infrared = augmentation.infrared(positions, height, width, generator)
    own = distributed.share(positions)
    table = torch.cat([plain.table[own], augmented.table[own]])
    visible = Draws(table, _of_all(plain.scalings, positions) if local_scaling else None)
    drawn = random_orders(orders, generator) if orders else torch.empty(0, dtype=torch.int64)
    return Batch(loaded.rows, loaded.images, visible, infrared.of(own), drawn)


def training_views(batch: Batch, stores: Sequence[Images]) -> tuple[torch.Tensor, torch.Tensor]:
    """Network inputs ``[2S, 3, H, W]`` (visible, channel-augmented) and ``[S, 3, H, W]``, channels last."""
    if batch.images:
        images, rows = batch.images, torch.arange(len(batch.images[0]), device=batch.images[0].device)
        visible, infrared = rows, rows
    else:
        images, (visible, infrared) = stores, share_of(batch.rows)
    both = augment(images[0], batch.visible.table, rows=visible.repeat(2), scalings=batch.visible.scalings)
    return both, augment(images[1], batch.infrared.table, rows=infrared)


def share_of(rows: Rows) -> Rows:
    """Those of this process's positions of a batch."""
    visible, infrared = rows
    return visible[distributed.share(len(visible))], infrared[distributed.share(len(infrared))]


def optimise(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Gradients of ``loss`` and one step."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _of_all(scalings: torch.Tensor | None, views: int) -> torch.Tensor:
    """The chains ``scalings [C, 32, 7]`` with zeros behind them up to ``[views, 32, 7]``: every batch has one shape."""
    room = torch.zeros(views, LOCAL_SCALINGS, SCALING_COLUMNS)
    if scalings is not None:
        room[: len(scalings)] = scalings
    return room
