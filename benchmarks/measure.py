"""The variants of one case timed against each other, correctness first.

A variant is timed only after its outputs matched the first variant's in the same process, and reports its times only
if the outputs of its last timed run still do. All variants run in turns, so that a slower minute of the machine hits
every one of them. A variant that failed, ran out of memory or needs a library that is not there reports that instead.
"""

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
SLOW = 20.0  # a case that takes longer than this to go once through its variants is left at that one time
SMALL = 1.0  # milliseconds: kernels below this are also timed without their launches
RUNS_ONLY_ON = {"compiled": "cuda", "cpu": "cpu", "triton": "cuda", "cuda": "cuda"}  # variants named like a backend
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
) -> dict:
    """Floors, and for every variant its times in milliseconds (and peak of memory) or why it has none.

    Args:
        skip: variants that are known to fail; they are left out.
        done: of variants that ran before the seconds they took and the file with their pickled outputs; they are not
            run again.
    """
    done = done or {}
    first, *others = variants_on(case, device.name)
    names = [name for name in (first, *others) if name not in skip]
    inputs = case.make_inputs(device.name, quick)
    floors = {"floor_bytes": case.floor_bytes, "floor_flops": case.floor_flops}
    floors = {name: floor(*inputs) for name, floor in floors.items() if floor is not None}
    own = {name: copy.deepcopy(inputs) for name in names if name not in done}  # some change their inputs in place
    before = {name: Run(seconds, pickle.loads(Path(file).read_bytes()), None) for name, (seconds, file) in done.items()}
    results: dict[str, dict] = {name: {} for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}

    def turn(verify: bool) -> float:
        """Every variant once; the seconds all of them took."""
        expected, total = None, 0.0
        for name in [n for n in names if not results[n].keys() & set(REASONS)]:
            try:
                if name in before:
                    run = before[name]
                else:
                    if before:  # what is in there was computed from fresh inputs
                        own[name] = copy.deepcopy(inputs)
                    run = device.run(case.variants[name], own[name])
                    total += run.seconds
                if name == first:
                    expected = run.outputs
                elif expected is None:
                    raise RuntimeError(f"{first} gave no outputs, nothing to compare with")
                elif verify:
                    case.check(run.outputs, expected)
            except Exception as error:
                results[name] = reason(error)
            else:
                times[name].append(1000 * run.seconds)
                if run.peak_bytes is not None:
                    results[name]["peak_mb"] = run.peak_bytes / 1e6
        return total

    if turn(verify=True) < SLOW:
        turn(verify=False)
        for kept in times.values():
            kept.clear()
        start, (least, most) = time.perf_counter(), (1, 3) if quick else ROUNDS
        for n in range(1, most + 1):
            last = n == most or (n >= least and time.perf_counter() - start > SECONDS)
            turn(verify=last)
            if last:
                break
    for name, result in results.items():
        if not result.keys() & set(REASONS):
            runs = 1 if name in before else len(times[name])
            p20, median, p80 = np.percentile(times[name], (20, 50, 80)).tolist()
            result.update(median_ms=median, p20_ms=p20, p80_ms=p80, runs=runs)
            if median < SMALL and name not in before:
                result.update(device.replay(case.variants[name], own[name]))
    return {**floors, "variants": results}


def reason(error: Exception) -> dict[str, str]:
    """Why a variant has no time: ``oom``, ``missing`` (a library that is not installed) or ``failure``."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, OUT_OF_MEMORY) or "can't allocate memory" in text:  # what PyTorch says on the CPU
        return {"oom": text}
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in OWN:
        return {"missing": f"{error.name.partition('.')[0]} is not installed"}
    return {"failure": text}
