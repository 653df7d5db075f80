"""Resident memory of this process: what it is now, and its high-water mark (Linux)."""

import ctypes
from collections.abc import Callable
from pathlib import Path


def peak_bytes(function: Callable) -> int | None:
    """How far resident memory rose above what it was before ``function()``, results included; None where the system
    does not say. Freed memory that the process still holds is given back first, so that it does not hide a rise."""
    try:
        reset_peak()
    except OSError:
        return None
    before = peak()
    outputs = function()
    rise = peak() - before
    del outputs
    return rise


def reset_peak() -> None:
    """The high-water mark of resident memory becomes what is resident now."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
