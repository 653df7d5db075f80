"""Cells of an index, by faiss, which an approximate search looks at a few of: made once and kept beside the features.

``cells.faiss`` is a file of faiss's: centroids, and in the cell of the nearest of them each feature in 8 bits an
element. faiss picks candidates from it, mapped as it lies; their scores are those of the features themselves.
``cells.json`` says which features it is of.
"""

import logging
import math
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from salcr import ops
from salcr.retrieval.kept import Kept, blocks, read_about, replaced, write_about
from salcr.retrieval.nearest import Found, nearest
from salcr.retrieval.storage import Storage, locked

logger = logging.getLogger("salcr")
CELLS, ABOUT = "cells.faiss", "cells.json"
PROBED = 16
"""One of so many cells is searched."""
SAMPLE, ROUNDS = 40, 10
"""Features that k-means sees for each cell, and its rounds."""
GROWN = 2
"""Cells take new features until the index has so many times those that they were trained for."""
CANDIDATES = 4
"""Rows that faiss gives for each one that is asked for."""
CHECKED, CHECKED_TOP = 32, 20
"""Queries that the approximate search is compared with the exact one for; images that are found for each."""
BLOCK_BYTES = 1 << 26
"""Features in float32 that are in memory at a time while cells are filled."""


@dataclass(frozen=True)
class About(Kept):
    """What ``cells.json`` says.

    Attributes:
        trained_rows: how many the index had when the centroids were placed.
        length: of ``cells.faiss``, in bytes.
        head_crc: CRC-32 of the part of it before what it has for each feature.
        recall: on images of the index, see :meth:`Cells.nearest`.
    """

    trained_rows: int
    length: int
    head_crc: int
    recall: float


