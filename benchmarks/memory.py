"""Resident memory of this process: what it is now, and its high-water mark (Linux)."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def watched(function: Callable[[], T]) -> tuple[T, int | None]:
    """``function()``, and how far resident memory rose above what it was before, its result included.

    Freed memory that the process still holds is given back first, so that it does not hide a rise. None where the
    system does not tell.
    """
    try:
        reset_peak()
    except (OSError, AttributeError):
        return function(), None
    before = peak()
    result = function()
    return result, peak() - before


def reset_peak() -> None:
    """The high-water mark of resident memory becomes what is resident now."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
