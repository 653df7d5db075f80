"""``python -m benchmarks.worker REGISTRY SECONDS``: a process that imports once and forks a child for every task.

A child starts with nothing allocated and no threads, and may crash or be killed: its task then has that for a result,
and the others go on. Tasks and results are lines of JSON on stdin and stdout. A task is one of

- ``{"task": "peak", "case": …, "variant": …, "quick": …, "keep": FILE}``: the variant's high-water mark of resident
  memory beyond its inputs, after a run at quick sizes has loaded what is loaded once. Where that took longer than
  ``LONG`` seconds, the result has that time too and FILE has the outputs, so that nobody has to wait for them again;
- ``{"task": "measure", "case": …, "device": …, "quick": …, "skip": […], "done": {…}, "without": […]}``: see
  :func:`benchmarks.measure.measure`;
- ``{"task": "ceilings", "device": …}``: see :mod:`benchmarks.devices`.

Any of them may have a ``"limit"`` of its own, in seconds, below the worker's.
"""

import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

from benchmarks.devices import DEVICES, Cpu
from benchmarks.machine import ROOT
from benchmarks.measure import LONG, measure, reason
from benchmarks.memory import watched
from benchmarks.processes import end_with_parent

TOO_LONG = {"failure": "took longer than a task may"}


class Worker:
    """The process, as a context; ``registry`` is a module with ``CASES``, ``limit`` the seconds a task may take."""

    def __init__(self, registry: str = "benchmarks.registry", limit: int = 900) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", registry, str(limit)]
        self.limit = limit
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, **task: object) -> dict:
        """The task's result, or why it has none as :func:`benchmarks.measure.reason` says it, or ``TOO_LONG``."""
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the benchmarks' worker ended with status {self.process.wait()}")
        return json.loads(line)


def main(registry: str, limit: int) -> None:
    """Serve until stdin ends. What a task prints goes to stderr."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cases = {case.name: case for case in importlib.import_module(registry).CASES}
    for line in sys.stdin:
        print(json.dumps(_in_child(json.loads(line), cases, limit)), file=answers, flush=True)


def _in_child(task: Mapping, cases: Mapping, limit: int) -> dict:
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python ≥ 3.12 counts idle threads of BLAS
        pid = os.fork()
    if pid == 0:
        os.close(reader)
        end_with_parent()
        _be_killed_first()
        signal.alarm(min(limit, task.get("limit", limit)))
        # In a thread of its own: OpenMP keeps its pool of threads with the thread that made it.
        thread = threading.Thread(target=_answer, args=(task, cases, writer))
        thread.start()
        thread.join()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = file.read()
    status = os.waitpid(pid, 0)[1]
    return json.loads(answer) if answer else _death(os.waitstatus_to_exitcode(status))


def _answer(task: Mapping, cases: Mapping, writer: int) -> None:
    try:
        result = perform(task, cases)
    except Exception as error:
        result = reason(error)
    sys.stderr.flush()
    with os.fdopen(writer, "w") as file:
        json.dump(result, file)


def perform(task: Mapping, cases: Mapping) -> dict:
    """The result of ``task``, computed here."""
    if task["task"] == "ceilings":
        return DEVICES[task["device"]]().ceilings()
    case = cases[task["case"]]
    if task["task"] == "measure":
        return measure(case, DEVICES[task["device"]](), task["quick"], task["skip"], task["done"], task["without"])
    variant = case.variants[task["variant"]]
    variant(*case.make_inputs("cpu", True))
    inputs = case.make_inputs("cpu", task["quick"])
    run, risen = watched(lambda: Cpu().run(variant, inputs))
    result = {} if risen is None else {"peak_mb": risen / 1e6}
    if run.seconds > LONG["cpu"]:
        Path(task["keep"]).write_bytes(pickle.dumps(run.outputs))
        result["seconds"] = run.seconds
    return result


def _be_killed_first() -> None:
    """Where memory runs out, the system ends this process and not its parent."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def _death(code: int) -> dict[str, str]:
    if code == -signal.SIGKILL:
        return {"oom": "killed by SIGKILL, as the system does where memory runs out"}
    if code == -signal.SIGALRM:
        return TOO_LONG
    name = signal.Signals(-code).name if code < 0 else f"status {code}"
    return {"failure": f"its process ended with {name}"}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
