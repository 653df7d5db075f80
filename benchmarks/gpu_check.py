"""``python -m benchmarks.gpu_check``: run every cuda-marked test on this machine's GPU and write the ledger.

All output goes into one folder (``--out``, default ``benchmarks/results``): the ledger ``verified.json``, and of the
last run ``gpu_check.json`` (what ran, verdicts), ``gpu_check.log`` (what pytest printed), ``gpu_check.xml`` (JUnit).
"""

import argparse
import datetime
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import ledger
from benchmarks.machine import ROOT, commit, machine, versions


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every cuda-marked test passed and every kernel file is green. 2: there is no GPU here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=(ROOT / ledger.LEDGER).parent, help="folder of all output")
    out = parser.parse_args(arguments).out
    if not torch.cuda.is_available():
        print(
            f"gpu-check needs an NVIDIA GPU and a CUDA build of torch: torch {torch.__version__} sees no CUDA device. "
            "Nothing was run and the ledger was not touched.",
            file=sys.stderr,
        )
        return 2
    stamp = {"device": machine()["gpu"], "versions": versions()}
    return check(ROOT, out.resolve(), stamp)


def check(root: Path, out: Path, stamp: Mapping) -> int:
    """Run the cuda-marked tests of the checkout at ``root``; write ledger and records into ``out``.

    The ledger holds afterwards exactly the kernel files that were green, each with its hash as it was before the run,
    ``stamp`` and the date. A pytest that died without writing results leaves the ledger as it was.

    Returns:
        0 if every test passed and every kernel file is green, else 1.
    """
    out.mkdir(parents=True, exist_ok=True)
    before = ledger.hashes(root)
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    results = out / "gpu_check.xml"
    results.unlink(missing_ok=True)
    status = _run_tests(root, results, out / "gpu_check.log")
    if not results.exists():
        print(f"pytest died (exit status {status}) without writing results; the ledger was not touched")
        return 1
    outcomes = _read_outcomes(results)
    verdicts = {kernel: ledger.verdict(kernel, outcomes) for kernel in before}
    green = {k: {"sha256": before[k], **stamp, "date": date} for k, reason in verdicts.items() if reason is None}
    ledger.write(out / Path(ledger.LEDGER).name, green)
    counts = Counter(outcome for tests in outcomes.values() for outcome in tests.values())
    summary = {**stamp, "commit": commit(), "date": date, "pytest_status": status, "tests": dict(counts)}
    ledger.write(out / "gpu_check.json", summary | {"not_green": {k: v for k, v in verdicts.items() if v}})
    for kernel, reason in verdicts.items():
        print(f"{'not green' if reason else 'green':10}{kernel}{f': {reason}' if reason else ''}")
    print(f"{stamp['device']}: {dict(counts)}; {len(green)} of {len(before)} kernel files green; records in {out}")
    return 0 if status == 0 and len(green) == len(before) else 1


def _run_tests(root: Path, results: Path, log: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-m", "cuda", f"--junitxml={results}", "-p", "no:cacheprovider"]
    command.append("--continue-on-collection-errors")
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # cuBLAS is deterministic only with this
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
    return process.returncode


def _read_outcomes(results: Path) -> dict[str, dict[str, str]]:
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
        tests = outcomes.setdefault(file, {})
        if tests.get(name) != "failed":  # a test that passed and then failed in teardown has two entries
            tests[name] = outcome
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
