"""Going on with a run: from which checkpoint, and with which changes of its configuration."""

import logging
import shlex
from pathlib import Path
from typing import Any

from salcr.engine import checkpoint
from salcr.engine.config import PATHS, Config, config_of_checkpoint, differences, load_config
from salcr.engine.run_folder import RunFolder
from salcr.engine.session import learning_rate, stage_of

logger = logging.getLogger("salcr")

KEYS = {"epoch", "config", "network", "optimiser", "generator", "torch_random", "labels", "results"}
FREE = ("device", "backend", "data.cache", "data.resident", "schedule.graph", "evaluation.", "checkpoints.", "logging.")
COURSE = tuple(f"schedule.{name}" for name in ("stage_one_epochs", "stage_two_epochs", "lr", "milestones", "gamma"))


def newest_state(config: Config, run: RunFolder) -> dict[str, Any] | None:
    """The newest checkpoint of ``run`` that can be read, for ``config`` to go on from; None if nothing was trained.

    Raises:
        ValueError: no checkpoint can be read any more, or what :func:`check_resumable` raises.
    """
    state = checkpoint.load_newest(run.checkpoints)
    if state is None:
        if not run.has_trained():
            return None
        raise ValueError(
            f"no checkpoint in {run.checkpoints} can be read: training would start again from nothing, which "
            f"`{command(run, '--restart')}` does"
        )
    if missing := KEYS - state.keys():
        raise ValueError(f"the newest checkpoint in {run.checkpoints} is none of a training: no {min(missing)}")
    begun = state["epoch"] + 1
    if run.config.exists():
        check_resumable(config, load_config(file=run.config), begun, str(run.config))
    trained = config_of_checkpoint(state["config"], run.checkpoints)
    check_resumable(config, trained, begun, f"the newest checkpoint in {run.checkpoints}", ignored=PATHS)
    asked, before = (one.evaluation.model_copy(update={"every": 0}) for one in (config, trained))
    if "stage_one" in state["results"] and asked != before:
        logger.warning("stage one was evaluated with other settings than these: its figures stay")
    return state


def check_resumable(config: Config, trained: Config, begun: int, origin: str, *, ignored: tuple[str, ...] = ()) -> None:
    """Whether ``config`` can go on with a run whose first ``begun`` epochs have begun with ``trained``.

    Device, backend, where images are kept, whether steps are replayed, evaluation, which checkpoints stay and logging
    may change, and the form in which a path is given. So may the schedule, as long as every epoch that has begun keeps
    its stage and its learning rate: there can be more epochs.

    Raises:
        ValueError: anything else differs; names the ``origin`` of ``trained``, the keys and both values.
    """
    same_course = all(_course(config, epoch) == _course(trained, epoch) for epoch in range(begun))
    free = (*FREE, *ignored, *(COURSE if same_course else ()))
    found = [
        f"{key} is {after!r}, there {before!r}"
        for key, (before, after) in differences(trained, config).items()
        if not key.startswith(free) and _resolved(key, after) != _resolved(key, before)
    ]
    if found:
        raise ValueError(
            f"the configuration differs from {origin}: {'; '.join(found)}: "
            "resume with that one or choose another folder"
        )


def place(config: Config, epoch: int, steps: int) -> str:
    """Where a run goes on: ``at epoch 5, step 12``."""
    if steps:
        return f"at epoch {epoch}, step {steps}"
    return "with the final evaluation" if stage_of(config.schedule, epoch) is None else f"at epoch {epoch}"


def way_on(config: Config, run: RunFolder) -> str:
    """By which command an interrupted run goes on, and where."""
    if not run.config.exists():
        return "nothing was trained yet, the same command starts again"
    newest = next(iter(checkpoint.files(run.checkpoints)), None)
    epoch, steps = (-1, None) if newest is None else checkpoint.position(newest)
    where = place(config, epoch + 1, 0) if steps is None else place(config, epoch, steps)
    return f"`{command(run, '--resume')}` goes on {where}"


def command(run: RunFolder, option: str) -> str:
    """The command line that does ``option`` with ``run``, also where the demo began it."""
    return shlex.join(["salcr", "train", option, "--out", str(run.path)])


def _course(config: Config, epoch: int) -> tuple[int | None, float]:
    return stage_of(config.schedule, epoch), learning_rate(config.schedule, epoch)


def _resolved(key: str, value: Any) -> Any:
    """``value``; of a path the one form that all of its forms have."""
    return value if key not in PATHS or value in (None, "bundled") else str(Path(value).resolve())
