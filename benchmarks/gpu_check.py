"""``python -m benchmarks.gpu_check``: build, cuda-marked tests, ledger and registry on this machine's GPU.

All output goes into one folder (``--out``, default ``benchmarks/results``): the ledger ``verified.json``, the record of
the registry ``cuda.json``, and of the last run ``gpu_check.json`` (parts, verdicts), ``gpu_check.log`` (what build and
tests printed) and ``gpu_check.xml`` (JUnit). Called again with the same folder, machine and sources, it skips tests
that passed and cases that were measured.
"""

import argparse
import datetime
import hashlib
import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import ledger
from benchmarks.machine import ROOT, commit, machine, versions

SOURCES = ("setup.py", "kernels/*.py", "csrc/**/*.*", "salcr/**/*.py", "benchmarks/**/*.py", "tests/**/*.py")
KEPT_FOR_REGISTRY, CASE_LIMIT = 150, 150  # seconds: what tests leave over, and what one case may take
QUICK = ("build", "ledger")  # parts that take no time where nothing changed, and are always run


@dataclass
class Check:
    """One run of the check: the checkout, the folder of all output, what it runs on, and until when it may start work.

    ``parts`` holds what every part found; a part that passed is not run again while nothing changes.
    """

    root: Path
    out: Path
    stamp: Mapping
    deadline: float = float("inf")
    parts: dict[str, dict] | None = None

    @property
    def left(self) -> float:
        return max(1.0, self.deadline - time.monotonic())


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every part passed. 2: there is no GPU here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=(ROOT / ledger.LEDGER).parent, help="folder of all output")
    parser.add_argument("--minutes", type=float, default=8.0, help="start nothing new after these")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            f"gpu-check needs an NVIDIA GPU and a CUDA build of torch: torch {torch.__version__} sees no CUDA device. "
            "Nothing was run and the ledger was not touched.",
            file=sys.stderr,
        )
        return 2
    stamp = {"device": machine()["gpu"], "versions": versions()}
    return check(Check(ROOT, options.out.resolve(), stamp, time.monotonic() + 60 * options.minutes))


def check(this: Check, parts: Mapping[str, Callable[[Check], dict]] | None = None) -> int:
    """Run the parts that have not passed yet, each with what the ones before it found; a part that fails stops none.

    The ledger comes before the registry, so that time running out costs cases alone.

    Returns:
        0 if every part passed, else 1.
    """
    parts = PARTS if parts is None else parts
    this.out.mkdir(parents=True, exist_ok=True)
    state = {**this.stamp, "commit": commit(), "sources": fingerprint(this.root)}
    before = ledger.read(this.out / "gpu_check.json")
    this.parts = before["parts"] if {k: before.get(k) for k in state} == state else {}
    for name, part in parts.items():
        if name not in QUICK and this.parts.get(name, {}).get("passed"):
            print(f"{name}: passed before", flush=True)
            continue
        start = time.monotonic()
        found = part(this)
        this.parts[name] = {**found, "seconds": round(time.monotonic() - start, 1), "date": _now()}
        ledger.write(this.out / "gpu_check.json", state | {"parts": this.parts})
        print(f"{name}: {'passed' if found['passed'] else 'not passed'}, {this.parts[name]['seconds']} s", flush=True)
    return 0 if all(this.parts[name]["passed"] for name in parts) else 1


def fingerprint(root: Path) -> str:
    """SHA-256 of every source file: what was found holds while it stays the same."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in root.glob(pattern) if path.is_file()}):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def build(this: Check) -> dict:
    """Both extensions, in place."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    jobs = {"SALCR_REQUIRE_CPP": "1", "SALCR_BUILD_JOBS": str(os.cpu_count())}
    status = _run(this, command, jobs, this.left, mode="w")
    return {"passed": status == 0, "status": status}


