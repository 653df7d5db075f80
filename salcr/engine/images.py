"""The data set of a run and its decoded images, where the configuration says they are."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from salcr.data import Dataset, Records, load_dataset, open_store
from salcr.data._images import Progress
from salcr.engine.config import Config

logger = logging.getLogger("salcr")


def open_dataset(config: Config) -> Dataset:
    """The data set that ``config.data`` names.

    Raises:
        FileNotFoundError, ValueError: no root is set, or what :func:`salcr.data.load_dataset` raises.
    """
    if config.data.root is None:
        raise ValueError("data.root is not set: the folder that holds the data set")
    return load_dataset(config.data.name, config.data.root, trial=config.data.trial)


def open_images(records: Records, config: Config) -> np.ndarray:
    """The pixels of ``records`` at the training size; see :func:`salcr.data.open_store`."""
    if not len(records):
        raise ValueError(f"{records.root} has no images to train on")
    cache = config.data.cache or records.root / ".salcr-cache"
    with counting("decoding images") as progress:
        return open_store(records, height=config.data.height, width=config.data.width, cache=cache, progress=progress)


@contextmanager
def counting(title: str) -> Iterator[Progress]:
    """A function to call with what is done and the total: a bar on a terminal, elsewhere one line at the start."""
    from tqdm import tqdm

    with tqdm(desc=title, leave=False, delay=1, disable=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            if done == 1 and bar.disable:
                logger.info("%s: %d", title, total)
            bar.total = total
            bar.update(done - bar.n)

        yield show
