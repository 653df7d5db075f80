"""Training: stage one, stage two, and everything needed to stop anywhere and go on (docs/method.md, "Schedule")."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from salcr.data.augment import Augmentation
from salcr.engine import checkpoint
from salcr.engine.config import Config, dump_config, load_config
from salcr.engine.evaluation import evaluate
from salcr.engine.features import autocast, extract_features
from salcr.engine.files import write_atomically
from salcr.engine.images import open_dataset, open_images
from salcr.engine.network import build_network, pick_device
from salcr.engine.pseudo_labels import pseudo_labels
from salcr.engine.run_folder import RunFolder
from salcr.engine.stage_one import stage_one_epoch
from salcr.engine.stage_two import stage_two_epoch
from salcr.engine.steps import LossWatch, NonFiniteLoss, load_batches, training_views
from salcr.models import Embedding
from salcr.objectives import association_named

logger = logging.getLogger("salcr")

Rows = tuple[torch.Tensor, torch.Tensor]
Step = Callable[[tuple[torch.Tensor, torch.Tensor], Rows], dict[str, torch.Tensor]]


def train(config: Config, folder: str | Path, *, resume: bool = False) -> dict[str, Any]:
    """Train as configured and evaluate; everything is written to ``folder``.

    Args:
        config: the run. With ``stage_one_epochs`` 0 only stage two runs, from ``model.checkpoint``; with
            ``stage_two_epochs`` 0 only stage one.
        folder: the run folder; see :class:`salcr.engine.run_folder.RunFolder`.
        resume: go on from the newest readable checkpoint in ``folder`` (from the start if there is none), with the
            configuration that the folder holds, which must equal ``config``.

    Returns:
        The summary that is also written to ``summary.json``: ``stage_one`` and ``final``, each by protocol.

    Raises:
        FileExistsError: the folder holds a run and ``resume`` is False.
        ValueError: a resumed run's configuration differs from the folder's; no association of the configured name.
        ClusteringError, NonFiniteLoss: training cannot go on; the last checkpoint is intact.
    """
    run = RunFolder(folder)
    if run.config.exists():
        if not resume:
            raise FileExistsError(f"{run.path} already holds a run: resume it or choose another folder")
        if load_config(file=run.config) != config:
            raise ValueError(
                f"the configuration differs from {run.config}: resume with that one or choose another folder"
            )
    trainer = Trainer(config, run)
    write_atomically(run.config, dump_config(config))
    return trainer.fit()


class Trainer:
    """The state of a run: network, optimiser, random generator, labels and results so far."""

    def __init__(self, config: Config, run: RunFolder) -> None:
        association_named(config.dagi.association)  # an unknown name ends a run before it starts
        self.config, self.run = config, run
        self.device = pick_device(config.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.dataset = open_dataset(config)
        sides = self.dataset.train_visible, self.dataset.train_infrared
        self.images = tuple(open_images(records, config) for records in sides)
        self.paths = tuple(records.paths for records in sides)
        self.augmentation = Augmentation(**config.augment.model_dump())
        self.network = build_network(config.model, self.generator).to(self.device, memory_format=torch.channels_last)
        self.optimiser = self._fresh_optimiser()
        self.labels: tuple[torch.Tensor, torch.Tensor] | None = None
        self.results: dict[str, Any] = {}
        self.times: dict[str, float] = {}

    def fit(self) -> dict[str, Any]:
        """Run the epochs that are left, then evaluate; returns the summary."""
        schedule = self.config.schedule
        start = self._restore()
        for epoch in range(start, schedule.stage_one_epochs + schedule.stage_two_epochs):
            first, second = epoch < schedule.stage_one_epochs, epoch == schedule.stage_one_epochs
            if second:
                self.results["stage_one"] = evaluate(self.network, self.dataset, self.config, self.device)
                self._begin_stage_two()
            self._set_learning_rate(epoch)
            self.times = {}
            metrics = (stage_one_epoch if first else stage_two_epoch)(self, epoch)
            self._check_network(epoch)
            self._report(epoch, 1 if first else 2, metrics)
            checkpoint.save_epoch(self.run.checkpoints, epoch, self._state(epoch))
        self.results["final"] = evaluate(self.network, self.dataset, self.config, self.device)
        self.results.setdefault("stage_one", self.results["final"])
        summary = {"stage_one": self.results["stage_one"], "final": self.results["final"]}
        self.run.write_summary(summary)
        return summary

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
        loaded = load_batches(batches, *self.images, self.device)
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

    def _fresh_optimiser(self) -> torch.optim.Optimizer:
        schedule = self.config.schedule
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=schedule.lr, weight_decay=schedule.weight_decay)

    def _begin_stage_two(self) -> None:
        """A fresh optimiser, fresh part tokens and part norm (stage one gives them no gradient)."""
        self.network.parts.reset_parameters(self.generator)
        self.optimiser = self._fresh_optimiser()

    def _set_learning_rate(self, epoch: int) -> None:
        schedule = self.config.schedule
        passed = sum(epoch >= milestone for milestone in schedule.milestones)
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.lr * schedule.gamma**passed

    def _check_network(self, epoch: int) -> None:
        """The watch over the losses does not see what the last step of an epoch did; a checkpoint must not keep it."""
        bad = [name for name, x in self.network.state_dict().items() if not torch.isfinite(x).all()]
        if bad:
            raise NonFiniteLoss(f"epoch {epoch}: its last step left NaN or Inf in {len(bad)} tensors, first {bad[0]}")

    def _report(self, epoch: int, stage: int, metrics: dict[str, Any]) -> None:
        seconds = {phase: round(value, 3) for phase, value in self.times.items()}
        self.run.log({"epoch": epoch, "stage": stage, **metrics, "seconds": seconds})
        losses = " ".join(f"{name} {value:.3f}" for name, value in metrics["loss"].items())
        sides = ((side, metrics[side]) for side in ("visible", "infrared"))
        labels = ", ".join(
            f"{side} {found['clusters']} clusters, noise {found['noise']:.0%}"
            + (f", ARI {found['ari']:.2f}" if "ari" in found else "")
            for side, found in sides
        )
        logger.info("epoch %d (stage %d): %s; %s; %.1f s", epoch, stage, losses, labels, sum(self.times.values()))

    def _state(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "config": self.config.model_dump(mode="json"),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "torch_random": torch.get_rng_state(),
            "labels": None if self.labels is None else tuple(y.cpu() for y in self.labels),
            "results": self.results,
        }

    def _restore(self) -> int:
        """Continue from the newest checkpoint of the run folder; returns the epoch to begin with."""
        state = checkpoint.load_newest(self.run.checkpoints)
        begin = 0 if state is None else state["epoch"] + 1
        self.run.rewind(begin)
        if state is None:
            return 0
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_random"])
        self.labels = tuple(y.to(self.device) for y in state["labels"])
        self.results = state["results"]
        logger.info("resuming %s at epoch %d", self.run.path, begin)
        return begin