def tests(this: Check) -> dict:
    """Every cuda-marked test; kernel files' hashes are those before the run."""
    hashes = ledger.hashes(this.root)
    results = this.out / "gpu_check.xml"
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "cuda", f"--junitxml={results}", "-p", "no:cacheprovider"]
    command.append("--continue-on-collection-errors")
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # cuBLAS is deterministic only with this
    status = _run(this, command, environment, max(1.0, this.left - KEPT_FOR_REGISTRY))
    if not results.exists():
        print(f"pytest died (exit status {status}) without writing results; the ledger stays as it was")
        return {"passed": False, "status": status}
    counts = Counter(outcome for found in read_outcomes(results).values() for outcome in found.values())
    return {"passed": status == 0, "status": status, "hashes": hashes, "counts": dict(counts)}


def registry(this: Check) -> dict:
    """Every case of the benchmarks at its full size, as far as time allows."""
    from benchmarks import runner
    from benchmarks.worker import Worker

    file = this.out / "cuda.json"
    record, sources = ledger.read(file), fingerprint(this.root)
    with Worker(limit=CASE_LIMIT) as worker:
        if record.get("sources") != sources:
            record = {**runner.new_record("cuda", False, worker), "sources": sources}
        left = runner.fill(record, runner.cases_for("cuda"), worker, file, this.deadline)
    failed = runner.failures(record)
    return {"passed": not left and not failed, "failed": failed, "not_reached": left}


def write_ledger(this: Check) -> dict:
    """The kernel files that are green: exactly they stand in the ledger afterwards, with the stamp and the date."""
    hashes = this.parts.get("tests", {}).get("hashes")
    if hashes is None:  # no results: the ledger stays as it was
        return {"passed": False}
    outcomes = read_outcomes(this.out / "gpu_check.xml")
    verdicts = {kernel: ledger.verdict(kernel, outcomes) for kernel in hashes}
    green = [kernel for kernel, reason in verdicts.items() if reason is None]
    entries = {kernel: {"sha256": hashes[kernel], **this.stamp, "date": _now()} for kernel in green}
    ledger.write(this.out / Path(ledger.LEDGER).name, entries)
    for kernel, reason in verdicts.items():
        print(f"{'not green' if reason else 'green':10}{kernel}{f': {reason}' if reason else ''}")
    print(f"{this.stamp['device']}: {len(green)} of {len(hashes)} kernel files green; records in {this.out}")
    return {"passed": len(green) == len(hashes), "not_green": {k: v for k, v in verdicts.items() if v}}


PARTS: dict[str, Callable[[Check], dict]] = {
    "build": build,
    "tests": tests,
    "ledger": write_ledger,
    "registry": registry,
}


def _run(this: Check, command: Sequence[str], environment: Mapping[str, str], seconds: float, mode: str = "a") -> int:
    """Exit status of ``command``, which is killed after ``seconds``; what it prints goes to the log too."""
    with (
        (this.out / "gpu_check.log").open(mode) as file,
        subprocess.Popen(
            command,
            cwd=this.root,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        clock = threading.Timer(min(seconds, threading.TIMEOUT_MAX), process.kill)
        clock.start()
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
        process.wait()
        clock.cancel()
    return process.returncode


def read_outcomes(results: Path) -> dict[str, dict[str, str]]:
    """Test file → test → outcome. A file that could not be collected has one failed entry of its own name."""
    outcomes: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(results).iter("testcase"):
        module = case.get("classname") or case.get("name")
        parts = module.split(".")
        end = next((i for i, part in enumerate(parts, 1) if part.startswith("test_")), len(parts))
        file, name = "/".join(parts[:end]) + ".py", ".".join([*parts[end:], case.get("name")])
        outcome = "passed"
        if case.find("skipped") is not None:
            outcome = "skipped"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        found = outcomes.setdefault(file, {})
        if found.get(name) != "failed":  # a test that passed and then failed in teardown has two entries
            found[name] = outcome
    return outcomes


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    sys.exit(main())
