"""Readers with every fault that the mutations are to find, and one without."""

import os
import time
from pathlib import Path

from tests.fuzz_files import Kind


def _faulty(fault) -> Kind:
    def make(folder: Path) -> Path:
        (folder / "sample.bin").write_bytes(bytes(range(256)))
        return folder / "sample.bin"

    def read(path: Path) -> None:
        if path.read_bytes() != bytes(range(256)):
            fault(path)

    return Kind(make, read)


def _name(path: Path) -> None:
    raise ValueError(f"{path} is damaged")


def _fill(path: Path) -> None:
    bytearray(b"x" * (300 << 20))


def _advise(path: Path) -> None:
    raise ValueError(f"{path}: try weights_only=False")


def _raise(path: Path) -> None:
    raise KeyError(path.name)


def _write(path: Path) -> None:
    (path.parents[1] / "written").write_text("")


def _start_a_program(path: Path) -> None:
    os.system("true")


def _forget_the_name(path: Path) -> None:
    raise ValueError("the file is damaged")


KINDS: dict[str, Kind] = {
    "named": _faulty(_name),
    "traceback": _faulty(_raise),
    "written": _faulty(_write),
    "program": _faulty(_start_a_program),
    "advice": _faulty(_advise),
    "unnamed": _faulty(_forget_the_name),
    "memory": _faulty(_fill),
    "death": _faulty(lambda _: os._exit(3)),
    "hang": _faulty(lambda _: time.sleep(600)),
}
