"""The data set of a run and its decoded images, where the configuration says they are."""

import errno
import functools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from salcr import distributed
from salcr.data import Dataset, Records, load_dataset, open_store
from salcr.data._images import Progress, say_left_out
from salcr.engine.config import Config

logger = logging.getLogger("salcr")


def open_dataset(config: Config) -> Dataset:
    """The data set that ``config.data`` names; files that lie among its images and are not read are named in the log.

    Raises:
        FileNotFoundError, ValueError: no root is set, or what :func:`salcr.data.load_dataset` raises.
    """
    if config.data.root is None:
        raise ValueError("data.root is not set: the folder that holds the data set")
    name, root = config.data.name, config.data.root
    try:
        dataset = load_dataset(name, root, trial=config.data.trial)
    except FileNotFoundError as error:
        if not root.is_dir():
            raise
        raise FileNotFoundError(f"{error}: data.name is {name} (images of your own: data.name=folder)") from error
    if dataset.left_out:
        logger.warning(say_left_out(dataset.root, dataset.left_out))
    return dataset


def open_images(records: Records, config: Config) -> np.ndarray:
    """The pixels of ``records`` at the training size; see :func:`salcr.data.open_store`.

    Of several processes one decodes them, and the others on its machine find the file.

    The store lies in ``config.data.cache``, else in ``.salcr-cache`` below the data set's root, else, where nothing can
    be written there, in ``salcr/images`` of the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``); the log says
    so.
    """
    if not len(records):
        raise ValueError(f"{records.root} has no images to train on")
    return distributed.in_turn(lambda: _open_images(records, config))


def _open_images(records: Records, config: Config) -> np.ndarray:
    size = dict(height=config.data.height, width=config.data.width)
    cache = config.data.cache or records.root / ".salcr-cache"
    with counting("decoding images") as progress:
        try:
            return open_store(records, **size, cache=cache, progress=progress)
        except OSError as error:
            if config.data.cache is not None or not _is_closed(cache, error):
                raise
        own = _user_cache()
        _say_where(cache, own)
        try:
            return open_store(records, **size, cache=own, progress=progress)
        except OSError as error:
            if not _is_closed(own, error):
                raise
            raise OSError(
                error.errno, f"neither {cache} nor {own} can be written: set data.cache to a folder that can"
            ) from error


@functools.cache  # a run opens several stores
def _say_where(cache: Path, own: Path) -> None:
    logger.warning("%s cannot be written: decoded images are kept in %s (data.cache=DIR changes that)", cache, own)


def _is_closed(folder: Path, error: OSError) -> bool:
    """Whether ``error`` says that one may not write in ``folder``."""
    named = error.filename is not None and Path(error.filename).is_relative_to(folder)
    return named and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)


def _user_cache() -> Path:
    """``salcr/images`` in the user's cache folder, by the XDG base directory specification."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not home.is_absolute():
        raise ValueError("the user has no folder for caches: set data.cache to a folder that can be written")
    return home / "salcr/images"


@contextmanager
def counting(title: str) -> Iterator[Progress]:
    """A function to call with what is done and the total: a bar on a terminal, elsewhere one line at the start."""
    from tqdm import tqdm

    with tqdm(desc=title, leave=False, delay=1, disable=not shows_bars()) as bar:

        def show(done: int, total: int) -> None:
            if done == 1 and bar.disable:
                logger.info("%s: %d", title, total)
            bar.total = total
            bar.update(done - bar.n)

        yield show


def shows_bars() -> bool:
    """Whether there is a terminal for progress bars, which only the first of several processes writes to."""
    return hasattr(sys.stderr, "isatty") and sys.stderr.isatty() and distributed.rank() == 0
