"""What the published folder layouts have in common: identity files, image lists, camera folders, gallery draws."""

import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from salcr.data.records import Records, Trial

TRIALS = 10
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def open_root(root: str | Path) -> Path:
    """``root`` as a path, once it is known to be a folder."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no data set folder {root}")
    return root


def read_ids(path: Path) -> list[int]:
    """The identities of a file that holds one comma-separated line, ascending, each once."""
    tokens = [token.strip() for token in _read_text(path).replace("\n", ",").split(",")]
    tokens = [token for token in tokens if token]
    for token in tokens:
        if not token.isdecimal():
            raise ValueError(f"{path} must hold identity numbers parted by commas, got {token!r}")
    if not tokens:
        raise ValueError(f"{path} names no identity")
    return sorted({int(token) for token in tokens})


def read_list(path: Path) -> tuple[list[str], list[int]]:
    """Paths and labels of a file whose lines read ``path label``, in its order."""
    paths, labels = [], []
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        name = name.strip().replace("\\", "/")
        if not name or not label.isdecimal() or PurePosixPath(name).is_absolute():
            raise ValueError(f"{path}, line {number}: must read 'path label' with a relative path, got {line!r}")
        paths.append(name.removeprefix("./"))
        labels.append(int(label))
    if not paths:
        raise ValueError(f"{path} names no image")
    return paths, labels


def scan_cameras(root: Path, folders: Sequence[tuple[str, int, bool]], ids: Iterable[int]) -> Records:
    """The images under ``root/FOLDER/PPPP``, by identity, then folder, then file name. Absent folders are skipped.

    ``folders`` names each camera folder, its camera number, and whether it is infrared.
    """
    present = [folder for folder in folders if (root / folder[0]).is_dir()]
    rows = [
        (f"{folder}/{identity:04d}/{name}", identity, cam, infrared)
        for identity in ids
        for folder, cam, infrared in present
        for name in _image_names(root / folder / f"{identity:04d}")
    ]
    return records(root, *zip(*rows, strict=True)) if rows else records(root, (), (), (), ())


def records(root: Path, paths: Iterable[str], ids: Iterable, cams: Iterable, infrared: Iterable) -> Records:
    """A table from any iterables."""
    return Records(
        root,
        tuple(paths),
        np.array(tuple(ids), dtype=np.int64),
        np.array(tuple(cams), dtype=np.int64),
        np.array(tuple(infrared), dtype=bool),
    )


def check_filled(table: Records, what: str, where: Path) -> Records:
    """``table``, once it is known to hold an image."""
    if not len(table):
        raise ValueError(f"no {what} image under {where}")
    return table


def draw_trials(test: Records, cams: Sequence[int], *, infrared: bool, shots: int = 1) -> tuple[Trial, ...]:
    """Ten trials with a random gallery of one modality, each against all images of the other.

    Trial t (0 to 9) seeds Python's generator with t and goes through identities, then cameras, both ascending: of the
    files of one identity and camera, sorted by name, ``random.choice`` draws one, or ``random.sample`` draws ``shots``;
    where there are fewer than ``shots``, all are taken and nothing is drawn. ``test`` has to be in that order.
    """
    rows = np.flatnonzero((test.infrared == infrared) & np.isin(test.cams, cams))
    keys = np.stack([test.ids[rows], test.cams[rows]], axis=1)
    starts = np.flatnonzero(np.any(np.diff(keys, axis=0), axis=1)) + 1
    groups = [group.tolist() for group in np.split(rows, starts) if len(group)]
    query = np.flatnonzero(test.infrared != infrared)
    trials = []
    for seed in range(TRIALS):
        generator = random.Random(seed)
        gallery = [row for group in groups for row in _draw(generator, group, shots)]
        trials.append(Trial(query, np.array(gallery, dtype=np.int64)))
    return tuple(trials)


def _draw(generator: random.Random, group: list[int], shots: int) -> list[int]:
    if shots == 1:
        return [generator.choice(group)]
    return generator.sample(group, shots) if len(group) >= shots else group


def _image_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
    )


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}")
    return path.read_text(encoding="utf-8-sig")
