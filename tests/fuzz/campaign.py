"""Calls in worker processes: what crashes, hangs or asks for too much memory is found too, and named by its number."""

import importlib
import os
import resource
import select
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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
        self.process: subprocess.Popen | None = None

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
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(f"{number}\n".encode())
            ready, _, _ = select.select([self.process.stdout], [], [], self.seconds)
            answer = self.process.stdout.readline().decode() if ready else None
        except BrokenPipeError:
            answer = ""
        if answer is None:
            self._end()
            return f"does not return within {self.seconds} s"
        if not answer.endswith("\n"):
            code = self.process.wait()
            self._end()
            return f"ends the process with {code}"
        return answer.strip() or None

    def _start(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.fuzz.campaign", str(self.seed), self.module]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError("a worker of the fuzzer does not start")

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def serve(seed: int, module: str) -> None:
    """Read numbers of calls, write a line for each: what is wrong with it, or nothing."""
    calls = importlib.import_module(module)
    calls.prepare()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES_A_WORKER
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            problem = calls.finding(seed, int(line)) or ""
        except Exception as error:
            problem = f"cannot be drawn or judged: {type(error).__name__}: {error}"
        print(" ".join(problem.split()), file=answers, flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
