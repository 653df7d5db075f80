"""``salcr bench``: the registry's cases measured on this machine, as lines on the way and as a record at the end."""

import datetime
import fnmatch
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.case import Case
from benchmarks.compare import compare
from benchmarks.devices import floor_ms
from benchmarks.machine import commit, machine, versions
from benchmarks.measure import PLAIN, REASONS, variants_on
from benchmarks.records import read_record, write_json
from benchmarks.registry import CASES, LEFT_OUT
from benchmarks.worker import TOO_LONG, Worker

LEAST = 20  # seconds before the deadline within which no case is begun


def bench(
    *,
    only: Sequence[str] = (),
    device: str = "cpu",
    quick: bool = False,
    out: Path | None = None,
    against: Path | None = None,
) -> int:
    """Measure cases, all or those whose names match one of ``only``; write a record, compare it with an earlier one.

    ``out`` is written after every case, so that an interrupted run keeps what it has.

    Returns:
        0, or 1 if a variant failed or became slower than the noise. Libraries that are not installed and variants that
        ran out of memory are recorded and are no failure.

    Raises:
        OSError, ValueError: no such case or device, or the earlier record is none, of another device or of other sizes.
    """
    check_device(device)
    cases = cases_for(device, only)
    earlier = None if against is None else read_record(against)
    if earlier is not None and (earlier["device"], earlier["quick"]) != (device, quick):
        raise ValueError(f"{against} is a record of another device or of other sizes")
    for name, why in LEFT_OUT.items():
        print(f"{name} is left out: {why}")
    with Worker() as worker:
        record = new_record(device, quick, worker)
        fill(record, cases, worker, out)
    slower: Sequence[str] = ()
    if earlier is not None:
        table, slower = compare(record, earlier)
        print("\n".join(table))
    return 1 if slower or failures(record) else 0


def cases_for(device: str, only: Sequence[str] = ()) -> list[Case]:
    """The cases of which more than the baseline can exist on ``device``, all or those that match one of ``only``.

    Raises:
        ValueError: nothing matches one of ``only``.
    """
    cases = [case for case in CASES if len(variants_on(case, device)) > 1]
    names = [case.name for case in cases]
    matching = {pattern: set(fnmatch.filter(names, pattern)) for pattern in only}
    for pattern, found in matching.items():
        if not found:
            raise ValueError(f"no case matches {pattern!r} on {device}; there are {', '.join(names)}")
    wanted = set().union(*matching.values()) if only else set(names)
    return [case for case in cases if case.name in wanted]


def check_device(device: str) -> None:
    """Raises ValueError where ``device`` is none, or not here."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"the device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device is visible")


def new_record(device: str, quick: bool, worker: Worker) -> dict:
    """What is measured where, without cases yet; the machine's ceilings are of the same run."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "device": device,
        "quick": quick,
        "ceilings": worker.ask(task="ceilings", device=device),
        "cases": {},
    }


def fill(
    record: dict, cases: Sequence[Case], worker: Worker, out: Path | None = None, deadline: float = float("inf")
) -> list[str]:
    """Measure the cases that ``record`` does not have, writing it to ``out`` after every one of them.

    Returns:
        Names of the cases that were not begun or not finished because ``deadline`` (of :func:`time.monotonic`) came.
    """
    left = []
    for case in cases:
        if case.name in record["cases"]:
            continue
        result = run(case, record, worker, deadline) if deadline - time.monotonic() >= LEAST else None
        if result is None:
            left.append(case.name)
        else:
            record["cases"][case.name] = result
            print("\n".join(lines(case.name, result)), flush=True)
        if out is not None:
            write_json(out, record)
    return left


def run(case: Case, record: dict, worker: Worker, deadline: float = float("inf")) -> dict | None:
    """One case of a record: its note, its floors, and what every variant took or why it has no time.

    A case that takes longer than the worker's limit is tried once more without its slow baselines, and says so;
    ``record["too_long"]`` has its name, so that a later call begins there. None where ``deadline`` came first.
    """
    device, quick = record["device"], record["quick"]
    task = {"case": case.name, "quick": quick}
    names, alone = variants_on(case, device), {}
    with tempfile.TemporaryDirectory() as folder:
        if device == "cpu":
            alone = {n: worker.ask(task="peak", variant=n, keep=f"{folder}/{n}", **task) for n in names}
        lost = {n: found for n, found in alone.items() if found.keys() & set(REASONS)}
        done = {n: (found.pop("seconds"), f"{folder}/{n}") for n, found in alone.items() if "seconds" in found}
        task |= {"task": "measure", "device": device, "skip": list(lost), "done": done}
        measured, slow, too_long = TOO_LONG, [], record.get("too_long", [])
        if case.name not in too_long:
            measured = _ask_in_time(worker, deadline, without=[], **task)
        if measured == TOO_LONG:
            record["too_long"] = [*(name for name in too_long if name != case.name), case.name]
            slow = [n for n in names if n in PLAIN and n not in done]
            measured = _ask_in_time(worker, deadline, without=slow, **task)
    if measured is None:
        return None
    if "variants" not in measured:  # the process that timed them died
        measured = {"variants": dict.fromkeys(names, measured)}
    elif slow:
        why = f"the case took longer than {worker.limit} s with it"
        measured["variants"] |= {n: {"left_out": why} for n in slow}
        measured["checked"] = "against the baselines at quick sizes only"
    variants = {n: lost[n] if n in lost else alone.get(n, {}) | measured["variants"][n] for n in names}
    result = {"note": case.note, "phase": case.phase, **measured, "variants": variants}
    least = floor_ms(result, record["ceilings"])
    return result if least is None else result | {"floor_ms": least}


def _ask_in_time(worker: Worker, deadline: float, **task: object) -> dict | None:
    """The worker's answer, None where ``deadline`` cut it short."""
    limit = int(max(1, min(worker.limit, deadline - time.monotonic())))
    answer = worker.ask(limit=limit, **task)
    return None if answer == TOO_LONG and limit < worker.limit else answer


def failures(record: dict) -> list[str]:
    """``case/variant`` of everything that raised, crashed or was wrong."""
    return [f"{c}/{v}" for c, case in record["cases"].items() for v, r in case["variants"].items() if "failure" in r]


def lines(name: str, case: dict) -> list[str]:
    """A case of a record in words."""
    found = [f"{name} ({case['note']})", *([f"  checked {case['checked']}"] if "checked" in case else [])]
    for variant, result in case["variants"].items():
        if "median_ms" not in result:
            found.append(f"  {variant:12}{next(f'{k}: {v}' for k, v in result.items() if k != 'peak_mb')}")
            continue
        line = "  {:12}{median_ms:10.3f} ms  [{p20_ms:.3f}, {p80_ms:.3f}]".format(variant, **result)
        if "peak_mb" in result:
            line += f"  {result['peak_mb']:8.1f} MB"
        if "floor_ms" in case:
            line += f"  {case['floor_ms'] / result['median_ms']:.0%} of the ceiling"
        if "error" in result:
            line += f"  error {result['error']:.1g}"
        found.append(line)
    return found
