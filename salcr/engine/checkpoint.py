"""Checkpoints: written whole or not at all, the newest readable one found again after a crash."""

import io
import math
import re
import warnings
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch

from salcr.files import write_atomically
from salcr.models.checkpoints import load

NAME = re.compile(r"epoch_(\d{4,})(?:_step_(\d{4,}))?\.pt")


def save_atomically(payload: dict[str, Any], path: Path) -> None:
    """``torch.save``, whole or not at all.

    Raises:
        OSError: the file cannot be written (a full disk); what stood at ``path`` before is untouched.
    """
    content = io.BytesIO()  # torch's writer would hide what the disk says behind errors of its own
    torch.save(payload, content)
    write_atomically(path, content.getvalue())


def save_epoch(
    folder: Path,
    epoch: int,
    payload: dict[str, Any],
    *,
    steps: int | None = None,
    last: int = 2,
    spared: Container[int] = (),
) -> Path:
    """Write the checkpoint of ``epoch``, or with ``steps`` the one after so many of its steps; then :func:`prune`."""
    path = folder / (f"epoch_{epoch:04d}.pt" if steps is None else f"epoch_{epoch:04d}_step_{steps:04d}.pt")
    save_atomically(payload, path)
    prune(folder, path, last=last, spared=spared)
    return path


def prune(folder: Path, newest: Path, *, last: int, spared: Container[int] = ()) -> None:
    """Of :func:`files`, keep ``newest``, the ``last`` of whole epochs and those of the epochs ``spared``.

    So a checkpoint of an epoch's middle stays until there is a newer one. Those of later epochs than ``newest`` are
    removed: the run went back behind them because they could not be read.
    """
    found = files(folder)
    whole = [path for path in found[found.index(newest) :] if position(path)[1] is None]
    stay = {newest, *whole[:last], *(path for path in whole if position(path)[0] in spared)}
    for path in found:
        if path not in stay:
            path.unlink()


def files(folder: Path) -> list[Path]:
    """The checkpoints that training wrote to ``folder``, newest first; copies under other names are not."""
    own = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(own, key=lambda path: [math.inf if n is None else n for n in position(path)], reverse=True)


def position(path: Path) -> tuple[int, int | None]:
    """Epoch and, for a checkpoint of an epoch's middle, steps, of one of :func:`files`."""
    epoch, steps = NAME.fullmatch(path.name).groups()
    return int(epoch), None if steps is None else int(steps)


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest of :func:`files` that can be read (a warning for each damaged one passed over), or None."""
    for path in files(folder):
        try:
            return load(path)
        except ValueError as error:
            warnings.warn(f"{error}; trying the one before it", stacklevel=2)
    return None
