"""Training: stage one, stage two, and everything needed to stop anywhere and go on (docs/method.md, "Schedule")."""

import logging
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salcr import distributed
from salcr.engine import best, checkpoint
from salcr.engine.config import Config, dump_config
from salcr.engine.evaluation import evaluate
from salcr.engine.interruption import Interrupted, Signals
from salcr.engine.network import configured_backend, timed_convolutions, warn_of_choice, warn_of_random_weights
from salcr.engine.profiling import Profiler
from salcr.engine.progress import epoch_line, time_left
from salcr.engine.resumption import command, newest_state, place, way_on
from salcr.engine.run_folder import RunFolder
from salcr.engine.session import EpochInterrupted, Session, stage_of
from salcr.engine.stage_one import stage_one_epoch
from salcr.engine.stage_two import stage_two_epoch
from salcr.engine.steps import NonFiniteLoss
from salcr.engine.tensorboard import PICTURES_EVERY, Board, clusters_sheet
from salcr.engine.writing import Writer, snapshot
from salcr.files import write_atomically
from salcr.surroundings import own_settings

logger = logging.getLogger("salcr")


def train(
    config: Config, folder: str | Path, *, resume: bool = False, restart: bool = False, profile: bool = False
) -> dict[str, Any]:
    """Train as configured and evaluate; everything is written to ``folder``.

    Called by every process that ``torchrun`` started, they train together (docs/distributed.md); the first writes.

    Ctrl-C and SIGTERM end the run. Within an epoch's steps, the step under way is finished and a checkpoint of the
    epoch's middle written; while features are extracted, labelled or evaluated it ends at once, for nothing has been
    trained since the last checkpoint.

    What the program has set (autocast, ``no_grad``, a default dtype or device) changes nothing here, and is as it was
    afterwards. Two runs in threads of one process would share it, and a random generator: start a process for each.

    Args:
        config: the run. With ``stage_one_epochs`` 0 only stage two runs, from ``model.checkpoint``; with
            ``stage_two_epochs`` 0 only stage one.
        folder: the run folder; see :class:`salcr.engine.run_folder.RunFolder`.
        resume: go on from the newest readable checkpoint in ``folder``, from the start if nothing was trained there.
            What may have changed in ``config`` since: :func:`salcr.engine.resumption.check_resumable`.
        restart: train again from nothing; the checkpoints and results in ``folder`` are removed.
        profile: write a trace and a table of one epoch of each stage to ``profile/``; see ``salcr.engine.profiling``.

    Returns:
        The summary that is also written to ``summary.json``: ``stage_one`` and ``final``, each by protocol; with
        ``checkpoints.keep.best`` also ``chosen_on_test_data``, the best epoch with its ``figures``, unless that epoch
        was trained before the setting was made.

    Raises:
        FileExistsError: the folder holds a run that has trained, and ``resume`` and ``restart`` are False.
        RunInUse: another process trains in the folder.
        ValueError: no epoch in either stage; a resumed run's configuration differs; none of its checkpoints can be
            read; both ``resume`` and ``restart``; no association of the configured name; no TensorBoard where it is
            asked for, or no test images to choose the best checkpoint by.
        ClusteringError, NonFiniteLoss: training cannot go on; the last checkpoint is intact.
        Interrupted: by Ctrl-C or SIGTERM: a ``KeyboardInterrupt`` that says from where the run goes on.
    """
    if resume and restart:
        raise ValueError("resume or restart, not both")
    if not config.schedule.epochs:
        raise ValueError("schedule.stage_one_epochs and schedule.stage_two_epochs are 0: there is nothing to train")
    run = RunFolder(folder)

    def begin() -> dict[str, Any] | None:
        if run.has_trained() and not (resume or restart):
            again = f"`{command(run, '--restart')}` trains it again from nothing"
            raise FileExistsError(f"{run.path} already holds a run: resume it or choose another folder; {again}")
        return newest_state(config, run) if resume else None

    def write_config() -> None:
        if restart:
            run.clear()
        write_atomically(run.config, dump_config(config))

    with own_settings(), distributed.joined(), distributed.held_by_first(run.locked), Signals() as signals:
        try:
            state = distributed.on_first(begin)
            trainer = Trainer(config, run, signals)
            if profile and distributed.rank() == 0:
                trainer.profiler = Profiler(run.path / "profile", trainer.device)
            distributed.on_first(write_config)
            with configured_backend(config), timed_convolutions():
                return trainer.fit(state)
        except Interrupted as error:
            raise Interrupted(error.number, way_on(config, run)) from None


