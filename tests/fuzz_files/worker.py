"""Reads mutated files in a process of its own, and judges what came of it."""

import importlib
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz_files import Kind

ADDRESSED = 1 << 32
"""Bytes that can be had at once; what asks for more gets the error that it would get on a smaller machine."""
ADVICE = re.compile(r"weights_only|add_safe_globals|trust the source", re.IGNORECASE)
WRITES = {"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
PROGRAMS = {"os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen"}
FORBIDDEN = {*PROGRAMS, "socket.connect", "pickle.find_class"}


def serve(connection: Connection, table: str, seed: int, folder: Path) -> None:
    """Answer ``(kind, number)`` with a finding or None, until the other side closes.

    Every kind in the ``KINDS`` of the module ``table`` is made once, in a room of its own in ``folder``; each mutation
    is read in a copy. One that is a finding stays there.
    """
    sys.dont_write_bytecode = True
    room = Path(tempfile.mkdtemp(prefix="process-", dir=folder))
    kinds: dict[str, Kind] = importlib.import_module(table).KINDS
    watch = Watch()
    samples = {}
    for name, kind in kinds.items():
        folder = room / "sound" / name
        folder.mkdir(parents=True)
        samples[name] = kind.make(folder)
        kind.read(samples[name])  # imports what reading needs
    contents = {name: path.read_bytes() for name, path in samples.items()}
    elsewhere = room / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    _limit_memory()
    connection.send("ready")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff talks there of every damage
    while True:
        try:
            name, number = connection.recv()
        except EOFError:
            return
        folder = room / f"{name}-{number}"
        shutil.copytree(room / "sound" / name, folder)
        path = folder / samples[name].relative_to(room / "sound" / name)
        others = [content for other, content in contents.items() if other != name]
        path.write_bytes(kinds[name].mutate(contents[name], random.Random(f"{seed} {name} {number}"), others))
        finding = judge(kinds[name], path, folder, watch)
        if finding is None:
            shutil.rmtree(folder)
        connection.send(finding)


def judge(kind: Kind, path: Path, folder: Path, watch: "Watch") -> str | None:
    """What is wrong with how ``path`` was read, or None."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _memory("VmHWM")
    try:
        with watch.over(folder), warnings.catch_warnings():
            warnings.simplefilter("error")
            kind.read(path)
    except (ValueError, OSError) as error:
        message = str(error)
        if path.name not in message:
            return f"the message does not name the file: {type(error).__name__}: {message[:500]}"
        if ADVICE.search(message):
            return f"the message advises to read unsafely: {message[:500]}"
        if isinstance(error, UnicodeError):
            return f"a bare {type(error).__name__}: {message[:500]}"
    except BaseException:
        return "".join(traceback.format_exc())
    if watch.breaches:
        return "; ".join(watch.breaches)
    if (filled := _memory("VmHWM") - before) > kind.memory:
        return f"it filled {filled:,} bytes"
    return None


class Watch:
    """Sees every file that Python code opens for writing, and every program and connection that it starts."""

    def __init__(self) -> None:
        self.inside: str | None = None
        self.breaches: list[str] = []
        sys.addaudithook(self._see)  # it cannot be removed: the process is only for this

    def over(self, folder: Path) -> "Watch":
        self._next = os.path.realpath(folder)
        return self

    def __enter__(self) -> None:
        self.breaches = []
        self.inside = self._next

    def __exit__(self, *_: object) -> None:
        self.inside = None

    def _see(self, event: str, arguments: tuple) -> None:
        if self.inside is None:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) or set(mode or "") & set("wax+")
            paths = [path] if writes else []
        elif event in WRITES:
            paths = [x for x in arguments[:2] if isinstance(x, (str, bytes, os.PathLike))]
        elif event in FORBIDDEN:
            self._refuse(f"{event} {arguments}")
            return
        else:
            return
        for path in paths:
            if isinstance(path, int) or os.path.realpath(os.fsdecode(path)).startswith(self.inside):
                continue
            if os.fsdecode(path) != os.devnull:
                self._refuse(f"{event} of {os.fsdecode(path)} outside of the folder")

    def _refuse(self, what: str) -> None:
        self.breaches.append(what)
        raise RuntimeError(what)


def _memory(what: str) -> int:
    """A line of the kernel's account of this process, in bytes; ``VmHWM`` is the peak of what was filled."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10


def _limit_memory() -> None:
    """Room for :data:`ADDRESSED` beyond what the process has now; only what can be written to counts."""
    limit = _memory("VmData") + ADDRESSED
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
