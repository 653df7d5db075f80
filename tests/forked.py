"""Processes for tests that kill, limit or combine some: what they import was imported once, by the one they fork from.

That one did nothing else, unlike the process of the tests; see tests/preloaded.py.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import torch

START_SECONDS = 300


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


class Worker:
    """A process that is asked one thing after the other; where one ends it, or gets no answer, another takes its place.

    Args:
        serve: called there with a connection and ``arguments``; says when it is ready, then answers every question with
            what is wrong, or None, until the other side closes.
        seconds: an answer may take.
    """

    def __init__(self, serve: Callable, *arguments: object, seconds: float):
        self.serve, self.arguments, self.seconds = serve, arguments, seconds
        self.running: tuple[ForkServerProcess, Connection] | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, question: object) -> str | None:
        """What is wrong, which may be that the process ends, or does not answer in time; else None."""
        process, connection = self.running = self.running or self._started()
        try:
            connection.send(question)
            if connection.poll(self.seconds):
                return connection.recv()
            problem = f"does not return within {self.seconds} s"
        except (EOFError, ConnectionError):
            process.join()
            problem = f"ends the process with {process.exitcode}"
        self._end()
        return problem

    def _started(self) -> tuple[ForkServerProcess, Connection]:
        here, there = context().Pipe()
        process = context().Process(target=self.serve, args=(there, *self.arguments), daemon=True)
        process.start()
        there.close()
        if not here.poll(START_SECONDS):
            raise RuntimeError(f"a worker does not start within {START_SECONDS} s")
        here.recv()
        return process, here

    def _end(self) -> None:
        if self.running is not None:
            process, connection = self.running
            process.kill()
            process.join()
            connection.close()
            self.running = None