class Trainer(Session):
    """A run: its epochs in order, what it has found so far, and its folder."""

    def __init__(self, config: Config, run: RunFolder, signals: Signals | None = None) -> None:
        super().__init__(config, signals)
        if config.checkpoints.keep.best and not self.dataset.protocols:
            raise ValueError(f"checkpoints.keep.best needs test images: {self.dataset.root} has no query and gallery")
        self.run = run
        self.board = Board(run.board) if config.logging.tensorboard and distributed.rank() == 0 else None
        self.writer = Writer()
        self.results: dict[str, Any] = {}
        self.figures: dict[str, Any] | None = None  # of the network as it is, once it was evaluated
        self.records: list[dict[str, Any]] = []  # of the epochs so far, in the first process
        self.unwritten: dict[str, Any] | None = None  # the last epoch's record, where the run ended before writing it

    def fit(self, state: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the epochs that are left after the checkpoint ``state``, then evaluate; returns the summary."""
        start = self._restore(state)
        with closing(self.board) if self.board else nullcontext(), self.writer:
            if self.unwritten is not None:
                self._conclude(self.unwritten)
            for epoch in range(start, self.config.schedule.epochs):
                self._run_epoch(epoch)
            distributed.on_first(self.writer.wait)
        self.results["final"] = self._evaluate()
        self.results.setdefault("stage_one", self.results["final"])
        return distributed.on_first(self._summarise)

    def _run_epoch(self, epoch: int) -> None:
        """An epoch and its checkpoint, or one of its middle if a signal comes there."""
        stage = stage_of(self.config.schedule, epoch)
        if epoch == self.config.schedule.stage_one_epochs and self.middle is None:
            self.results["stage_one"] = self._evaluate()
            self.begin_stage_two()
        self.set_learning_rate(epoch)
        self.times, self.figures, self.views = {}, None, None
        self.wants_views = self._shows_pictures(epoch)
        last = stage_of(self.config.schedule, epoch + 1) != stage
        try:
            with nullcontext() if self.profiler is None else self.profiler.epoch(stage, epoch, last=last):
                metrics = (stage_one_epoch if stage == 1 else stage_two_epoch)(self, epoch)
        except EpochInterrupted as error:
            logger.info("interrupted in epoch %d, step %d: writing a checkpoint", epoch, error.steps)
            self._save(epoch, middle=error.middle, steps=error.steps)
            distributed.on_first(self.writer.wait)
            self.signals.release()
        else:
            record = {"epoch": epoch, "stage": stage, "lr": self.optimiser.param_groups[0]["lr"], **metrics}
            record["seconds"] = self.times
            with self.timed("checkpoint"):
                self._save(epoch, record=record)
            self._conclude(record)

    def _conclude(self, record: dict[str, Any]) -> None:
        """Evaluate where that is due and write down the epoch, whose checkpoint is on disk or on its way there."""
        self.times = record["seconds"]
        if self._is_evaluated(record["epoch"]):
            self.signals.release()
            with self.timed("evaluation"):
                record = record | {"evaluation": self._evaluate()}
        self.signals.hold()
        distributed.on_first(lambda: self._write_down(record))
        self.signals.release()

    def _is_evaluated(self, epoch: int) -> bool:
        every, schedule, done = self.config.evaluation.every, self.config.schedule, epoch + 1
        due = done in (schedule.stage_one_epochs, schedule.epochs) or (every > 0 and done % every == 0)
        return due and len(self.dataset.protocols) > 0

    def _evaluate(self) -> dict[str, Any]:
        if self.figures is None:
            self.figures = evaluate(self.network, self.dataset, self.config, self.device)
        return self.figures

    def _write_down(self, record: dict[str, Any]) -> None:
        """The best checkpoint if this is one, the epoch's record in ``metrics.jsonl``, the log and TensorBoard."""
        metric, epoch = self.config.checkpoints.keep.best, record["epoch"]
        if metric or self.board is not None:
            self.writer.wait()
        if metric and (mark := best.best_epoch([*self.records, record], metric)) and mark["epoch"] == epoch:
            with self.timed("checkpoint"):
                best.save_best(self.run.checkpoints, mark, self._state(epoch, record=record))
            record = record | {best.MARK: mark}
        record = record | {"seconds": {phase: round(value, 3) for phase, value in self.times.items()}}
        if self.board is not None:
            self.board.write(record, self._pictures(epoch))
        self.writer.call(lambda: self.run.log(record))
        self.records.append(record)
        self.left = time_left(self.records, self.config.schedule)
        logger.info("%s", "; ".join([epoch_line(record), *([self.left] if self.left else [])]))

    def _shows_pictures(self, epoch: int) -> bool:
        before = 0 if epoch < self.config.schedule.stage_one_epochs else self.config.schedule.stage_one_epochs
        return self.board is not None and (epoch - before) % PICTURES_EVERY == 0

    def _pictures(self, epoch: int) -> dict[str, np.ndarray]:
        """Sheets by name; without views where the run was ended between the epoch's steps and its record."""
        if not self._shows_pictures(epoch):
            return {}
        sides = zip(("visible", "infrared"), self.images, self.labels, strict=True)
        sheets = {f"clusters/{side}": clusters_sheet(images, y) for side, images, y in sides}
        return sheets if self.views is None else sheets | {"views": self.views}

    def _summarise(self) -> dict[str, Any]:
        """Write the summary, and leave the checkpoints that are to stay."""
        summary = {"stage_one": self.results["stage_one"], "final": self.results["final"]}
        keep, files = self.config.checkpoints.keep, checkpoint.files(self.run.checkpoints)
        if keep.best and (chosen := best.best_epoch(self.records, keep.best)):
            if best.path_of(self.run.checkpoints, chosen).exists():
                figures = next(x["evaluation"] for x in self.records if x["epoch"] == chosen["epoch"])
                summary[best.MARK] = chosen | {"figures": figures}
            else:  # the setting is newer than that epoch, or the run went back from a damaged checkpoint
                logger.warning("no checkpoint of the epoch with the best %s, %d, was kept", keep.best, chosen["epoch"])
        if files:  # one that was killed as it saved has left more
            checkpoint.prune(self.run.checkpoints, files[0], last=keep.last, spared=self._spared())
        self.run.write_summary(summary)
        return summary

    def _save(
        self,
        epoch: int,
        *,
        record: dict[str, Any] | None = None,
        middle: dict[str, Any] | None = None,
        steps: int | None = None,
    ) -> None:
        """Begin to write a checkpoint, once that of the epoch before is on disk.

        Raises:
            NonFiniteLoss: the network is not finite: the watch over the losses does not see what the last step did.
        """
        options = dict(steps=steps, last=self.config.checkpoints.keep.last, spared=self._spared())

        def begin() -> None:
            self.writer.wait()
            network = self.network.state_dict()
            finite = torch.stack([torch.isfinite(x).all() for x in network.values()])
            state, finite = snapshot((self._state(epoch, record, middle), finite))
            bad = [name for name, is_finite in zip(network, finite.tolist(), strict=True) if not is_finite]
            if bad:
                raise NonFiniteLoss(
                    f"epoch {epoch}: its last step left NaN or Inf in {len(bad)} tensors, first {bad[0]}"
                )
            self.writer.call(lambda: checkpoint.save_epoch(self.run.checkpoints, epoch, state, **options))

        distributed.on_first(begin)

    def _spared(self) -> set[int]:
        """Epochs whose checkpoints stay beside the last ones."""
        keep, spared = self.config.checkpoints.keep, set[int]()
        if keep.every:
            spared.update(range(keep.every - 1, self.config.schedule.epochs, keep.every))
        if keep.stage_one:
            spared.add(self.config.schedule.stage_one_epochs - 1)
        return spared

    def _state(
        self, epoch: int, record: dict[str, Any] | None = None, middle: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """A checkpoint's content: ``epoch`` has ended with ``record``, or its steps that are left need ``middle``."""
        return {
            "epoch": epoch,
            "middle": middle,
            "record": record,
            "config": self.config.model_dump(mode="json"),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "torch_random": torch.get_rng_state(),
            "labels": self.labels,
            "results": self.results,
        }

    def _restore(self, state: dict[str, Any] | None) -> int:
        """Continue from a checkpoint's content; returns the epoch to begin, or to go on with in its middle."""
        if state is None:
            warn_of_random_weights(self.config.model)
            warn_of_choice(self.config.model)
            distributed.on_first(lambda: self._take_up(0))
            return 0
        self.middle = state.get("middle")
        begin, steps = state["epoch"] + 1, 0
        if self.middle:
            begin, steps = state["epoch"], len(self.middle["losses"]["values"])
        written = distributed.on_first(lambda: self._take_up(begin))
        self.network.load_state_dict(state["network"])
        self.load_optimiser(state["optimiser"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_random"])
        self.labels = state["labels"]
        self.results = state["results"]
        if self.middle is None and state["epoch"] not in written:
            self.unwritten = state.get("record")
        logger.info("resuming %s %s", self.run.path, place(self.config, begin, steps))
        return begin

    def _take_up(self, epoch: int) -> list[int]:
        """Rewind the folder to the beginning of ``epoch``; returns the epochs that have a record."""
        self.run.rewind(epoch)
        self.records = self.run.read_metrics()
        return [record["epoch"] for record in self.records]
