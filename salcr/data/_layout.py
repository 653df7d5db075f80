"""What the published folder layouts have in common: identity files, image lists, camera folders, gallery draws."""

import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from salcr.data._images import SUFFIXES
from salcr.data.records import Records, Trial

TRIALS = 10
PATH_MAX, NAME_MAX = 4096, 255
_NUMBER = re.compile(r"[0-9]{1,18}")


def open_root(root: str | Path) -> Path:
    """``root`` as a path, once it is known to be a folder."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no data set folder {root.absolute()}")
    return root


def read_ids(path: Path) -> list[int]:
    """The identities of a file that holds one comma-separated line, ascending, each once."""
    tokens = [token.strip() for token in _read_text(path).replace("\n", ",").split(",")]
    tokens = [token for token in tokens if token]
    for token in tokens:
        if not _NUMBER.fullmatch(token):
            raise ValueError(f"{path} must hold identity numbers parted by commas, got {token[:80]!r}")
    if not tokens:
        raise ValueError(f"{path} names no identity")
    return sorted({int(token) for token in tokens})


def read_list(path: Path) -> list[tuple[str, int]]:
    """Path and label of each line ``path label`` of a file, in its order; no path leads out of the data set."""
    found = []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        name = name.strip().replace("\\", "/")
        if not name or not _NUMBER.fullmatch(label) or not _is_inside(name):
            raise ValueError(
                f"{path}, line {number}: must read 'path label' with a path below the data set's folder, "
                f"got {line[:200]!r}"
            )
        found.append((name.removeprefix("./"), int(label)))
    if not found:
        raise ValueError(f"{path} names no image")
    return found


def scan_cameras(
    root: Path, folders: Sequence[tuple[str, int, bool]], ids: Iterable[int]
) -> tuple[Records, tuple[str, ...]]:
    """The images under ``root/FOLDER/PPPP``, by identity, then folder, then file name, and what else lies there.

    ``folders`` names each camera folder, its camera number, and whether it is infrared. Absent folders are skipped.
    """
    rows, left_out = [], []
    for identity in ids:
        for folder, cam, infrared in folders:
            place = f"{folder}/{identity:04d}"
            for name in _list_folder(root / place):
                if is_image(name):
                    rows.append((f"{place}/{name}", identity, cam, infrared))
                else:
                    left_out.append(f"{place}/{name}")
    return records(root, rows), tuple(left_out)


def files_below(folder: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Files at any depth below ``folder``, whose own folders are ``above``; nothing hidden, nothing if it is absent.

    As strings: a hundred thousand of :class:`pathlib.Path` take seconds.
    """
    if not above and not os.path.lexists(folder):
        return
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise ValueError(f"{folder} is, by a link, a folder that it lies in")
    with os.scandir(folder) as listing:
        entries = [entry for entry in listing if not entry.name.startswith(".")]
    for entry in entries:
        if entry.is_dir():
            yield from files_below(entry.path, (*above, here))
        else:
            yield entry.path


def is_image(name: str) -> bool:
    """Whether a file's name ends like an image's."""
    return name.lower().endswith(SUFFIXES)


def records(root: Path, rows: Sequence[tuple[str, int, int, bool]]) -> Records:
    """A table of rows ``(path, identity, camera, infrared)``."""
    paths, ids, cams, infrared = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Records(root, paths, np.array(ids, np.int64), np.array(cams, np.int64), np.array(infrared, bool))


def check_filled(table: Records, what: str, where: Path) -> Records:
    """``table``, once it is known to hold an image."""
    if not len(table):
        raise ValueError(f"no {what} image under {where}" + ("" if where.is_dir() else ", which is no folder"))
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


def _list_folder(folder: Path) -> list[str]:
    """Names in the folder, sorted; nothing hidden, nothing where there is none."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_inside(name: str) -> bool:
    """Whether a name could be a file's below the data set's folder."""
    parts = PurePosixPath(name).parts
    inside = not PurePosixPath(name).is_absolute() and not PureWindowsPath(name).drive and ".." not in parts
    return inside and "\0" not in name and len(name) < PATH_MAX and all(len(part) <= NAME_MAX for part in parts)


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}")
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape")  # file names are bytes
