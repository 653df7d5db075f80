"""Processes for tests that kill, limit or combine some: what they import was imported once, by the one they fork from.

That one did nothing else, unlike the process of the tests; see tests/preloaded.py.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import torch


def context() -> ForkServerContext:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.preloaded"])
    return found


def start(function: Callable, *arguments: object, log: Path) -> ForkServerProcess:
    """``function(*arguments)`` in a process of its own, on one thread; what it prints and logs goes to ``log``."""
    process = context().Process(target=_run, args=(function, arguments, log))
    process.start()
    return process


def _run(function: Callable, arguments: tuple, log: Path) -> None:
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)
    function(*arguments)
