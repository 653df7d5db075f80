"""Damaged and hostile files: every reader gives a result or one line that names the file.

A kind of file is a :class:`Kind` in the ``KINDS`` of :mod:`tests.fuzz_files.input_files` (what is given to a run) or of
:mod:`tests.fuzz_files.run_files` (what a run writes and reads again).
``python -m tests.fuzz_files --files 10000`` makes each of them, changes its bytes at random, and has it read in a
process of its own.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz_files.mutations import mutate


@dataclass(frozen=True)
class Kind:
    """How a sound file comes about, and who reads it.

    Attributes:
        make: writes the file, and whatever its reader needs beside it, into an empty folder; returns its path there.
            Called once; every mutation gets a copy of the folder.
        read: what a user's command does with such a file. It may return, or raise what the command line prints as one
            line (``ValueError``, ``OSError``) with a message that holds the file's name; anything else is a finding,
            and so is writing outside of the folder.
        memory: bytes that reading a damaged file may fill.
        mutate: the file's bytes, a generator and the bytes of the other kinds' files to damaged bytes.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    memory: int = 1 << 28
    mutate: Callable[[bytes, random.Random, Sequence[bytes]], bytes] = mutate
