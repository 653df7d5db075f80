"""Calls in worker processes: what crashes, hangs or asks for too much memory is found too, and named by its number."""

import importlib
import multiprocessing
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests import forked

SECONDS_A_CALL = 120
BYTES_A_WORKER = 2**31  # beside what a worker has when it starts


@dataclass(frozen=True)
class Finding:
    seed: int
    number: int
    problem: str

    def __str__(self) -> str:
        again = f"python -m tests.fuzz --seed {self.seed} --first {self.number} --calls 1"
        return f"{self.problem}\n    {again}"


def campaign(
    seed: int, numbers: Sequence[int], workers: int = 1, report: Callable[[int, list[Finding]], None] = lambda *_: None
) -> list[Finding]:
    """What is wrong with the calls ``numbers`` of ``seed``; ``report(calls made, new findings)`` hears on the way."""
    shares = [numbers[start : start + 500] for start in range(0, len(numbers), 500)]
    found = []
    lanes = [iter(shares[lane::workers]) for lane in range(workers)]
    with ThreadPoolExecutor(workers) as pool:

        def run(lane: Iterator[list[int]]) -> list[Finding]:
            mine = []
            with Worker(seed) as worker:
                for share in lane:
                    new = [Finding(seed, *problem) for problem in worker.problems(share)]
                    report(len(share), new)
                    mine += new
            return mine

        for some in pool.map(run, lanes):
            found += some
    return sorted(found, key=lambda finding: finding.number)


class Worker:
    """A process that makes calls one after the other, started again where one has ended it.

    Args:
        seed: of all calls.
        module: has ``prepare()``, and ``finding(seed, number)``, what is wrong with a call or None.
        seconds: a call may take.
    """

    def __init__(self, seed: int, module: str = "tests.fuzz.calls", seconds: float = SECONDS_A_CALL):
        self.seed, self.module, self.seconds = seed, module, seconds
        self.process: BaseProcess | None = None
        self.connection: Connection | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def problems(self, numbers: Iterable[int]) -> Iterator[tuple[int, str]]:
        for number in numbers:
            problem = self._call(number)
            if problem:
                yield number, problem

    def _call(self, number: int) -> str | None:
        if self.process is None:
            self._start()
        assert self.process is not None and self.connection is not None
        try:
            self.connection.send(number)
            if self.connection.poll(self.seconds):
                return self.connection.recv()
            problem = f"does not return within {self.seconds} s"
        except (EOFError, ConnectionError):
            self.process.join()
            problem = f"ends the process with {self.process.exitcode}"
        self._end()
        return problem

    def _start(self) -> None:
        self.connection, there = multiprocessing.Pipe()
        self.process = forked.context().Process(target=serve, args=(there, self.seed, self.module), daemon=True)
        self.process.start()
        there.close()
        try:
            self.connection.recv()
        except EOFError:
            raise RuntimeError("a worker of the fuzzer does not start") from None

    def _end(self) -> None:
        if self.process is not None and self.connection is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = self.connection = None


def serve(connection: Connection, seed: int, module: str) -> None:
    """Take numbers of calls, answer each with what is wrong with it, or None."""
    calls = importlib.import_module(module)
    calls.prepare()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES_A_WORKER
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send("ready")
    while True:
        try:
            problem = calls.finding(seed, connection.recv())
        except EOFError:
            return
        except Exception as error:
            problem = f"cannot be drawn or judged: {type(error).__name__}: {error}"
        connection.send(" ".join(problem.split()) if problem else None)
