"""The variants of one case timed against each other, correctness first.

A variant is timed only after its outputs matched the first variant's in the same process, and reports its times only
if the outputs of its last timed run still do. All variants run in turns, so that a slower minute of the machine hits
every one of them. A variant that failed, ran out of memory or needs a library that is not there reports that instead.
"""

import contextlib
import copy
import pickle
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.case import Case
from benchmarks.devices import Cpu, Cuda, Run

ROUNDS = 3, 50  # at least and at most; between them as many as fit into SECONDS
SECONDS = 5.0
LONG = {"cpu": 15.0, "cuda": 5.0}  # seconds above which a variant is run once only; the first run is the slowest
PLAIN = ("published", "reference", "eager")  # variants that compile nothing: their first run is as good as any
SMALL = 1.0  # milliseconds: kernels below this are also timed without their launches
RUNS_ONLY_ON = dict.fromkeys(("cpp", "numba", "faiss"), "cpu") | dict.fromkeys(("compiled", "triton", "cuda"), "cuda")
OUT_OF_MEMORY = torch.OutOfMemoryError, MemoryError
OWN = ("salcr", "benchmarks")
REASONS = ("failure", "oom", "missing")


def variants_on(case: Case, device: str) -> list[str]:
    """Names of the variants that can exist on ``device``."""
    return [name for name in case.variants if RUNS_ONLY_ON.get(name, device) == device]


def measure(
    case: Case,
    device: Cpu | Cuda,
    quick: bool,
    skip: Sequence[str] = (),
    done: Mapping[str, tuple[float, str]] | None = None,
    without: Sequence[str] = (),
) -> dict:
    """Floors, and for every variant its times in milliseconds (and peak of memory) or why it has none.

    Args:
        skip: variants that are known to fail; they are left out.
        done: variants that ran before and are not run again: the seconds they took, and the file with their pickled
            outputs.
        without: slow variants that are run at quick sizes only. At full size the others have to match the first of
            them, at quick sizes all have to match the first of the case.
    """
    turns = _Turns(case, device, quick, [*skip, *without], done or {})
    if turns.first in without:
        turns.match_at_quick_sizes()
    turns.take(verify=True, first=True)
    if not quick:
        turns.take(verify=False)
    for times in turns.times.values():
        times.clear()
    start, (least, most) = time.perf_counter(), (1, 3) if quick else ROUNDS
    for n in range(1, most + 1):
        last = n == most or (n >= least and time.perf_counter() - start > SECONDS)
        turns.take(verify=last)
        if last:
            break
    return {**turns.floors, "variants": turns.results()}


class _Turns:
    """The variants of a case with their inputs, the times of their runs, and why some of them have none."""

    def __init__(
        self, case: Case, device: Cpu | Cuda, quick: bool, skip: Sequence[str], done: Mapping[str, tuple[float, str]]
    ) -> None:
        self.case, self.device = case, device
        names = variants_on(case, device.name)
        self.first = names[0]
        self.names = [name for name in names if name not in skip]
        for name in self.names:
            if name not in done:  # what is loaded or compiled once is not the variant's
                with contextlib.suppress(Exception):
                    case.variants[name](*case.make_inputs(device.name, True))
        self.inputs = case.make_inputs(device.name, quick)
        floors = {"floor_bytes": case.floor_bytes, "floor_flops": case.floor_flops}
        self.floors = {name: floor(*self.inputs) for name, floor in floors.items() if floor is not None}
        self.own: dict[str, Sequence] = {}
        self.kept = {n: Run(s, pickle.loads(Path(file).read_bytes()), None) for n, (s, file) in done.items()}
        self.times: dict[str, list[float]] = {name: [] for name in self.names}
        self.peaks: dict[str, float] = {}
        self.errors: dict[str, float] = {}
        self.reasons: dict[str, dict[str, str]] = {}

    def match_at_quick_sizes(self) -> None:
        """Leave out what does not match the first variant there; the first of the rest takes its place."""
        expected = self.case.variants[self.first](*self.case.make_inputs(self.device.name, True))
        for name in self.names:
            try:
                self.case.check(self.case.variants[name](*self.case.make_inputs(self.device.name, True)), expected)
            except Exception as error:
                self.reasons[name] = reason(error)
        self.first = next((name for name in self.names if name not in self.reasons), self.first)

    def take(self, verify: bool, first: bool = False) -> None:
        """Every variant once, compared with the first one's outputs if ``verify``."""
        expected = None
        for name in [n for n in self.names if n not in self.reasons]:
            try:
                run = self.kept[name] if name in self.kept else self._run(name)
                if name == self.first:
                    expected = run.outputs
                elif expected is None:
                    raise RuntimeError(f"{self.first} gave no outputs, nothing to compare with")
                elif verify and (found := self.case.check(run.outputs, expected)) is not None:
                    self.errors[name] = found
            except Exception as error:
                self.reasons[name] = reason(error)
            else:
                self.times[name].append(1000 * run.seconds)
                if run.peak_bytes is not None:
                    self.peaks[name] = run.peak_bytes / 1e6
                if first and run.seconds > LONG[self.device.name] and name in PLAIN:
                    self.kept[name] = run

    def results(self) -> dict[str, dict]:
        """What the record says of every variant."""
        results = {}
        for name in self.names:
            more = {"peak_mb": self.peaks[name]} if name in self.peaks else {}
            more |= {"error": self.errors[name]} if name in self.errors else {}
            if name in self.reasons:
                results[name] = self.reasons[name]
                continue
            p20, median, p80 = np.percentile(self.times[name], (20, 50, 80)).tolist()
            runs = 1 if name in self.kept else len(self.times[name])
            results[name] = dict(median_ms=median, p20_ms=p20, p80_ms=p80, runs=runs, **more)
            if median < SMALL:
                results[name] |= self.device.replay(self.case.variants[name], self.own[name])
        return results

    def _run(self, name: str) -> Run:
        """On inputs of its own, which it may change. With outputs from before around, these are fresh every time."""
        if self.kept or name not in self.own:
            self.own[name] = copy.deepcopy(self.inputs)
        return self.device.run(self.case.variants[name], self.own[name])


def reason(error: Exception) -> dict[str, str]:
    """Why a variant has no time: ``oom``, ``missing`` (a library that is not installed) or ``failure``."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, OUT_OF_MEMORY) or "can't allocate memory" in text:  # what PyTorch says on the CPU
        return {"oom": text}
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in OWN:
        return {"missing": f"{error.name.partition('.')[0]} is not installed"}
    return {"failure": text}
