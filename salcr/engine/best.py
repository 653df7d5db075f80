"""The checkpoint of the best epoch by a figure: a choice made on test data, and marked as one wherever it shows."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from salcr.engine.checkpoint import save_atomically
from salcr.models.checkpoints import load

MARK = "chosen_on_test_data"
NAME = re.compile(r"best_(.+)_on_test_data_epoch_(\d{4,})\.pt")
KINDS = {"metric": str, "protocol": str, "value": float, "epoch": int}


def best_epoch(records: Iterable[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """``metric``, ``protocol``, ``value`` and ``epoch`` of the best of some epochs' records, the first of equals.

    The protocol is the data set's first. None where no epoch was evaluated.
    """
    best = None
    for record in records:
        if not record.get("evaluation"):
            continue
        protocol, figures = next(iter(record["evaluation"].items()))
        if metric in figures and (best is None or figures[metric] > best["value"]):
            best = {"metric": metric, "protocol": protocol, "value": figures[metric], "epoch": record["epoch"]}
    return best


def describe(mark: Mapping[str, Any]) -> str:
    """What :func:`best_epoch` found, in words that follow a noun."""
    figure = f"{mark['metric']} of {mark['protocol']}, {mark['value']:.2f}"
    return f"chosen on test data: of the evaluated epochs, epoch {mark['epoch']} has the best {figure}"


def save_best(folder: Path, mark: dict[str, Any], payload: dict[str, Any]) -> Path:
    """Write the checkpoint ``payload`` of the epoch that :func:`best_epoch` chose, marked; those before it go."""
    path = path_of(folder, mark)
    save_atomically(payload | {MARK: mark}, path)
    for other in files(folder):
        if other != path and NAME.fullmatch(other.name)[1] == mark["metric"]:
            other.unlink()
    return path


def path_of(folder: Path, mark: Mapping[str, Any]) -> Path:
    """Where :func:`save_best` writes."""
    return folder / f"best_{mark['metric']}_on_test_data_epoch_{mark['epoch']:04d}.pt"


def files(folder: Path, since: int = 0) -> list[Path]:
    """Those of epoch ``since`` and later."""
    found = ((path, NAME.fullmatch(path.name)) for path in folder.iterdir())
    return [path for path, name in found if name and int(name[2]) >= since]


def mark_of(path: Path) -> dict[str, Any] | None:
    """What :func:`best_epoch` said of the checkpoint at ``path``; None where it was not chosen so.

    Raises:
        OSError: no such file.
        ValueError: it is marked with something else.
    """
    try:
        mark = load(path).get(MARK)
    except ValueError:  # of another layout, or damaged, which is for others to say
        return None
    if mark is None:
        return None
    known = isinstance(mark, dict) and all(type(mark.get(name)) is kind for name, kind in KINDS.items())
    if not known or not f"{mark['metric']} {mark['protocol']}".isprintable():
        raise ValueError(f"{path}: {MARK} must hold {', '.join(KINDS)}")
    return {name: mark[name] for name in KINDS}
