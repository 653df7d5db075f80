import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import gpu_check, ledger
from benchmarks.gpu_check.install import install
from benchmarks.gpu_check.measure import bench, epoch, tune
from benchmarks.gpu_check.record import NO_DEVICE, Check, Found
from benchmarks.gpu_check.sanitize import sanitize
from benchmarks.gpu_check.tests import run_tests
from benchmarks.machine import ROOT, machine, versions

Part = Callable[[Check], Found]
PARTS: dict[str, Part] = {
    "install": install,
    "tests": run_tests,
    "sanitize": sanitize,
    "bench": bench,
    "epoch": epoch,
    "tune": tune,
}
LEAST = 20  # seconds below which no part is begun
AT_ONCE = 8  # commands that share the GPU


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: the parts asked for passed. 2: there is no GPU here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=gpu_check.__doc__)
    parser.add_argument("--part", choices=PARTS, help="only this one; else all, in order")
    parser.add_argument("--out", type=Path, default=(ROOT / ledger.LEDGER).parent, help="folder of all output")
    parser.add_argument("--minutes", type=float, default=8.5, help="the call ends after these")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    device = machine()["gpu"]
    if device is None and options.part is None:
        print(
            f"gpu-check needs an NVIDIA GPU and a CUDA build of torch: torch {torch.__version__} sees no CUDA device. "
            "Nothing was run and the ledger was not touched.",
            file=sys.stderr,
        )
        return 2
    at_once = min(AT_ONCE, os.cpu_count() or 1)
    check = Check(ROOT, options.out.resolve(), device, versions(), deadline, at_once)
    return run(check, PARTS, [options.part] if options.part else list(PARTS))


def run(check: Check, parts: Mapping[str, Part], asked: Sequence[str]) -> int:
    """Run the parts that were asked for and report where all of them stand; a part that fails stops none."""
    for name in asked:
        if check.left < LEAST:
            break
        print(f"{name}:", flush=True)
        try:
            found = parts[name](check)
        except TimeoutError as error:
            found = Found(left={name: str(error)})
        except RuntimeError as error:
            found = Found(failed={name: str(error)})
        check.conclude(name, found)
    states = {name: check.concluded(name) for name in parts}
    print()
    for name in parts:
        print("\n".join(lines(name, states[name])))
    print(f"records in {check.out}\n{advice(states)}", flush=True)
    if any(NO_DEVICE in states[name].left.values() for name in asked if states[name]):
        return 2
    return 0 if all(states[name] is not None and states[name].passed for name in asked) else 1


def lines(name: str, state: Found | None) -> list[str]:
    """Where a part stands, names with the same reason in one line."""
    if state is None:
        return [f"{name:10}not run with these sources"]
    kinds = {"failed": state.failed, "left": state.left, "left out": state.left_out}
    counts = [f"{len(state.done)} passed", *(f"{len(names)} {kind}" for kind, names in kinds.items() if names)]
    found = [f"{name:10}{', '.join(counts)}"]
    for kind, names in kinds.items():
        for reason, group in itertools.groupby(sorted(names, key=names.get), names.get):
            found.append(f"  {kind}: {', '.join(group)} ({reason})")
    return found


def advice(states: Mapping[str, Found | None]) -> str:
    """What to call next."""
    for name, state in states.items():
        if state is None or state.left:
            return f"next: make gpu-check PART={name}"
    failed = [name for name, state in states.items() if state.failed]
    return f"next: mend what failed, then make gpu-check PART={failed[0]}" if failed else "next: nothing, all is done"


if __name__ == "__main__":
    sys.exit(main())
