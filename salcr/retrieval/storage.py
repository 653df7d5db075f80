"""The files of an index.

``features.npy`` ``[N, D]``, ``infrared.npy`` ``[N]`` and ``paths.jsonl`` (a JSON string a line) grow together;
``manifest.json`` says how much of them counts, with a checksum of each. It is replaced, in one rename, after what it
counts is on the disk: whatever a killed process leaves beyond that is cut off by the next one that writes.
"""

import io
import itertools
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from salcr.files import naming, write_atomically

FORMAT = 1
DTYPES = ("float16", "float32")
MANIFEST, FEATURES, INFRARED, PATHS = "manifest.json", "features.npy", "infrared.npy", "paths.jsonl"
PIECE = 1 << 22  # bytes that are read at a time
LARGEST_MANIFEST = 1 << 16


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says.

    Attributes:
        network: hash of the weights that the features are of, see :func:`salcr.models.checkpoints.network_hash`.
        checkpoint: the file they were read from.
        height, width: of the images, in pixels, as the network saw them.
        modality: ``"infrared"``, ``"visible"`` or ``"auto"``, as the images were taken.
        dtype: of the features.
        dimension: D.
        rows: N, images that count.
        path_bytes: length of the part of ``paths.jsonl`` that counts.
        features_crc, infrared_crc, paths_crc: CRC-32 of what counts of each file, without the headers.
        complete: all images that were asked for are in it.
    """

    network: str
    checkpoint: str
    height: int
    width: int
    modality: str
    dtype: str
    dimension: int
    rows: int = 0
    path_bytes: int = 0
    features_crc: int = 0
    infrared_crc: int = 0
    paths_crc: int = 0
    complete: bool = False
    format: int = FORMAT

    @property
    def row_bytes(self) -> int:
        return self.dimension * np.dtype(self.dtype).itemsize


class Storage:
    """An index's folder as its manifest says it is.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: it is damaged, or of another version; the message, one line, names the file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder / MANIFEST)
        self._headers = _headers(self.manifest)
        for name, dtype, shape in _arrays(self.manifest):
            self._check_array(name, dtype, shape)
        self._check_length(PATHS, self.manifest.path_bytes)
        self._lines = self._find_lines()

    @staticmethod
    def exists(folder: str | Path) -> bool:
        """Whether an index has been begun in ``folder``."""
        return (Path(folder) / MANIFEST).exists()

    @staticmethod
    def is_free(folder: Path, manifest: Manifest) -> bool:
        """Whether ``folder`` holds nothing but hidden files and what a :meth:`create` that was cut off has left."""
        empty = {PATHS: b"", **_headers(manifest)}
        return all(
            path.name.startswith(".") or (path.name in empty and path.stat().st_size <= len(empty[path.name]))
            for path in folder.iterdir()
        )

    @staticmethod
    def create(folder: Path, manifest: Manifest) -> "Storage":
        """An empty index."""
        for name, header in _headers(manifest).items():
            write_atomically(folder / name, header)
        write_atomically(folder / PATHS, b"")
        _write_manifest(folder, manifest)
        return Storage(folder)

    def features(self, start: int, end: int) -> np.ndarray:
        """Rows ``start`` to ``end`` of the features, memory-mapped; what is written to them stays in memory."""
        return self._rows(FEATURES, self.manifest.dtype, start, end, self.manifest.dimension)

    def shared_features(self) -> np.ndarray:
        """All features, mapped read-only and shared: what has been read of them can leave a process's memory."""
        return self._rows(FEATURES, self.manifest.dtype, 0, self.manifest.rows, self.manifest.dimension, mode="r")

    def infrared(self) -> np.ndarray:
        """``[N]``, bool: which images are infrared."""
        return np.array(self._rows(INFRARED, "bool", 0, self.manifest.rows, 1)[:, 0])

    def path(self, row: int) -> str:
        """The path of an image."""
        with (self.folder / PATHS).open("rb") as file:
            file.seek(self._lines[row])
            return self._decode(row, file.read(self._lines[row + 1] - self._lines[row]))

    def paths(self) -> Iterator[str]:
        """The paths of all images, in order."""
        with (self.folder / PATHS).open("rb") as file:
            yield from itertools.starmap(self._decode, enumerate(itertools.islice(file, self.manifest.rows)))

    def verify(self) -> None:
        """Read every byte that counts.

        Raises:
            ValueError: the checksum of a file is not the manifest's.
        """
        now = self.manifest
        if self.features_checksum(now.rows) != now.features_crc:
            raise _damaged(self.folder / FEATURES, f"its checksum is not the one in {MANIFEST}")
        if self._checksum(INFRARED, now.rows) != now.infrared_crc:
            raise _damaged(self.folder / INFRARED, f"its checksum is not the one in {MANIFEST}")

    def features_checksum(self, rows: int) -> int:
        """CRC-32 of the first ``rows`` features, which are read for it."""
        return self._checksum(FEATURES, rows * self.manifest.row_bytes)

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """A writer over what counts, once that has been verified.

        Raises:
            ValueError: as :meth:`verify`.
            OSError: the files cannot be written, or another process writes to the index, or has since it was opened.
        """
        with locked(self.folder):
            if _read_manifest(self.folder / MANIFEST) != self.manifest:  # what that one wrote would be cut off
                raise BlockingIOError(f"another process has written to the index {self.folder} in the meantime")
            self.verify()
            writer = Writer(self.folder, self.manifest)
            try:
                yield writer
            finally:
                writer.close()

    def _checksum(self, name: str, length: int) -> int:
        return file_checksum(self.folder / name, len(self._headers[name]), length)

    def _decode(self, row: int, line: bytes) -> str:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, str):
            raise _damaged(self.folder / PATHS, f"line {row + 1} is no path")
        return found

    def _rows(self, name: str, dtype: str, start: int, end: int, columns: int, mode: str = "c") -> np.ndarray:
        if start == end:
            return np.empty((0, columns), dtype)
        shape = (end - start, columns)
        offset = len(self._headers[name]) + start * columns * np.dtype(dtype).itemsize
        return np.memmap(self.folder / name, dtype=dtype, mode=mode, offset=offset, shape=shape)

    def _check_array(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        """The file is as long as it must be, and its header is of this dtype and width, whatever its number of rows."""
        path, start = self.folder / name, len(self._headers[name])
        self._check_length(name, start + math.prod(shape) * np.dtype(dtype).itemsize)
        with path.open("rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                found = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else None
            except Exception:  # a damaged header makes the reader raise nearly anything
                found = None
            same = found is not None and found[0][1:] == shape[1:] and found[1:] == (False, np.dtype(dtype))
            if not same or file.tell() != start:
                raise _damaged(path, f"its header is not that of {dtype} {shape}")

    def _check_length(self, name: str, least: int) -> None:
        length = (self.folder / name).stat().st_size
        if length < least:
            raise _damaged(self.folder / name, f"it has {length:,} bytes, and {MANIFEST} counts {least:,}")

    def _find_lines(self) -> np.ndarray:
        """Where each path begins, and the end, ``[N + 1]``."""
        ends, checksum, at = [np.zeros(1, np.int64)], 0, 0
        for piece in _pieces(self.folder / PATHS, 0, self.manifest.path_bytes):
            checksum = zlib.crc32(piece, checksum)
            ends.append(np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n")) + (at + 1))
            at += len(piece)
        lines = np.concatenate(ends)
        if checksum != self.manifest.paths_crc or len(lines) != self.manifest.rows + 1:
            raise _damaged(self.folder / PATHS, f"it is not what {MANIFEST} was written for")
        return lines


class Writer:
    """Appends images to an index; :meth:`commit` makes them count."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest, self.committed = folder, manifest, manifest
        self._files: dict[str, BinaryIO] = {}
        ends = {PATHS: manifest.path_bytes, INFRARED: manifest.rows, FEATURES: manifest.rows * manifest.row_bytes}
        headers = _headers(manifest)
        for name, end in ends.items():
            file = self._files[name] = (folder / name).open("r+b")
            file.truncate(len(headers.get(name, b"")) + end)
            file.seek(0, os.SEEK_END)

    def add(self, paths: Sequence[str], infrared: np.ndarray, features: np.ndarray) -> None:
        """Append images: their paths, ``[B]`` bool, and ``[B, D]``.

        Raises:
            OSError: they cannot be written (a full disk).
        """
        now = self.manifest
        with np.errstate(under="ignore"):  # float16 may have zero for a number, whatever a program has NumPy do then
            rows = np.ascontiguousarray(features, dtype=now.dtype).data
        lines = "".join(json.dumps(path) + "\n" for path in paths).encode()
        flags = np.ascontiguousarray(infrared, dtype=bool).data
        for name, content in ((FEATURES, rows), (INFRARED, flags), (PATHS, lines)):
            self._attempt(name, lambda file, content=content: file.write(content))
        self.manifest = replace(
            now,
            rows=now.rows + len(paths),
            path_bytes=now.path_bytes + len(lines),
            features_crc=zlib.crc32(rows, now.features_crc),
            infrared_crc=zlib.crc32(flags, now.infrared_crc),
            paths_crc=zlib.crc32(lines, now.paths_crc),
        )

    def commit(self, *, complete: bool) -> None:
        """Put what was added on the disk, then replace the manifest by one that counts it.

        Raises:
            OSError: it cannot be written; what counted before still does.
        """
        self.manifest = replace(self.manifest, complete=complete)
        if self.manifest == self.committed:
            return
        for name, header in _headers(self.manifest).items():
            self._attempt(name, lambda file, header=header: _rewrite_header(file, header))
        for name in self._files:
            self._attempt(name, sync)
        _write_manifest(self.folder, self.manifest)
        self.committed = self.manifest

    def close(self) -> None:
        """Let go of the files, without a commit."""
        for file in self._files.values():
            with suppress(OSError):  # what could not be written does not count
                file.close()

    def _attempt(self, name: str, action: Callable[[BinaryIO], object]) -> None:
        with naming(self.folder / name):
            action(self._files[name])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The index is this process's alone to write; the system lets go of it however the process ends."""
    try:
        acquired = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(f"another process writes to the index {folder}") from None
    with acquired:
        for left in folder.glob(".*.part"):  # by a process that was killed
            left.unlink()
        yield


def file_checksum(path: Path, start: int, length: int) -> int:
    """CRC-32 of ``length`` bytes of a file from ``start`` on, or of those that it has."""
    found = 0
    for piece in _pieces(path, start, length):
        found = zlib.crc32(piece, found)
    return found


def sync(file: BinaryIO) -> None:
    """What was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _read_manifest(path: Path) -> Manifest:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_MANIFEST + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no index in {path.parent}: it has no {path.name}") from error
    try:
        found = json.loads(content) if len(content) <= LARGEST_MANIFEST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _damaged(path, "it is no JSON object")
    if found.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {str(found.get('format'))[:20]!r}, and this version reads {FORMAT}")
    if found.keys() != {field.name for field in fields(Manifest)}:
        raise _damaged(path, "its keys are not those of an index")
    for field in fields(Manifest):
        value = found[field.name]
        if type(value) is not field.type or (field.type is int and not 0 <= value < 1 << 62):
            raise _damaged(path, f"{field.name} is no {field.type.__name__}, or out of range")
    known = found["dtype"] in DTYPES and min(found[name] for name in ("height", "width", "dimension")) > 0
    if not known or max(found["height"], found["width"]) > 4096:
        raise _damaged(path, "its settings are none that an index is made with")
    return Manifest(**found)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    write_atomically(folder / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")


def _arrays(manifest: Manifest) -> list[tuple[str, str, tuple[int, ...]]]:
    rows = manifest.rows
    return [(FEATURES, manifest.dtype, (rows, manifest.dimension)), (INFRARED, "bool", (rows,))]


def _headers(manifest: Manifest) -> dict[str, bytes]:
    """NumPy's; they leave room for any number of rows, so that their length does not depend on it."""
    headers = {}
    for name, dtype, shape in _arrays(manifest):
        buffer = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
        headers[name] = buffer.getvalue()
    return headers


def _rewrite_header(file: BinaryIO, header: bytes) -> None:
    file.seek(0)
    file.write(header)
    file.seek(0, os.SEEK_END)


def _pieces(path: Path, start: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while length and (piece := file.read(min(length, PIECE))):
            length -= len(piece)
            yield piece


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged: {why}")
