"""Checkpoints: written whole or not at all, the newest readable one found again after a crash."""

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

KEPT = 2


def save_atomically(payload: dict[str, Any], path: Path) -> None:
    """``torch.save`` to a temporary file in the same folder, flushed to disk, then renamed over ``path``.

    Raises:
        OSError: the file cannot be written (a full disk); what stood at ``path`` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # torch's zip writer wraps what the disk said
            raise OSError(f"cannot write {path}: {error}") from error
        raise


def save_epoch(folder: Path, epoch: int, payload: dict[str, Any]) -> Path:
    """Write the checkpoint of ``epoch`` and drop all but the newest two."""
    path = folder / f"epoch_{epoch:04d}.pt"
    save_atomically(payload, path)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint (tensors and plain values only).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is truncated, damaged, or no checkpoint.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest epoch checkpoint that can be read (a warning for each damaged one passed over), or None."""
    for path in _newest_first(folder):
        try:
            return load(path)
        except ValueError as error:
            warnings.warn(f"{error}; trying the one before it", stacklevel=2)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch_*.pt"), reverse=True)
