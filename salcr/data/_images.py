"""Decoding many image files on a few threads (Pillow lets go of the interpreter while it decodes and resizes)."""

import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[int, int], None]
MAX_THREADS = 16
NAMED_FILES = 10
FORMATS = {  # Pillow's names; whatever else Pillow knows stays closed: some of it starts other programs
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
"""Endings of image names, in lower case."""


def read_image(path: Path) -> "Image":
    """The image as 8-bit RGB, decoded to its last pixel.

    It is turned as its EXIF orientation says. Grey pixels of more than 8 bits (16-bit PNG, 16-bit, 32-bit and
    floating-point TIFF, as thermal cameras write them) are scaled so that the smallest of the file becomes 0 and the
    largest 255. What is transparent lies on black. Of several pages or frames the first is read.

    Raises:
        ValueError: no format of :data:`FORMATS`, more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, or pixels that are
            not finite. A damaged file makes Pillow raise nearly anything.
    """
    return read_with_depth(path)[0]


def read_with_depth(path: Path) -> tuple["Image", bool]:
    """:func:`read_image`, and whether the file's pixels have more than 8 bits and were scaled."""
    from PIL import Image, ImageOps

    if not path.is_file():  # a pipe would be waited for
        path.stat()
        raise ValueError("is not a file")
    if not path.stat().st_size:
        raise ValueError("is empty")
    with path.open("rb") as file:  # of a path Pillow maps plain TIFF files, and turns them wrongly
        try:
            image = Image.open(file, formats=tuple(FORMATS))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            pixels = re.search(r"\d+", str(error))
            raise ValueError(
                f"has {int(pixels[0]):,} pixels, more than {Image.MAX_IMAGE_PIXELS:,} (PIL.Image.MAX_IMAGE_PIXELS)"
            ) from error
        image.load()
        with suppress(Exception):  # an EXIF block that cannot be read turns nothing
            ImageOps.exif_transpose(image, in_place=True)
    wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
    return (_scale if wide else _to_rgb)(image), wide


def read_resized(path: Path, height: int, width: int) -> np.ndarray:
    """:func:`read_image` at another size, uint8 ``[H, W, 3]``; shrinking averages over all source pixels."""
    from PIL import Image

    return np.asarray(read_image(path).resize((width, height), Image.Resampling.BILINEAR))


def map_images(
    function: Callable[[Path], Any], root: Path, paths: Sequence[str], progress: Progress | None = None
) -> Generator[tuple[str, Any, Exception | None], None, None]:
    """``(path, function(root / path), None)`` of every path in order, or ``(path, None, error)`` where that raised."""
    from PIL import Image

    Image.init()  # else two threads that meet their first unusual file can take each other's plugins for absent
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    pending: deque[tuple[str, Future]] = deque()
    done = 0
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata; they name no file
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        rest = iter(paths)
        while True:
            while len(pending) < 4 * threads and (path := next(rest, None)) is not None:
                pending.append((path, pool.submit(_attempt, function, root / path)))
            if not pending:
                return
            path, future = pending.popleft()
            result, error = future.result()
            done += 1
            if progress:
                progress(done, len(paths))
            yield path, result, error


def name_some(paths: Sequence[str]) -> str:
    """The first ten, and how many more there are."""
    more = f", and {len(paths) - NAMED_FILES} more" if len(paths) > NAMED_FILES else ""
    return ", ".join(paths[:NAMED_FILES]) + more


def say_left_out(root: Path, paths: Sequence[str]) -> str:
    """One sentence about the files below ``root`` that are not read."""
    return f"left out below {root}, where names do not end in {', '.join(SUFFIXES)}: {name_some(paths)}"


def describe(error: Exception) -> str:
    """One line about what is wrong with an image."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"not an image in a format that is read ({', '.join(FORMATS)})"
    return " ".join(str(error).split()) or type(error).__name__


def _attempt(function, path):
    try:
        return function(path), None
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        return None, error


def _scale(image: "Image") -> "Image":
    from PIL import Image

    pixels = np.asarray(image)
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite(high - low):
        raise ValueError("has pixels that are not finite")
    scale = 255 / (high - low) if high > low else 0.0
    grey = np.empty(pixels.shape, np.uint8)
    for source, target in zip(pixels, grey, strict=True):  # a row at a time: the whole image in float64 can be large
        target[:] = np.rint((source.astype(np.float64) - low) * scale)
    return Image.fromarray(grey).convert("RGB")


def _to_rgb(image: "Image") -> "Image":
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    black = Image.new("RGB", image.size)
    black.paste(image, mask=image.getchannel("A"))
    return black
