"""The ledger of hardware checks: which content of each kernel file was last seen green on a GPU, on what and when.

``kernels/<family>.py`` and ``csrc/cuda/<family>.cu`` (or ``.cuh``) are verified by the cuda-marked tests of
``tests/ops/test_<family>.py``. A kernel file without such tests is never green. Files beside it that it includes or
imports are part of it: its hash covers them, and they have no entry of their own unless they define kernels. ``python
-m benchmarks.ledger`` prints what is not verified.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.records import read_json

LEDGER = "benchmarks/results/verified.json"
PATTERNS = ("kernels/*.py", "csrc/cuda/*.cu", "csrc/cuda/*.cuh")


def hashes(root: Path) -> dict[str, str]:
    """The SHA-256 of every kernel file of the checkout at ``root`` with what it includes, by its path from there."""
    files = [path for pattern in PATTERNS for path in root.glob(pattern) if path.name != "__init__.py"]
    parts = {path: _with_includes(path) for path in sorted(files)}
    included = {part for path, own in parts.items() for part in own if part != path and not _defines_kernels(part)}
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(b"".join(x.read_bytes() for x in own)).hexdigest()
        for path, own in parts.items()
        if path not in included
    }


def tests_of(kernel: str) -> str:
    """The test file whose cuda-marked tests verify ``kernel``."""
    return f"tests/ops/test_{Path(kernel).stem}.py"


def verdict(kernel: str, outcomes: Mapping[str, Mapping[str, str]]) -> str | None:
    """Why ``kernel`` is not green, or None if it is.

    Args:
        kernel: path of a kernel file.
        outcomes: for every test file that ran, its cuda-marked tests with ``"passed"``, ``"skipped"`` or ``"failed"``.
            A skipped test checks nothing, so it keeps the file from being green.
    """
    tests = outcomes.get(tests_of(kernel), {})
    if not tests:
        return f"{tests_of(kernel)} has no cuda-marked test"
    bad = sorted(name for name, outcome in tests.items() if outcome != "passed")
    if bad:
        return f"{len(bad)} of {len(tests)} cuda-marked tests in {tests_of(kernel)} did not pass, first {bad[0]}"
    return None


def unverified(root: Path) -> dict[str, str]:
    """For every kernel file of the checkout at ``root`` whose content is not the one last seen green: why."""
    ledger, found = read_json(root / LEDGER), {}
    for kernel, digest in hashes(root).items():
        if kernel not in ledger:
            found[kernel] = "never had a green hardware run"
        elif ledger[kernel]["sha256"] != digest:
            found[kernel] = f"changed since its green run of {ledger[kernel]['date']} on {ledger[kernel]['device']}"
    return found


def _with_includes(path: Path, before: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    """``path`` and the files of its folder that it includes, directly or not, in the order of their first inclusion."""
    found = (*before, path)
    for name in _imported(path) if path.suffix == ".py" else _included(path):
        part = path.parent / name
        if part not in found and part.exists():
            found = _with_includes(part, found)
    return found


def _included(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M)


def _imported(path: Path) -> list[str]:
    """Files that ``from .name import …`` and ``from . import name, name`` ask for."""
    found = re.findall(r"^\s*from \.(\w*) import ([\w, ]+|\()", path.read_text(), re.M)
    return [f"{name.strip()}.py" for module, names in found for name in ([module] if module else names.split(","))]


def _defines_kernels(path: Path) -> bool:
    return path.suffix == ".py" and "triton.jit" in path.read_text()


if __name__ == "__main__":
    missing = unverified(Path(__file__).resolve().parents[1])
    print("\n".join(f"{kernel}: {reason}" for kernel, reason in missing.items()) or "every kernel file is verified")
