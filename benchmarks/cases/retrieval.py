"""Search of a batch of features in an index on the disk; a million of them are in :mod:`benchmarks.million`."""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import salcr
from benchmarks.case import Case
from benchmarks.cases.knn import same_neighbours
from benchmarks.features import pedestrians
from salcr import ops
from salcr.retrieval.codes import keep_codes
from salcr.retrieval.nearest import mapped, nearest
from salcr.retrieval.storage import Manifest, Storage

TOP = 20
QUERIES = 32
PIECE = 10_000  # rows of the index that are made at a time


def write_index(folder: Path, rows: int, width: int) -> tuple[Storage, torch.Tensor]:
    """An index of features in float16, and queries."""
    some = pedestrians(min(rows, PIECE) + QUERIES, width)
    queries, some = some[:QUERIES].clone(), some[QUERIES:]
    generator = torch.Generator().manual_seed(0)
    with Storage.create(folder, Manifest("", "", 288, 144, "visible", "float16", width)).writing() as writer:
        for start in range(0, rows, len(some)):
            features = some + 0.01 * torch.randn(1, width, generator=generator)  # no two rows are the same
            paths = [f"{row:07}.jpg" for row in range(start, start + len(some))]
            writer.add(paths, np.zeros(len(some), bool), torch.nn.functional.normalize(features).numpy())
        writer.commit(complete=True)
    return Storage(folder), queries


def _inputs(device: str, quick: bool) -> tuple[Storage, torch.Tensor]:
    """An index with codes in a temporary folder, which the process removes as it ends, and queries."""
    folder = Path(tempfile.mkdtemp(prefix="salcr-index-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    storage, queries = write_index(folder, *((400, 64) if quick else (100_000, 2048)))
    keep_codes(storage)
    return storage, queries.to(device)


def _whole(storage: Storage, queries: torch.Tensor) -> Sequence[torch.Tensor]:
    """What one writes with NumPy: all features as float32, one product, a partial sort."""
    features = np.asarray(storage.features(0, storage.manifest.rows), dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    asked = queries.numpy() / np.linalg.norm(queries.numpy(), axis=1, keepdims=True)
    scores = asked @ features.T
    some = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
    order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
    some = np.take_along_axis(some, order, 1)
    return torch.from_numpy(np.take_along_axis(scores, some, 1)), torch.from_numpy(some)


def search_blocks(storage: Storage, queries: torch.Tensor, top: int = TOP) -> Sequence[torch.Tensor]:
    """As an index is searched where nothing compiled is there: block by block, each converted to float32."""
    with salcr.use_backend("eager"):
        return nearest(storage, queries, top)


def search_features(storage: Storage, queries: torch.Tensor, top: int = TOP) -> Sequence[torch.Tensor]:
    """As an index without codes is searched: its features are read once, as they lie."""
    return ops.knn(queries, top, database=mapped(storage.shared_features()))


def _search(storage: Storage, queries: torch.Tensor) -> Sequence[torch.Tensor]:
    return nearest(storage, queries, TOP)


CASES = (
    Case(
        "index-search",
        f"{QUERIES} features of 2048 in an index of 100,000 in float16 on the disk, the {TOP} nearest",
        _inputs,
        {"reference": _whole, "eager": search_blocks, "cpp": search_features, "auto": _search},
        same_neighbours,
        floor_bytes=lambda storage, queries: storage.manifest.rows * storage.manifest.dimension,
        floor_flops=lambda storage, queries: 2 * len(queries) * storage.manifest.rows * storage.manifest.dimension,
    ),
)
