"""What is kept beside an index's features, made of them: a file, and a small one that says which features it is of."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from salcr.files import write_atomically
from salcr.retrieval.storage import Storage, sync

T = TypeVar("T", bound="Kept")
LARGEST = 1 << 16  # bytes of a small file


@dataclass(frozen=True)
class Kept:
    """What the small file says, at least.

    Attributes:
        rows, features_crc: how many features the file is of, and their CRC-32.
    """

    rows: int
    features_crc: int

    def fits(self, storage: Storage) -> bool:
        """Whether it is of the features that the index has."""
        return (self.rows, self.features_crc) == (storage.manifest.rows, storage.manifest.features_crc)

    def can_grow(self, storage: Storage) -> bool:
        """Whether the index begins with the features that the file is of, which are read to tell, and has more."""
        return self.rows < storage.manifest.rows and storage.features_checksum(self.rows) == self.features_crc


def read_about(path: Path, kind: type[T]) -> T | None:
    """What the small file at ``path`` says; None where there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        found = json.loads(content) if len(content) <= LARGEST else {}
        kept = kind(**found)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    typed = all(type(found[field.name]) is field.type for field in fields(kind))
    return kept if typed and kept.rows >= 0 else None


def write_about(path: Path, kept: Kept) -> None:
    """Whole or not at all, once what it speaks of is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, json.dumps(asdict(kept), indent=2) + "\n")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes the place of ``path`` when it is on the disk."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            sync(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def blocks(start: int, end: int, width: int, most: int) -> Iterator[slice]:
    """Rows from ``start`` to ``end``, so many at a time that they take at most ``most`` bytes as float32."""
    step = max(1, most // (4 * width))
    return (slice(at, min(at + step, end)) for at in range(start, end, step))
