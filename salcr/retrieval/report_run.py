"""What the folder of a run says of it, while it goes on, at its end, and after it died: plain values for a report."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salcr.retrieval.report_pictures import ContactSheets, Ranked

LARGEST_FILE, LARGEST_EPOCH = 1 << 26, 1e9
CHOSEN = "chosen_on_test_data"
STAGES = {"untrained": "untrained", "stage_one": "stage one", "final": "last epoch"}


@dataclass
class Run:
    """A run as a report shows it.

    Attributes:
        folder: its folder.
        name: of the run on the page, of its own among the runs there.
        state: finished, training, or stopped.
        records: of its epochs, in order, as in ``metrics.jsonl``; values may be anything that JSON can say.
        results: ``(what was evaluated, figures by protocol)``, the first evaluated first.
        settings: ``{"schedule.lr": its value, …}``.
        ranked, worst, clusters: its pictures; see :mod:`salcr.retrieval.report_pictures`.
        pictured: a sentence about the checkpoint and the protocol that the pictures are of.
        notes: one line about each part that cannot be shown.
    """

    folder: Path
    name: str
    state: str
    records: list[dict[str, Any]]
    results: list[tuple[str, dict[str, Any]]]
    notes: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    pictured: str = ""
    ranked: Sequence[Ranked] = ()
    worst: Sequence[Ranked] = ()
    clusters: Sequence[ContactSheets] = ()


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in ``folders``; nothing is written there.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: one of them is no folder of a run, or named twice.
    """
    seen: set[Path] = set()
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"no run folder {folder}")
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file: a report is made of run folders")
        if not any((folder / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
            raise ValueError(f"{folder} is no run folder: it has neither config.yaml nor metrics.jsonl")
        if (place := folder.resolve()) in seen:
            raise ValueError(f"{folder} is named twice")
        seen.add(place)
    return [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def number(value: object, largest: float = 1e100) -> float | None:
    """``value`` as a number, None where it is none, NaN, or beyond ``largest`` either way."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= largest:
        return None
    return float(value)


def _read(folder: Path, name: str) -> Run:
    notes: list[str] = []
    records = _records(folder / "metrics.jsonl", notes)
    summary = _summary(folder / "summary.json", notes)
    if summary is None:
        evaluated = [record for record in records if isinstance(record.get("evaluation"), dict)]
        newest = [record for record in evaluated if record.get("stage") == 1][-1:] + evaluated[-1:]
        best = [record for record in evaluated if CHOSEN in record][-1:]
        titled = {f"epoch {record['epoch']}": record for record in newest}
        titled |= {f"epoch {record['epoch']}, chosen on test data": record for record in best}
        results = [(title, record["evaluation"]) for title, record in titled.items()]
    else:
        results = [(title, summary[key]) for key, title in STAGES.items() if isinstance(summary.get(key), dict)]
        if len(results) > 1 and results[-1][1] == results[-2][1]:  # a run of stage one alone
            del results[-2]
        if isinstance(best := summary.get(CHOSEN), dict) and isinstance(best.get("figures"), dict):
            results.append((f"epoch {best.get('epoch')}, chosen on test data", best["figures"]))
    if not any(figures for _, figures in results):
        why = "no evaluation is recorded yet" if summary is None else "nothing was evaluated"
        notes.append(f"no retrieval figures: {why}")
    state = _state(folder / ".holder.json", finished=summary is not None)
    return Run(folder, name, state, records, results, notes)


def _records(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """One an epoch, in order; lines that are none are counted in a note."""
    found, bad = {}, 0
    try:
        lines = _content(path).splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, ValueError) as error:
        notes.append(f"no curves: {error}")
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        epoch = record.get("epoch") if isinstance(record, dict) else None
        if isinstance(epoch, int) and number(epoch, LARGEST_EPOCH) is not None:
            found[epoch] = record
        else:
            bad += 1
    if not found:
        notes.append("no curves: no epoch has ended yet")
    if bad:
        notes.append(f"{path.name}: {bad} line{'s' * (bad > 1)} left out, not the record of an epoch")
    return [found[epoch] for epoch in sorted(found)]


def _summary(path: Path, notes: list[str]) -> Mapping[str, Any] | None:
    try:
        found = json.loads(_content(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return None
    if not isinstance(found, dict):
        notes.append(f"{path.name} cannot be read: it holds no figures by name")
        return None
    return found


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{path.name} is larger than {LARGEST_FILE:,} bytes")
    return content


def _state(holder: Path, *, finished: bool) -> str:
    """``holder``: the file that a training leaves in its folder as long as it goes on, or after it was killed."""
    try:
        found = json.loads(_content(holder))
        host, process, since = str(found["host"]), int(found["pid"]), str(found["since"])
    except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError):
        return "finished" if finished else "stopped before its end"
    if host != socket.gethostname() or _is_alive(process):
        return f"training (process {process} on {host}, since {since})"
    return "finished" if finished else f"killed (process {process} on {host}, begun {since})"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of_one[-length:]) for of_one in parts]
        if len(set(names)) == len(names):
            break
    return names
