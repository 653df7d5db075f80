"""The image store: every image decoded once to the training size, in one memory-mapped file."""

import hashlib
import io
import os
import re
import secrets
import stat
import time
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np

from salcr.data._images import Progress, describe, map_images, name_some, read_resized
from salcr.data.records import Records

FORMAT = "3 RGB bilinear"  # what the pixels of a file depend on besides the source
STALE_SECONDS = 3600
CHUNK = 2**24  # bytes read at a time
CRC_BYTES = 4
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{16}\.tmp")


def open_store(
    records: Records, *, height: int, width: int, cache: str | Path, progress: Progress | None = None
) -> np.memmap:
    """The pixels of all images of ``records`` at one size, decoded on the first call and memory-mapped ever after.

    An image is decoded as :func:`salcr.data._images.read_image` says and resized with Pillow's bilinear filter, which
    averages over all source pixels when it shrinks.

    The file is ``cache/<fingerprint>.npy``. The fingerprint covers the paths below the root, sizes and modification
    times of the sources, in order, and the target size: a changed source gets a new file. It is written under a
    temporary name and renamed when complete, so that several processes may build it at once.

    Behind the pixels stands their CRC-32, which every call checks (a second or two a gigabyte): a file that a disk or a
    hand has changed, or of a wrong length or header, is built again. What happens to it while it is open goes
    unnoticed, and a CRC is no protection from someone who means to deceive.

    Files of older fingerprints stay until someone deletes them; the store's own temporaries that nobody has written to
    for an hour are removed, and nothing else ever is.

    Args:
        records: the images, one row of the result each.
        height: rows of pixels.
        width: columns of pixels.
        cache: folder of the cached files, made if absent.
        progress: called with the number of images done and their total while the file is built.

    Returns:
        ``[N, height, width, 3]``, uint8, read-only.

    Raises:
        ValueError: ``records`` is empty, a size is not a positive whole number, or images do not decode (the first ten
            are named).
        FileNotFoundError: images are missing; the first ten are named.
        OSError: the file cannot be written, for example because the disk is full. Nothing is left behind.
    """
    if not len(records):
        raise ValueError("records is empty")
    for name, value in (("height", height), ("width", width)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    shape = (len(records), height, width, 3)
    header = _header(shape)
    path = Path(cache) / f"{_fingerprint(records, height, width)}.npy"
    if not _is_whole(path, header, int(np.prod(shape, dtype=np.int64))):
        _build(path, header, records, height, width, progress)
    return np.memmap(path, dtype=np.uint8, mode="r", offset=len(header), shape=shape)


def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _fingerprint(records: Records, height: int, width: int) -> str:
    digest = hashlib.sha256(f"{FORMAT}\n{height} {width}\n".encode())
    missing = []
    for path in records.paths:
        status = _status(records.root / path)
        if status is None:
            missing.append(path)
        else:
            digest.update(os.fsencode(path) + f"\0{status.st_size} {status.st_mtime_ns}\n".encode())
    if missing:
        raise FileNotFoundError(_bad_files(missing, records, "are missing"))
    return digest.hexdigest()[:32]


def _status(path: Path) -> os.stat_result | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_whole(path: Path, header: bytes, pixels: int) -> bool:
    """Header, pixels and the CRC of these, unchanged."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != len(header) + pixels + CRC_BYTES or file.read(len(header)) != header:
                return False
            checksum = 0
            for start in range(0, pixels, CHUNK):
                checksum = zlib.crc32(file.read(min(CHUNK, pixels - start)), checksum)
            return file.read() == _crc(checksum)
    except FileNotFoundError:
        return False


def _crc(checksum: int) -> bytes:
    return checksum.to_bytes(CRC_BYTES, "little")


def _build(path: Path, header: bytes, records: Records, height: int, width: int, progress: Progress | None) -> None:
    temporary = path.with_name(f"{path.stem}.{secrets.token_hex(8)}.tmp")
    bad: list[str] = []
    checksum = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        images = map_images(lambda source: read_resized(source, height, width), records.root, records.paths, progress)
        with closing(images), temporary.open("xb") as file:
            file.write(header)
            for source, array, error in images:
                if error:
                    bad.append(f"{source} ({describe(error)})")
                elif not bad:
                    file.write(array)
                    checksum = zlib.crc32(array, checksum)
            if bad:
                raise ValueError(_bad_files(bad, records, "do not decode"))
            file.write(_crc(checksum))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the image store: {error.strerror}", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale(cache: Path) -> None:
    """Remove what builds that were killed have left; a build that is alive writes all the time."""
    for temporary in cache.iterdir():
        status = _status(temporary) if _TEMPORARY.fullmatch(temporary.name) else None
        if status and time.time() - status.st_mtime > STALE_SECONDS:
            temporary.unlink(missing_ok=True)


def _bad_files(bad: list[str], records: Records, what: str) -> str:
    return (
        f"{len(bad)} of {len(records)} images below {records.root} {what}: {name_some(bad)}. "
        "`salcr check-data` names them all."
    )
