"""What an epoch of either stage works with: network, optimiser, random generator, images and labels of a run."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from salcr.data.augment import Augmentation
from salcr.engine.config import Config
from salcr.engine.features import autocast, extract_features
from salcr.engine.images import open_dataset, open_images
from salcr.engine.network import build_network, pick_device
from salcr.engine.pseudo_labels import pseudo_labels
from salcr.engine.steps import LossWatch, load_batches, training_views
from salcr.models import Embedding
from salcr.objectives import association_named

Rows = tuple[torch.Tensor, torch.Tensor]
Step = Callable[[tuple[torch.Tensor, torch.Tensor], Rows], dict[str, torch.Tensor]]


class Session:
    """The state of a run in memory; :mod:`salcr.engine.trainer` schedules its epochs and keeps it on disk."""

    def __init__(self, config: Config) -> None:
        association_named(config.dagi.association)  # an unknown name ends a run before it starts
        self.config = config
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

    def run_steps(self, epoch: int, batches: Iterable[Rows], step: Step, *, local_scaling: bool) -> dict[str, float]:
        """Train on each of ``batches``, with a progress bar on a terminal; returns the mean of each loss.

        Args:
            epoch: named in the bar and in errors.
            batches: (visible rows, infrared rows), drawn in full before the first step.
            step: takes the network's inputs and the batch's rows on the device, trains, returns its losses.
            local_scaling: see :meth:`salcr.data.augment.Augmentation.visible`.

        Raises:
            NonFiniteLoss: a loss became NaN or infinite.
        """
        from tqdm import tqdm

        watch, batches = LossWatch(epoch, self.paths), list(batches)
        loaded = load_batches(batches, self.images[0], self.images[1], self.device)
        bar = tqdm(loaded, f"epoch {epoch}", len(batches), leave=False, disable=not sys.stderr.isatty())
        self.network.train()
        with self.timed("steps"):
            for visible, infrared, rows in bar:
                inputs = training_views(
                    visible, infrared, self.augmentation, self.generator, local_scaling=local_scaling
                )
                losses = step(inputs, tuple(r.to(self.device, non_blocking=True) for r in rows))
                watch.add(losses, rows)
            return watch.means()

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
        schedule = self.config.schedule
        passed = sum(epoch >= milestone for milestone in schedule.milestones)
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.lr * schedule.gamma**passed
