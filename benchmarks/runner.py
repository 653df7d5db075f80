"""``python -m benchmarks.runner``: time the variants of the registry's cases against each other, correctness first.

A variant is timed only after its outputs matched the first variant's in the same process, and reports its times only
if the outputs of its last timed run still do. All variants of a case run in turns, so that a slower minute of the
machine hits every one of them. No time is reported for a variant that failed, but why.
"""

import argparse
import datetime
import fnmatch
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import ledger
from benchmarks.case import Case
from benchmarks.machine import commit, machine, versions
from benchmarks.registry import CASES

ROUNDS = 3, 50  # at least and at most; between them as many as fit into SECONDS
SECONDS = 10.0
SLOW = 30.0  # a case that takes longer than this to go once through its variants is timed once
RUNS_ONLY_ON = {
    "compiled": ("cuda",),
    "cpu": ("cpu",),
    "triton": ("cuda",),
    "cuda": ("cuda",),
    "faiss": ("cpu",),
}  # a variant named like a backend or a library


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 if every variant of every chosen case was right, else 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runner", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of cases, with * and ?")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a JSON record")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: a test, not a measurement")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if fnmatch.fnmatchcase(case.name, options.only)]
    if not cases:
        parser.error(f"no case matches {options.only!r}; there are {', '.join(case.name for case in CASES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is visible")
    record = run(cases, options.device, options.quick, report=print)
    if options.out is not None:
        ledger.write(options.out, record)
    failed = any("failure" in v for case in record["cases"].values() for v in case["variants"].values())
    return 1 if failed else 0


def run(cases: Iterable[Case], device: str, quick: bool, report: Callable[[str], None] = lambda line: None) -> dict:
    """The record of ``cases``: machine, versions, commit, and for every variant its times or its failure."""
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "device": device,
        "quick": quick,
        "cases": {},
    }
    for case in cases:
        report(f"{case.name} ({case.note})" + (" at quick sizes" if quick else ""))
        variants = measure(case, device, quick)
        record["cases"][case.name] = {"note": case.note, "variants": variants}
        floor = _floor(case, device, quick) if case.floor_bytes is not None else {}
        record["cases"][case.name] |= floor
        for name, result in variants.items():
            time_or_failure = result.get("failure") or "{median_ms:10.3f} ms  [{p20_ms:.3f}, {p80_ms:.3f}]".format(
                **result
            )
            if floor and "failure" not in result:
                time_or_failure += f"  {floor['floor_ms'] / result['median_ms']:.0%} of a copy of the floor's bytes"
            report(f"  {name:12}{time_or_failure}")
    return record


def measure(case: Case, device: str, quick: bool) -> dict[str, dict]:
    """For every variant of ``case`` that can exist on ``device``: its times in milliseconds, or its failure."""
    names = [n for n in case.variants if device in RUNS_ONLY_ON.get(n, (device,))]
    inputs = case.make_inputs(device, quick)
    own = {name: _copy(inputs) for name in names}  # some operators change their inputs in place
    results: dict[str, dict] = {name: {} for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}

    def turn(timed: bool, verify: bool) -> None:
        expected = None
        for name in [n for n in names if "failure" not in results[n]]:
            try:
                seconds, outputs = _time(case.variants[name], own[name], device)
                if name == names[0]:
                    expected = outputs
                elif expected is None:
                    raise RuntimeError(f"{names[0]} failed, nothing to compare with")
                elif verify:
                    case.check(outputs, expected)
            except Exception as error:
                results[name]["failure"] = f"{type(error).__name__}: {error}"
            else:
                if timed:
                    times[name].append(1000 * seconds)

    start, (least, most) = time.perf_counter(), (1, 3) if quick else ROUNDS
    turn(timed=False, verify=True)
    if time.perf_counter() - start > SLOW:
        least = 1
    else:
        turn(timed=False, verify=False)
    start = time.perf_counter()
    for n in range(1, most + 1):
        last = n == most or (n >= least and time.perf_counter() - start > SECONDS)
        turn(timed=True, verify=last)
        if last:
            break
    for name, result in results.items():
        if "failure" not in result:
            p20, median, p80 = np.percentile(times[name], (20, 50, 80)).tolist()
            result.update(median_ms=median, p20_ms=p20, p80_ms=p80, runs=len(times[name]))
    return results


def _floor(case: Case, device: str, quick: bool) -> dict[str, float]:
    """Bytes that ``case`` has to move at least, and the median time of a plain copy that moves as many."""
    count = case.floor_bytes(*case.make_inputs(device, quick))
    source = torch.ones(count // 2, dtype=torch.uint8, device=device)
    target = source.clone()
    times = [1000 * _time(target.copy_, (source,), device)[0] for _ in range(10)]
    return {"floor_bytes": count, "floor_ms": float(np.median(times))}


def _time(variant: Callable, inputs: Sequence, device: str) -> tuple[float, object]:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    outputs = variant(*inputs)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, outputs


def _copy(inputs: object) -> object:
    if isinstance(inputs, torch.Tensor):
        return inputs.clone()
    return type(inputs)(map(_copy, inputs)) if isinstance(inputs, (tuple, list)) else inputs


if __name__ == "__main__":
    sys.exit(main())
