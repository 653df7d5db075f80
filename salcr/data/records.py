"""The tables every data set is loaded into: images, trials and protocols."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NO_IDENTITY = -1
"""In place of the identity number of an image where nobody knows it."""


@dataclass(frozen=True, eq=False)
class Records:
    """A table of images, one row an image.

    Attributes:
        root: folder of the data set.
        paths: of every image, relative to ``root``, with forward slashes.
        ids: ``[N]``, int64: identity numbers as the data set names them, from 0; ``NO_IDENTITY`` (-1) where unknown. Of
            training images they are for metrics only.
        cams: ``[N]``, int64: camera numbers as the data set names them.
        infrared: ``[N]``, bool: the image is infrared (thermal, near-infrared), else visible.
    """

    root: Path
    paths: tuple[str, ...]
    ids: np.ndarray
    cams: np.ndarray
    infrared: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in (("ids", np.int64), ("cams", np.int64), ("infrared", np.bool_)):
            column = getattr(self, name)
            if not isinstance(column, np.ndarray) or column.dtype != dtype:
                raise TypeError(f"{name} must be an array of {dtype.__name__}, got {getattr(column, 'dtype', column)}")
            if column.shape != (len(self.paths),):
                raise ValueError(f"{name} must have {len(self.paths)} entries, one a path, got shape {column.shape}")

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, index: np.ndarray | Sequence[int]) -> "Records":
        """The rows that ``index`` names: row numbers in any order (repeats allowed), or a mask of ``N`` booleans."""
        index = np.asarray(index)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise ValueError(f"index is a mask of shape {index.shape} for {len(self)} rows")
            index = np.flatnonzero(index)
        index = index.astype(np.int64, casting="same_kind" if index.size else "unsafe")
        paths = tuple(self.paths[i] for i in index)
        return Records(self.root, paths, self.ids[index], self.cams[index], self.infrared[index])


@dataclass(frozen=True, eq=False)
class Trial:
    """One draw of a protocol: ``query`` and ``gallery`` are int64 row numbers into ``Dataset.test``."""

    query: np.ndarray
    gallery: np.ndarray


@dataclass(frozen=True, eq=False)
class Protocol:
    """A way to evaluate: its trials are averaged, each ranked by ``rule`` of :func:`salcr.ops.evaluate_ranking`."""

    name: str
    rule: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: the training images of each modality, the test images of both, and the protocols over them.

    ``left_out`` are paths below ``root`` that lie among the images and, by their names, are none.
    """

    name: str
    root: Path
    train_visible: Records
    train_infrared: Records
    test: Records
    protocols: tuple[Protocol, ...]
    left_out: tuple[str, ...] = ()
