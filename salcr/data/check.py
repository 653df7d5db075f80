"""Is a data set complete? Compares a folder with the published splits and counts, and decodes every image."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from salcr.data._images import Progress, describe, map_images, read_image
from salcr.data._layout import read_ids
from salcr.data.load import load_dataset
from salcr.data.records import Dataset
from salcr.data.regdb import SPLITS

SPLIT_FILES = {
    "sysu": ("exp/train_id.txt", "exp/val_id.txt", "exp/test_id.txt"),
    "regdb": tuple(f"idx/{part}_{side}_{{}}.txt" for part in ("train", "test") for side in ("visible", "thermal")),
    "llcm": ("idx/train_vis.txt", "idx/train_nir.txt", "idx/test_id.txt"),
}
PUBLISHED = {
    "sysu": {
        "train identities": 395,
        "visible train images": 22_258,
        "infrared train images": 11_909,
        "test identities": 96,
        "infrared test images": 3_803,
        "gallery images of all-single": 301,
        "gallery images of indoor-single": 112,
    },
    "regdb": {
        "train identities": 206,
        "visible train images": 2_060,
        "infrared train images": 2_060,
        "test identities": 206,
        "visible test images": 2_060,
        "infrared test images": 2_060,
    },
    "llcm": {
        "train identities": 713,
        "visible train images": 16_946,
        "infrared train images": 13_975,
        "test identities": 351,
        "visible test images": 8_680,
        "infrared test images": 7_166,
    },
}


def check_dataset(
    name: str,
    root: str | Path,
    *,
    decode: bool = True,
    progress: Progress | None = None,
    published_counts: bool = True,
) -> list[str]:
    """Everything that is wrong with the folder of a data set.

    Looked for are split files that are missing or malformed, identities without an image of one modality, identities or
    images in both the train and the test part, images listed twice, counts that differ from the published ones, and
    image files that are missing, empty or do not decode. Of RegDB all ten splits are checked.

    Args:
        name: ``"sysu"``, ``"regdb"`` or ``"llcm"``.
        root: its folder.
        decode: decode every image; else only see that the files are there and not empty.
        progress: called with the number of images looked at and their total.
        published_counts: compare counts with the published data set. ``False`` for a synthetic tree, where also only
            those RegDB splits are checked that are there.

    Returns:
        One sentence a problem; empty if there is none.

    Raises:
        ValueError: an unknown name.
    """
    if name not in SPLIT_FILES:
        raise ValueError(f"name must be {', '.join(SPLIT_FILES)}, got {name!r}")
    root = Path(root)
    if not root.is_dir():
        return [f"no data set folder {root}"]
    problems, paths = [], set()
    for trial in _splits(name, root, published_counts):
        where = f"split {trial}: " if name == "regdb" else ""
        absent = [file for file in _split_files(name, trial) if not (root / file).is_file()]
        problems += [f"no split file {root / file}" for file in absent]
        if absent:
            continue
        try:
            dataset = load_dataset(name, root, trial=trial)
        except (OSError, ValueError) as error:
            problems.append(f"{where}{error}")
            continue
        found = [*_identity_problems(dataset), *_overlaps(dataset)]
        if published_counts:
            found += _count_problems(dataset)
        problems += [where + problem for problem in found]
        paths.update(dataset.train_visible.paths, dataset.train_infrared.paths, dataset.test.paths)
    look = read_image if decode else _see_file
    for path, _, error in map_images(look, root, sorted(paths), progress):
        if isinstance(error, FileNotFoundError):
            problems.append(f"{path} is missing")
        elif error:
            problems.append(f"{path} does not decode: {describe(error)}" if decode else f"{path}: {describe(error)}")
    return problems


def _splits(name: str, root: Path, published: bool) -> list[int]:
    if name != "regdb":
        return [1]
    present = [t for t in range(1, SPLITS + 1) if any((root / file).exists() for file in _split_files(name, t))]
    return list(range(1, SPLITS + 1)) if published else present or [1]


def _split_files(name: str, trial: int) -> list[str]:
    return [file.format(trial) for file in SPLIT_FILES[name]]


def _identity_problems(dataset: Dataset) -> list[str]:
    listed = {"train": set(), "test": set()}
    for file in SPLIT_FILES[dataset.name]:
        if file.endswith("_id.txt"):
            listed["test" if "test" in file else "train"].update(read_ids(dataset.root / file))
    test = dataset.test
    sides = {
        ("train", "visible"): dataset.train_visible.ids,
        ("train", "infrared"): dataset.train_infrared.ids,
        ("test", "visible"): test.ids[~test.infrared],
        ("test", "infrared"): test.ids[test.infrared],
    }
    for (part, _), ids in sides.items():
        listed[part].update(ids.tolist())
    problems = []
    for (part, side), ids in sides.items():
        if lacking := listed[part].difference(ids.tolist()):
            problems.append(f"no {side} {part} image of {_name_all('identity', 'identities', lacking)}")
    return problems


def _overlaps(dataset: Dataset) -> list[str]:
    train = (*dataset.train_visible.paths, *dataset.train_infrared.paths)
    problems = [
        f"{path} is listed {times} times" for path, times in Counter((*train, *dataset.test.paths)).items() if times > 1
    ]
    if dataset.name == "sysu":  # elsewhere train labels and test labels are numbered apart
        train_ids = {*dataset.train_visible.ids.tolist(), *dataset.train_infrared.ids.tolist()}
        if shared := train_ids.intersection(dataset.test.ids.tolist()):
            problems.append(f"both train and test have {_name_all('identity', 'identities', shared)}")
    return problems


def _count_problems(dataset: Dataset) -> list[str]:
    test = dataset.test
    train_ids = np.concatenate([dataset.train_visible.ids, dataset.train_infrared.ids])
    counts = {
        "train identities": len(np.unique(train_ids)),
        "visible train images": len(dataset.train_visible),
        "infrared train images": len(dataset.train_infrared),
        "test identities": len(np.unique(test.ids)),
        "visible test images": int((~test.infrared).sum()),
        "infrared test images": int(test.infrared.sum()),
    }
    for protocol in dataset.protocols:
        counts[f"gallery images of {protocol.name}"] = len(protocol.trials[0].gallery)
    return [
        f"{counts.get(what, 0):,} {what}, published are {expected:,}"
        for what, expected in PUBLISHED[dataset.name].items()
        if counts.get(what, 0) != expected
    ]


def _name_all(one: str, many: str, ids: Iterable[int]) -> str:
    ids = sorted(ids)
    return f"{one if len(ids) == 1 else many} {', '.join(map(str, ids))}"


def _see_file(path: Path) -> None:
    if not path.stat().st_size:
        raise ValueError("is empty")
