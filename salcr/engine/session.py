"""What an epoch of either stage works with: network, optimiser, random generator, images and labels of a run."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from salcr.data.augment import Augmentation
from salcr.engine.config import Config, Schedule
from salcr.engine.images import open_dataset, open_images
from salcr.engine.interruption import Signals
from salcr.engine.network import build_network
from salcr.engine.pseudo_labels import pseudo_labels
from salcr.engine.steps import LossWatch, Rows, load_batches, training_views
from salcr.models import Embedding
from salcr.models.features import autocast, extract_features, pick_device
from salcr.objectives import association_named

Step = Callable[[tuple[torch.Tensor, torch.Tensor], Rows], dict[str, torch.Tensor]]


class EpochState(NamedTuple):
    """What the steps of an epoch work with, beside the network, the optimiser and the random generator."""

    labels: tuple[torch.Tensor, ...]  # of all images
    memories: nn.Module  # which the steps change
    batches: list[Rows]


class EpochInterrupted(Exception):
    """A signal came in the middle of an epoch; ``middle`` is what its last steps need, in plain values and tensors."""

    def __init__(self, middle: dict[str, Any], steps: int) -> None:
        super().__init__(f"after {steps} steps")
        self.middle, self.steps = middle, steps


class Session:
    """The state of a run in memory; :mod:`salcr.engine.trainer` schedules its epochs and keeps it on disk."""

    def __init__(self, config: Config, signals: Signals | None = None) -> None:
        association_named(config.dagi.association)  # an unknown name ends a run before it starts
        self.config = config
        self.signals = signals or Signals()
        self.middle: dict[str, Any] | None = None  # of the next epoch, where it was interrupted
        self.device = pick_device(config.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.dataset = open_dataset(config)
        sides = self.dataset.train_visible, self.dataset.train_infrared
        self.images = tuple(open_images(records, config) for records in sides)
        self.paths = tuple(records.paths for records in sides)
        self.augmentation = Augmentation(**config.augment.model_dump())
        self.network = build_network(config.model, self.generator).to(self.device, memory_format=torch.channels_last)
        self.optimiser = self.fresh_optimiser()
        self.labels: tuple[torch.Tensor, torch.Tensor] | None = None
        self.times: dict[str, float] = {}

    def extract(self) -> tuple[Embedding, Embedding]:
        """Evaluation features of all training images, visible and infrared."""
        return tuple(
            extract_features(
                self.network,
                images,
                infrared=infrared,
                batch=self.config.evaluation.batch,
                device=self.device,
                precision=self.config.schedule.precision,
            )
            for images, infrared in zip(self.images, (False, True), strict=True)
        )

    def update_labels(self, visible: torch.Tensor, infrared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pseudo labels of both modalities from their features; the previous ones stay where clustering fails."""
        previous = self.labels or (None, None)
        self.labels = tuple(
            pseudo_labels(name, f, self.config.clustering, before)
            for name, f, before in zip(("visible", "infrared"), (visible, infrared), previous, strict=True)
        )
        return self.labels

    def batch_plan(self) -> dict[str, Any]:
        """How the samplers of either stage draw: batches an epoch, their shape, the random generator."""
        schedule = self.config.schedule
        shape = dict(iterations=schedule.iterations, identities=schedule.identities, images=schedule.images)
        return shape | {"generator": self.generator}

    def run_steps(self, epoch: int, state: EpochState, step: Step, *, local_scaling: bool) -> dict[str, float]:
        """Train on each batch of ``state``, with a progress bar on a terminal; returns the mean of each loss.

        Args:
            epoch: named in the bar and in errors.
            state: the epoch's; with ``self.middle`` the steps that this has losses of are done.
            step: takes the network's inputs and the batch's rows on the device, trains, returns its losses.
            local_scaling: see :meth:`salcr.data.augment.Augmentation.visible`.

        Raises:
            NonFiniteLoss: a loss became NaN or infinite.
            EpochInterrupted: a signal has come and there are steps left.

        ``self.signals`` is on hold from the first step on: the caller releases it when the epoch is on disk.
        """
        from tqdm import tqdm

        watch, batches, done = LossWatch(epoch, self.paths), state.batches, 0
        if self.middle is not None:
            watch.resume(self.middle["losses"], batches, self.device)
            done, self.times, self.middle = len(watch.values), self.middle["seconds"], None
        loaded = load_batches(batches[done:], self.images[0], self.images[1], self.device)
        hidden = not sys.stderr.isatty()
        bar = tqdm(loaded, f"epoch {epoch}", len(batches), leave=False, initial=done, disable=hidden)
        self.network.train()
        self.signals.hold()
        with self.timed("steps"):
            for visible, infrared, rows in bar:
                inputs = training_views(
                    visible, infrared, self.augmentation, self.generator, local_scaling=local_scaling
                )
                losses = step(inputs, tuple(r.to(self.device, non_blocking=True) for r in rows))
                watch.add(losses, rows)
                done += 1
                if self.signals.received:
                    break
            means = watch.means()
        if done < len(batches):
            middle = {
                "labels": tuple(y.cpu() for y in state.labels),
                "memories": state.memories.state_dict(),
                "batches": batches,
                "losses": watch.so_far(),
                "seconds": self.times,
            }
            raise EpochInterrupted(middle, done)
        return means

    def autocast(self) -> AbstractContextManager:
        """The network's arithmetic at the configured precision."""
        return autocast(self.device, self.config.schedule.precision)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of the block to ``times[phase]``."""
        begin = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times[phase] = self.times.get(phase, 0.0) + time.perf_counter() - begin

    def fresh_optimiser(self) -> torch.optim.Optimizer:
        schedule = self.config.schedule
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=schedule.lr, weight_decay=schedule.weight_decay)

    def begin_stage_two(self) -> None:
        """A fresh optimiser, fresh part tokens and part norm (stage one gives them no gradient)."""
        self.network.parts.reset_parameters(self.generator)
        self.optimiser = self.fresh_optimiser()

    def set_learning_rate(self, epoch: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config.schedule, epoch)


def learning_rate(schedule: Schedule, epoch: int) -> float:
    """That of ``epoch``, counted over both stages."""
    return schedule.lr * schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)


def stage_of(schedule: Schedule, epoch: int) -> int | None:
    """1 or 2; None after the last epoch."""
    if epoch < schedule.stage_one_epochs:
        return 1
    return 2 if epoch < schedule.stage_one_epochs + schedule.stage_two_epochs else None
