"""Training: stage one, stage two, and everything needed to stop anywhere and go on (docs/method.md, "Schedule")."""

import logging
from pathlib import Path
from typing import Any

import torch

from salcr.engine import checkpoint
from salcr.engine.config import Config, dump_config, load_config
from salcr.engine.evaluation import evaluate
from salcr.engine.network import configured_backend, warn_of_random_weights
from salcr.engine.run_folder import RunFolder
from salcr.engine.session import Session
from salcr.engine.stage_one import stage_one_epoch
from salcr.engine.stage_two import stage_two_epoch
from salcr.engine.steps import NonFiniteLoss
from salcr.files import write_atomically

logger = logging.getLogger("salcr")


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
    with configured_backend(config):
        return trainer.fit()


class Trainer(Session):
    """A run: its epochs in order, what it has found so far, and its folder."""

    def __init__(self, config: Config, run: RunFolder) -> None:
        super().__init__(config)
        self.run = run
        self.results: dict[str, Any] = {}

    def fit(self) -> dict[str, Any]:
        """Run the epochs that are left, then evaluate; returns the summary."""
        schedule = self.config.schedule
        start = self._restore()
        for epoch in range(start, schedule.stage_one_epochs + schedule.stage_two_epochs):
            first, second = epoch < schedule.stage_one_epochs, epoch == schedule.stage_one_epochs
            if second:
                self.results["stage_one"] = evaluate(self.network, self.dataset, self.config, self.device)
                self.begin_stage_two()
            self.set_learning_rate(epoch)
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
            warn_of_random_weights(self.config.model)
            return 0
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_random"])
        self.labels = tuple(y.to(self.device) for y in state["labels"])
        self.results = state["results"]
        logger.info("resuming %s at epoch %d", self.run.path, begin)
        return begin
