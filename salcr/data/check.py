"""Is a data set complete? Compares a folder with the published splits and counts, and decodes every image."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from salcr.data._images import Progress, describe, map_images, name_some, read_with_depth, say_left_out
from salcr.data._layout import read_ids
from salcr.data.records import NO_IDENTITY, Dataset, Records
from salcr.data.registry import dataset_named, load_dataset
from salcr.data.spec import DatasetSpec


def check_dataset(
    name: str,
    root: str | Path,
    *,
    decode: bool = True,
    progress: Progress | None = None,
    published_counts: bool = True,
    note: Callable[[str], object] | None = None,
) -> list[str]:
    """Everything that is wrong with the folder of a data set.

    Looked for are split files that are missing or malformed, identities without an image of one modality, identities or
    images in both the train and the test part, images listed twice, counts that differ from the published ones, and
    image files that are missing, empty or do not decode. Where a data set has several splits all are checked.

    Args:
        name: one of :data:`salcr.data.DATASETS`.
        root: its folder.
        decode: decode every image; else only see that the files are there and not empty.
        progress: called with the number of images looked at and their total.
        published_counts: compare counts with the published data set. ``False`` for a synthetic tree, where also only
            those splits are checked that are there.
        note: called with a sentence about each thing that is no problem and good to know: numbers of images and
            identities where none are published, files among the images that are left out, images of more than 8 bits
            that are scaled.

    Returns:
        One sentence a problem; empty if there is none.

    Raises:
        ValueError: an unknown name.
    """
    spec = dataset_named(name)
    root = Path(root)
    if not root.is_dir():
        return [f"no data set folder {root.absolute()}"]
    problems: list[str] = []
    paths: set[str] = set()
    left_out: set[str] = set()
    for trial in _splits(spec, root, published_counts):
        where = f"split {trial}: " if spec.splits > 1 else ""
        absent = [file for file in spec.split_files(trial) if not (root / file).is_file()]
        problems += [f"no split file {root / file}" for file in absent]
        if absent:
            continue
        try:
            dataset = load_dataset(name, root, trial=trial)
        except (OSError, ValueError) as error:
            problems.append(f"{where}{error}")
            continue
        found = [*_identity_problems(spec, dataset), *_overlaps(spec, dataset)]
        if published_counts:
            found += _count_problems(spec, dataset)
        if note and not spec.counts:
            note(where + ", ".join(f"{number:,} {what}" for what, number in _counts(dataset).items()))
        problems += [where + problem for problem in found]
        paths.update(dataset.train_visible.paths, dataset.train_infrared.paths, dataset.test.paths)
        left_out.update(dataset.left_out)
    scaled = []
    for path, deep, error in map_images(_has_depth if decode else _see_file, root, sorted(paths), progress):
        if deep:
            scaled.append(path)
        if isinstance(error, FileNotFoundError):
            problems.append(f"{path} is missing")
        elif error:
            problems.append(f"{path} does not decode: {describe(error)}" if decode else f"{path}: {describe(error)}")
    if note and left_out:
        note(say_left_out(root, sorted(left_out)))
    if note and scaled:
        note(
            f"{len(scaled)} of {len(paths)} images have more than 8 bits a channel, and each is scaled from its own "
            f"smallest and largest value: {name_some(scaled)}"
        )
    return problems


def _splits(spec: DatasetSpec, root: Path, published: bool) -> list[int]:
    splits = list(range(1, spec.splits + 1))
    present = [trial for trial in splits if any((root / file).exists() for file in spec.split_files(trial))]
    return splits if published else present or [1]


def _identity_problems(spec: DatasetSpec, dataset: Dataset) -> list[str]:
    if not spec.identities_are_paired:
        return []
    listed: dict[str, set[int]] = {"train": set(), "test": set()}
    for file, part in spec.identity_files.items():
        listed[part].update(read_ids(dataset.root / file))
    test = dataset.test
    sides = {
        ("train", "visible"): _known(dataset.train_visible),
        ("train", "infrared"): _known(dataset.train_infrared),
        ("test", "visible"): _known(test.subset(~test.infrared)),
        ("test", "infrared"): _known(test.subset(test.infrared)),
    }
    for (part, _), ids in sides.items():
        listed[part].update(ids)
    problems = []
    for (part, side), ids in sides.items():
        if lacking := listed[part] - ids:
            problems.append(f"no {side} {part} image of {_name_identities(lacking)}")
    return problems


def _overlaps(spec: DatasetSpec, dataset: Dataset) -> list[str]:
    train = (*dataset.train_visible.paths, *dataset.train_infrared.paths)
    problems = [
        f"{path} is listed {times} times" for path, times in Counter((*train, *dataset.test.paths)).items() if times > 1
    ]
    if spec.identities_are_joint:
        train_ids = _known(dataset.train_visible) | _known(dataset.train_infrared)
        if shared := train_ids & _known(dataset.test):
            problems.append(f"both train and test have {_name_identities(shared)}")
    return problems


def _count_problems(spec: DatasetSpec, dataset: Dataset) -> list[str]:
    counts = _counts(dataset)
    return [
        f"{counts.get(what, 0):,} {what}, published are {expected:,}"
        for what, expected in spec.counts.items()
        if counts.get(what, 0) != expected
    ]


def _counts(dataset: Dataset) -> dict[str, int]:
    test = dataset.test
    counts = {
        "train identities": len(_known(dataset.train_visible) | _known(dataset.train_infrared)),
        "visible train images": len(dataset.train_visible),
        "infrared train images": len(dataset.train_infrared),
        "test identities": len(_known(test)),
        "visible test images": int((~test.infrared).sum()),
        "infrared test images": int(test.infrared.sum()),
    }
    for protocol in dataset.protocols:
        counts[f"gallery images of {protocol.name}"] = len(protocol.trials[0].gallery)
    return counts


def _known(table: Records) -> set[int]:
    """The identities of a table."""
    return set(table.ids.tolist()) - {NO_IDENTITY}


def _name_identities(ids: Iterable[int]) -> str:
    ids = sorted(ids)
    return f"{'identity' if len(ids) == 1 else 'identities'} {', '.join(map(str, ids))}"


def _has_depth(path: Path) -> bool:
    return read_with_depth(path)[1]


def _see_file(path: Path) -> None:
    if not path.stat().st_size:
        raise ValueError("is empty")
