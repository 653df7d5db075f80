"""Codes of a large index's features in 8 bits, which the exact search on a CPU reads in their place: half the bytes.

``salcr index`` makes them when an index has :data:`LEAST_BYTES` of features in float16, and lets them grow with it.
``codes.bin`` is ``[N, D + 8]``, bytes of :func:`salcr.ops.knn.code_rows`; ``codes.json`` says which features it is of.
A search with codes finds what one without them finds, so nothing is lost where they are missing but time.
"""

import logging
import time
import zlib
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch

from salcr.ops.knn import code_bytes, code_rows, reads_in_place
from salcr.retrieval.kept import Kept, blocks, read_about, replaced, write_about
from salcr.retrieval.storage import Storage, file_checksum, locked, sync

logger = logging.getLogger("salcr")
CODES, ABOUT = "codes.bin", "codes.json"
FORMAT = 1
LEAST_BYTES = 1 << 28
"""Features of fewer are read as they are: a search takes less than a tenth of a second."""
WIDEST = 1 << 16
"""Elements of a feature, at most."""
BLOCK_BYTES = 1 << 24
"""Features in float32 that are in memory at a time while codes are made."""
ANEW = "`salcr index --append` makes it anew"


@dataclass(frozen=True)
class About(Kept):
    """What ``codes.json`` says.

    Attributes:
        codes_crc: CRC-32 of what counts of ``codes.bin``.
        format: of the codes.
    """

    codes_crc: int
    format: int


def read_codes(storage: Storage) -> np.ndarray | None:
    """The codes of all features, mapped read-only and shared; None where there are none that fit."""
    about = read_about(storage.folder / ABOUT, About)
    if about is None or not _can_have(storage):
        return None
    if not about.fits(storage) or about.format != FORMAT:
        logger.info("%s are of other features than the index has now, and not read: %s", storage.folder / CODES, ANEW)
        return None
    shape = (about.rows, code_bytes(storage.manifest.dimension))
    try:
        return np.memmap(storage.folder / CODES, np.uint8, "r", shape=shape)
    except (OSError, ValueError) as error:  # the last of a file that is too short
        warn_of_damage(storage, str(error))
        return None


def warn_of_damage(storage: Storage, why: str) -> None:
    """The log says that codes are not used."""
    logger.warning("%s is damaged and not read: %s; %s", storage.folder / CODES, why, ANEW)


def keep_codes(storage: Storage) -> None:
    """Make the codes of an index that is large enough, or of the features that it has more than its codes.

    All that is there is read: codes of other features, or damaged ones, are made anew. The log says what is done, and
    why codes could not be kept.
    """
    manifest, path = storage.manifest, storage.folder / CODES
    if not _can_have(storage) or manifest.rows * manifest.row_bytes < LEAST_BYTES:
        return
    start = time.monotonic()
    try:
        with locked(storage.folder):
            about = read_about(storage.folder / ABOUT, About)
            if about is not None and not _is_intact(storage, about):
                about = None
            if about is not None and about.fits(storage):
                return
            if about is not None and about.can_grow(storage):
                with path.open("r+b") as file:
                    file.seek(file.truncate(about.rows * code_bytes(manifest.dimension)))
                    checksum = _write(storage, file, about.rows, about.codes_crc)
            else:
                with replaced(path) as temporary, temporary.open("wb") as file:
                    checksum = _write(storage, file, 0, 0)
            write_about(storage.folder / ABOUT, About(manifest.rows, manifest.features_crc, checksum, FORMAT))
    except (OSError, ValueError) as error:  # the last of features with NaN or Inf
        logger.warning("codes are not kept, which makes a search slower: %s", error)
        return
    size, seconds = path.stat().st_size / 1e6, time.monotonic() - start
    logger.info("codes for the exact search: %s, %.1f MB, in %.0f s", path, size, seconds)


def verify_codes(storage: Storage) -> None:
    """Read every byte of the codes, if there are any that a search would read.

    Raises:
        ValueError: they are damaged; the message names the file.
    """
    about = read_about(storage.folder / ABOUT, About)
    if about is not None and _can_have(storage) and about.fits(storage) and not _is_intact(storage, about):
        raise ValueError(f"{storage.folder / CODES} is damaged: its checksum is not the one in {ABOUT}; {ANEW}")


def _can_have(storage: Storage) -> bool:
    """Whether this machine, and the backend that was asked for, read features of this kind by their codes."""
    manifest = storage.manifest
    queries = torch.empty(0, manifest.dimension, dtype=torch.float32, device="cpu")
    return manifest.dimension <= WIDEST and reads_in_place(queries, queries.to(getattr(torch, manifest.dtype)))


def _is_intact(storage: Storage, about: About) -> bool:
    path, length = storage.folder / CODES, about.rows * code_bytes(storage.manifest.dimension)
    try:
        whole = path.stat().st_size >= length and file_checksum(path, 0, length) == about.codes_crc
    except OSError:
        return False
    return whole and about.format == FORMAT


def _write(storage: Storage, file: BinaryIO, start: int, checksum: int) -> int:
    """Append the codes of the features from ``start`` on and put them on the disk; the checksum of all."""
    for rows in blocks(start, storage.manifest.rows, storage.manifest.dimension, BLOCK_BYTES):
        codes = code_rows(torch.from_numpy(storage.features(rows.start, rows.stop))).numpy()
        file.write(codes.data)
        checksum = zlib.crc32(codes.data, checksum)
    sync(file)
    return checksum
