"""Data sets by name."""

from pathlib import Path

from salcr.data.llcm import load_llcm
from salcr.data.records import Dataset
from salcr.data.regdb import load_regdb
from salcr.data.sysu import load_sysu


def load_dataset(name: str, root: str | Path, *, trial: int = 1) -> Dataset:
    """Load a data set by its name.

    Args:
        name: ``"sysu"``, ``"regdb"`` or ``"llcm"``.
        root: its folder.
        trial: the split of RegDB, 1 to 10; the others have one split and do not read it.

    Returns:
        The data set, see :func:`salcr.data.load_sysu`, :func:`salcr.data.load_regdb` and
        :func:`salcr.data.load_llcm`.

    Raises:
        FileNotFoundError: a folder or split file is missing.
        ValueError: an unknown name, or a split that is empty or malformed.
    """
    if name == "sysu":
        return load_sysu(root)
    if name == "regdb":
        return load_regdb(root, trial)
    if name == "llcm":
        return load_llcm(root)
    raise ValueError(f"name must be sysu, regdb or llcm, got {name!r}")