class Cells:
    """An index's features in cells; :func:`open_cells` has them."""

    def __init__(self, storage: Storage, index: Any, recall: float | None = None) -> None:
        index.nprobe = -(-index.nlist // PROBED)
        self._storage, self._index = storage, index
        self.recall = self._own_recall() if recall is None else recall

    def nearest(self, queries: torch.Tensor, top: int) -> tuple[Found, float]:
        """As :func:`salcr.retrieval.nearest.nearest`, but some may not be found; and the recall.

        The recall is the share of the exact search's rows that are found: for the first :data:`CHECKED` queries where
        there are more than these, so that it takes little of the time, else for as many images of the index, when its
        cells were made.
        """
        found = self._search(queries, top)
        if len(queries) <= CHECKED:
            return found, self.recall
        return found, share(nearest(self._storage, queries[:CHECKED], top)[1], found[1][:CHECKED])

    def _search(self, queries: torch.Tensor, top: int) -> Found:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        rows = self._storage.manifest.rows
        asked = F.normalize(queries.to("cpu", torch.float32), dim=1)
        _, candidates = self._index.search(asked.numpy(), min(CANDIDATES * top, rows))
        features = self._storage.features(0, rows)
        scores, places = [], []
        for query, near in zip(queries, candidates, strict=True):
            near = np.unique(near[(near >= 0) & (near < rows)])  # equal scores come in the order of their rows
            if len(near) < top:
                found, at = nearest(self._storage, query[None], top)
            else:
                gallery = torch.from_numpy(features[near]).to(queries.device, torch.float32)
                found, at = ops.knn(query[None], top, database=gallery)
                at = torch.from_numpy(near).to(at.device)[at]
            scores.append(found)
            places.append(at)
        return torch.cat(scores), torch.cat(places)

    def _own_recall(self) -> float:
        """For images of the index as queries, which need not find themselves."""
        rows = self._storage.manifest.rows
        chosen, top = _spread(rows, CHECKED), min(CHECKED_TOP + 1, rows)
        if top == 1:
            return 1.0
        queries, itself = read_unit(self._storage, chosen), torch.from_numpy(chosen)[:, None]
        found = self._search(queries, top)[1]
        exact = nearest(self._storage, queries, top)[1]
        return share(exact.masked_fill(exact == itself, -1), found)


def open_cells(storage: Storage) -> Cells:
    """The cells that are kept with an index; the log says so where they have to be made, or made anew, and why.

    Cells of an index that has grown take the new features; they are made anew where it has grown to more than
    :data:`GROWN` times what it was, where its features are others, or where the file is damaged.

    Raises:
        ValueError: faiss is not installed; a feature has NaN or Inf.
    """
    try:
        import faiss
    except ImportError as error:
        raise ValueError(f"an approximate search needs faiss (pip install 'salcr[faiss]'): {error}") from error

    folder, manifest = storage.folder, storage.manifest
    about = read_about(folder / ABOUT, About)
    faiss.omp_set_num_threads(torch.get_num_threads())
    if about is None or not 0 <= about.recall <= 1:
        return _make(storage, f"cells for the approximate search of {folder} are made, once")
    if not _is_intact(folder / CELLS, about, manifest.dimension):
        return _make(storage, f"{folder / CELLS} is damaged: cells are made anew")
    if about.fits(storage):
        index = _read(folder / CELLS, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        if index is None or index.ntotal != about.rows:
            return _make(storage, f"{folder / CELLS} is damaged: cells are made anew")
        return Cells(storage, index, about.recall)
    if not about.can_grow(storage):
        return _make(storage, f"the features of {folder} are not those its cells are of: cells are made anew")
    grown = f"{folder} has grown from {about.rows:,} to {manifest.rows:,} features"
    index = _read(folder / CELLS) if manifest.rows <= GROWN * about.trained_rows else None
    if index is None or index.ntotal != about.rows:
        return _make(storage, f"{grown}: cells are made anew")
    logger.info("%s: its cells take the new ones", grown)
    return _fill(storage, index, about.trained_rows)


def share(exact: torch.Tensor, found: torch.Tensor) -> float:
    """The share of the rows ``exact [Q, k]`` that ``found [Q, k]`` has; -1 is none."""
    hits = (exact[:, :, None] == found[:, None]).any(2)[exact >= 0]
    return float(hits.float().mean())


def read_unit(storage: Storage, rows: slice | np.ndarray) -> torch.Tensor:
    """Some features in float32, of length 1.

    Raises:
        ValueError: one has NaN or Inf.
    """
    features = torch.from_numpy(storage.features(0, storage.manifest.rows)[rows]).float()
    if not features.isfinite().all():
        raise ValueError(f"{storage.folder} has features with NaN or Inf")
    return F.normalize(features, dim=1)


def _make(storage: Storage, why: str) -> Cells:
    """New cells, as many as the square root of the number of features."""
    import faiss

    rows, width = storage.manifest.rows, storage.manifest.dimension
    cells = math.isqrt(rows)
    logger.info("%s: %s for %s features", why, f"{cells:,}", f"{rows:,}")
    metric = faiss.METRIC_INNER_PRODUCT
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlat(width, metric), width, cells, kind, metric)
    index.cp.niter, index.cp.min_points_per_centroid = ROUNDS, 1
    index.train(read_unit(storage, _spread(rows, SAMPLE * cells)).numpy())
    return _fill(storage, index, rows)


def _fill(storage: Storage, index: Any, trained_rows: int) -> Cells:
    """Put the features that ``index`` does not have yet into its cells, and keep it with them."""
    start = time.monotonic()
    for rows in blocks(index.ntotal, storage.manifest.rows, storage.manifest.dimension, BLOCK_BYTES):
        index.add(read_unit(storage, rows).numpy())
    cells = Cells(storage, index)
    try:
        length = _keep(storage, index, trained_rows, cells.recall)
    except (OSError, RuntimeError, TypeError) as error:  # the last are faiss's, of a full disk and of odd names
        logger.warning("the cells are not kept, the next search makes them again: %s", " ".join(str(error).split()))
    else:
        seconds = time.monotonic() - start
        logger.info("cells: %s, %.1f MB, filled in %.0f s", storage.folder / CELLS, length / 1e6, seconds)
    return cells


def _keep(storage: Storage, index: Any, trained_rows: int, recall: float) -> int:
    import faiss

    manifest = storage.manifest
    with locked(storage.folder):
        with replaced(storage.folder / CELLS) as path:
            faiss.write_index(index, str(path))
            length = path.stat().st_size
            head = _head_checksum(path, length, manifest.rows, manifest.dimension)
        about = About(manifest.rows, manifest.features_crc, trained_rows, length, head, recall)
        write_about(storage.folder / ABOUT, about)
    return length


def _is_intact(path: Path, about: About, width: int) -> bool:
    """Whether the file is as long as it was, and its head, by which faiss reads the rest, is what it was.

    The rest are features in 8 bits, of which candidates are chosen, and their rows, which are looked at in the search.
    """
    try:
        return path.stat().st_size == about.length and about.head_crc == _head_checksum(
            path, about.length, about.rows, width
        )
    except OSError:
        return False


def _head_checksum(path: Path, length: int, rows: int, width: int) -> int:
    with path.open("rb") as file:
        return zlib.crc32(file.read(max(0, length - rows * (width + 8))))


def _read(path: Path, flags: int = 0) -> Any | None:
    import faiss

    try:
        return faiss.read_index(str(path), flags)
    except (RuntimeError, TypeError, MemoryError):
        return None


def _spread(rows: int, count: int) -> np.ndarray:
    """``count`` rows at even distances, or all where there are no more."""
    return np.linspace(0, rows - 1, min(count, rows)).astype(np.int64)
