"""Calls in worker processes: what crashes, hangs or asks for too much memory is found too, and named by its number."""

import importlib
import resource
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
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
            with forked.Worker(serve, seed, seconds=SECONDS_A_CALL) as worker:
                for share in lane:
                    new = [Finding(seed, number, problem) for number in share if (problem := worker.ask(number))]
                    report(len(share), new)
                    mine += new
            return mine

        for some in pool.map(run, lanes):
            found += some
    return sorted(found, key=lambda finding: finding.number)


def serve(connection: Connection, seed: int, module: str = "tests.fuzz.calls") -> None:
    """Take numbers of calls, answer each with what is wrong with it, or None.

    ``module`` has ``prepare()``, and ``finding(seed, number)``, what is wrong with a call or None.
    """
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
