"""Training: stage one, stage two, and everything needed to stop anywhere and go on (docs/method.md, "Schedule")."""

import logging
from pathlib import Path
from typing import Any

import torch

from salcr import distributed
from salcr.engine import checkpoint
from salcr.engine.config import Config, dump_config
from salcr.engine.evaluation import evaluate
from salcr.engine.interruption import Interrupted, Signals
from salcr.engine.network import configured_backend, warn_of_random_weights
from salcr.engine.resumption import newest_state, place, way_on
from salcr.engine.run_folder import RunFolder
from salcr.engine.session import EpochInterrupted, Session, stage_of
from salcr.engine.stage_one import stage_one_epoch
from salcr.engine.stage_two import stage_two_epoch
from salcr.engine.steps import NonFiniteLoss
from salcr.files import write_atomically

logger = logging.getLogger("salcr")


def train(config: Config, folder: str | Path, *, resume: bool = False, restart: bool = False) -> dict[str, Any]:
    """Train as configured and evaluate; everything is written to ``folder``.

    Called by every process that ``torchrun`` started, they train together (docs/distributed.md); the first writes.

    Ctrl-C and SIGTERM end the run: within an epoch's steps after the one under way and a checkpoint of the epoch's
    middle; while features are extracted, labelled or evaluated at once, since the last checkpoint is as far.

    Args:
        config: the run. With ``stage_one_epochs`` 0 only stage two runs, from ``model.checkpoint``; with
            ``stage_two_epochs`` 0 only stage one.
        folder: the run folder; see :class:`salcr.engine.run_folder.RunFolder`.
        resume: go on from the newest readable checkpoint in ``folder``, from the start if nothing was trained there.
            What may have changed in ``config`` since: :func:`salcr.engine.resumption.check_resumable`.
        restart: train again from nothing; the checkpoints and results in ``folder`` are removed.

    Returns:
        The summary that is also written to ``summary.json``: ``stage_one`` and ``final``, each by protocol.

    Raises:
        FileExistsError: a run in the folder has got to its first checkpoint, and ``resume`` and ``restart`` are False.
        RunInUse: another process trains in the folder.
        ValueError: a resumed run's configuration differs; none of its checkpoints can be read; both ``resume`` and
            ``restart``; no association of the configured name.
        ClusteringError, NonFiniteLoss: training cannot go on; the last checkpoint is intact.
        Interrupted: by Ctrl-C or SIGTERM: a ``KeyboardInterrupt`` that says from where the run goes on.
    """
    if resume and restart:
        raise ValueError("resume or restart, not both")
    run = RunFolder(folder)

    def begin() -> dict[str, Any] | None:
        if run.has_trained() and not (resume or restart):
            raise FileExistsError(f"{run.path} already holds a run: resume it or choose another folder")
        return newest_state(config, run) if resume else None

    def write_config() -> None:
        if restart:
            run.clear()
        write_atomically(run.config, dump_config(config))

    with distributed.joined(), distributed.held_by_first(run.locked), Signals() as signals:
        try:
            state = distributed.on_first(begin)
            trainer = Trainer(config, run, signals)
            distributed.on_first(write_config)
            with configured_backend(config):
                return trainer.fit(state)
        except Interrupted as error:
            raise Interrupted(error.number, way_on(config, run)) from None


class Trainer(Session):
    """A run: its epochs in order, what it has found so far, and its folder."""

    def __init__(self, config: Config, run: RunFolder, signals: Signals | None = None) -> None:
        super().__init__(config, signals)
        self.run = run
        self.results: dict[str, Any] = {}

    def fit(self, state: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the epochs that are left after the checkpoint ``state``, then evaluate; returns the summary."""
        schedule = self.config.schedule
        start = self._restore(state)
        for epoch in range(start, schedule.stage_one_epochs + schedule.stage_two_epochs):
            self._run_epoch(epoch)
        self.results["final"] = evaluate(self.network, self.dataset, self.config, self.device)
        self.results.setdefault("stage_one", self.results["final"])
        summary = {"stage_one": self.results["stage_one"], "final": self.results["final"]}
        distributed.on_first(lambda: self.run.write_summary(summary))
        return summary

    def _run_epoch(self, epoch: int) -> None:
        """An epoch and its checkpoint; if a signal comes in the middle, that of the middle."""
        stage = stage_of(self.config.schedule, epoch)
        if epoch == self.config.schedule.stage_one_epochs and self.middle is None:
            self.results["stage_one"] = evaluate(self.network, self.dataset, self.config, self.device)
            self.begin_stage_two()
        self.set_learning_rate(epoch)
        self.times = {}
        try:
            metrics = (stage_one_epoch if stage == 1 else stage_two_epoch)(self, epoch)
        except EpochInterrupted as error:
            self._check_network(epoch)
            logger.info("interrupted in epoch %d, step %d: writing a checkpoint", epoch, error.steps)
            self._save(epoch, error.middle, steps=error.steps)
        else:
            self._check_network(epoch)
            distributed.on_first(lambda: self._report(epoch, stage, metrics))
            self._save(epoch)
        self.signals.release()

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

    def _save(self, epoch: int, middle: dict[str, Any] | None = None, **steps: int) -> None:
        folder = self.run.checkpoints
        distributed.on_first(lambda: checkpoint.save_epoch(folder, epoch, self._state(epoch, middle), **steps))

    def _state(self, epoch: int, middle: dict[str, Any] | None = None) -> dict[str, Any]:
        """A checkpoint's content; ``epoch`` has ended, or ``middle`` is what its steps that are left need."""
        return {
            "epoch": epoch,
            "middle": middle,
            "config": self.config.model_dump(mode="json"),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "torch_random": torch.get_rng_state(),
            "labels": None if self.labels is None else tuple(y.cpu() for y in self.labels),
            "results": self.results,
        }

    def _restore(self, state: dict[str, Any] | None) -> int:
        """Continue from a checkpoint's content; returns the epoch to begin, or to go on with in its middle."""
        if state is None:
            warn_of_random_weights(self.config.model)
            distributed.on_first(lambda: self.run.rewind(0))
            return 0
        self.middle = state.get("middle")
        begin, steps = state["epoch"] + 1, 0
        if self.middle:
            begin, steps = state["epoch"], len(self.middle["losses"]["values"])
        distributed.on_first(lambda: self.run.rewind(begin))
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_random"])
        self.labels = tuple(y.to(self.device) for y in state["labels"])
        self.results = state["results"]
        logger.info("resuming %s %s", self.run.path, place(self.config, begin, steps))
        return begin
