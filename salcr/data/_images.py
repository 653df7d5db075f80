"""Decoding many image files on a few threads (Pillow lets go of the interpreter while it decodes and resizes)."""

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[int, int], None]
MAX_THREADS = 16


def read_image(path: Path) -> "Image":
    """The image, decoded to its last pixel, as RGB."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def map_images(
    function: Callable[[Path], Any], root: Path, paths: Sequence[str], progress: Progress | None = None
) -> Generator[tuple[str, Any, Exception | None], None, None]:
    """``(path, function(root / path), None)`` of every path in order, or ``(path, None, error)`` where that raised."""
    from PIL import Image

    Image.init()  # else two threads that meet their first unusual file can take each other's plugins for absent
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    pending: deque[tuple[str, Future]] = deque()
    done = 0
    with ThreadPoolExecutor(threads) as pool:
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


def describe(error: Exception) -> str:
    """One line about what is wrong with an image."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


def _attempt(function, path):
    try:
        return function(path), None
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        return None, error
