"""What a hardware check has found so far, kept in ``gpu_check.json`` after every single result."""

import datetime
import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.machine import commit
from benchmarks.processes import Ended
from benchmarks.records import read_json, write_json

SOURCES = ("setup.py", "pyproject.toml", "kernels/*.py", "csrc/**/*.*", "salcr/**/*.py", "benchmarks/**/*.py")
TESTS, TEST_FILES = "tests/**/*.*", "tests/**/test_*.py"
LOGGED = 200_000  # characters of what a command printed, at most
BUILT = ("*.so", "*.pyc")
NOT_BEGUN, NO_DEVICE = "not begun", "no CUDA device"  # why something is left


@dataclass
class Found:
    """The state of a part: names of what passed, and of what did not with the reason."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)  # not begun, or not finished in time
    left_out: dict[str, str] = field(default_factory=dict)  # what this machine cannot do

    @property
    def passed(self) -> bool:
        return not self.failed and not self.left


class Check:
    """One call of the check: the checkout, the folder of all output, what it runs on, and until when.

    Args:
        root: the checkout.
        out: the folder; what an earlier call left there counts where it was found on the same device with the same
            versions.
        device: name of the GPU, None where there is none: then nothing is kept, so that it cannot replace anything.
        versions: of what the results depend on besides the sources.
        deadline: of :func:`time.monotonic`.
        at_once: how many commands run at a time; they share the GPU.
    """

    def __init__(
        self,
        root: Path,
        out: Path,
        device: str | None,
        versions: Mapping[str, str | None],
        deadline: float = float("inf"),
        at_once: int = 1,
    ) -> None:
        self.root, self.out, self.deadline, self.at_once = root, out, deadline, at_once
        self.device, self.stamp = device, {"device": device, "versions": dict(versions)}
        before = read_json(out / "gpu_check.json")
        same = {name: before.get(name) for name in self.stamp} == self.stamp
        self.results: dict[str, dict[str, dict]] = before["results"] if same else {}
        self.parts: dict[str, dict] = before["parts"] if same else {}

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def result(self, part: str, name: str, key: str) -> dict | None:
        """What was found for ``name`` while everything it depends on hashed to ``key``."""
        found = self.results.get(part, {}).get(name, {})
        return found if found.get("key") == key else None

    def keep(self, part: str, name: str, key: str, **found: object) -> None:
        """Keep a result, which has at least ``passed``."""
        self.results.setdefault(part, {})[name] = {"key": key, **found, "date": now()}
        self._write()

    def conclude(self, part: str, found: Found) -> None:
        """Keep the state of a part."""
        self.parts[part] = {"sources": fingerprint(self.root), **asdict(found), "date": now()}
        self._write()

    def concluded(self, part: str) -> Found | None:
        """The state of a part as the last call left it, where no source has changed since."""
        kept = self.parts.get(part, {})
        if kept.get("sources") != fingerprint(self.root):
            return None
        return Found(**{name: kept[name] for name in asdict(Found())})

    def log(self, ended: Ended) -> None:
        """Append what a command printed to ``gpu_check.log``."""
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "gpu_check.log").open("a") as file:
            file.write(f"== {now()} {ended.name}: status {ended.status}, {ended.seconds} s\n")
            file.write(f"{ended.output[-LOGGED:]}\n")

    def _write(self) -> None:
        if self.device is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        content = {**self.stamp, "commit": commit(), "parts": self.parts, "results": self.results}
        write_json(self.out / "gpu_check.json", content)


def fingerprint(root: Path) -> str:
    """SHA-256 of every source file, tests included."""
    return digest(root, files(root, *SOURCES, TESTS))


def files(root: Path, *patterns: str) -> set[Path]:
    """The files below ``root`` that match a pattern, but for what is built from others."""
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return {path for path in found if not any(path.match(pattern) for pattern in BUILT)}


def digest(root: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of names and contents."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
