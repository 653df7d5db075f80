"""The part ``tests``: every cuda-marked test, one process a test file, and the ledger after each of them.

A process of its own, because an illegal memory access spoils everything that its process does afterwards on the GPU.
"""

import re
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks import ledger, processes
from benchmarks.gpu_check.record import (
    NO_DEVICE,
    NOT_BEGUN,
    SOURCES,
    TEST_FILES,
    TESTS,
    Check,
    Found,
    digest,
    files,
    fingerprint,
)
from benchmarks.processes import Command, Ended
from benchmarks.records import read_json, write_json

PYTEST = (sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider")
NONE_COLLECTED = 5  # pytest's exit status


def run_tests(check: Check) -> Found:
    """Run the test files that have not passed with the same sources, first those that verify a kernel file."""
    hashes, collected = ledger.hashes(check.root), collect(check)
    keys = {file: key for file, key in keys_of_tests(check.root).items() if file in collected}
    if check.device is None:
        return Found(left=dict.fromkeys(keys, NO_DEVICE))
    verifying = set(map(ledger.tests_of, hashes))
    write_ledger(check, hashes, keys)
    due = [file for file in keys if not (check.result("tests", file, keys[file]) or {}).get("passed")]
    due.sort(key=lambda file: (file not in verifying, file))
    late = dict.fromkeys(due, NOT_BEGUN)
    with tempfile.TemporaryDirectory() as folder:
        results = {file: Path(folder, file.replace("/", ".")).with_suffix(".xml") for file in due}
        commands = [Command(file, (*PYTEST, f"--junitxml={results[file]}", file)) for file in due]
        for ended in processes.run(commands, check.root, check.at_once, check.deadline):
            if ended.status is None:
                late[ended.name] = f"killed after {ended.seconds} s"
                check.log(ended)
                continue
            del late[ended.name]
            found = judge(ended, results[ended.name])
            if not found["passed"]:
                check.log(ended)
            check.keep("tests", ended.name, keys[ended.name], **found, seconds=ended.seconds)
            write_ledger(check, hashes, keys)
            print(f"  {ended.seconds:6.1f} s  {ended.name}: {found['why'] or found['counts']}", flush=True)
    found = {file: check.result("tests", file, keys[file]) for file in keys if file not in late}
    failed = {file: result["why"] for file, result in found.items() if not result["passed"]}
    outcomes = {file: result["outcomes"] for file, result in found.items()}
    verdicts = {kernel: ledger.verdict(kernel, outcomes) for kernel in hashes if ledger.tests_of(kernel) not in late}
    print(f"  {list(verdicts.values()).count(None)} of {len(hashes)} kernel files green")
    return Found(
        done=[file for file in found if file not in failed],
        failed=failed | {f"{kernel} is not green": why for kernel, why in verdicts.items() if why},
        left=late,
    )


def collect(check: Check) -> dict[str, list[str]]:
    """Test file → its cuda-marked tests in order; a file that cannot be collected has none."""
    key = fingerprint(check.root)
    if before := check.result("collection", "tests", key):
        return before["tests"]
    command = Command("collection", (*PYTEST, "--collect-only", "-q", "--continue-on-collection-errors"))
    (ended,) = processes.run([command], check.root, 1, check.deadline)
    if ended.status is None:
        raise TimeoutError(f"collecting the tests was stopped after {ended.seconds} s")
    tests: dict[str, list[str]] = {}
    for line in ended.output.splitlines():
        if test := re.match(r"(tests/\S+?\.py)::", line):
            tests.setdefault(test[1], []).append(line)
        elif broken := re.match(r"ERROR (tests/\S+\.py)", line):
            tests.setdefault(broken[1], [])
    if not tests and ended.status != NONE_COLLECTED:
        check.log(ended)
        raise RuntimeError(f"pytest could not collect them (exit status {ended.status}), see gpu_check.log")
    broken = [file for file, names in tests.items() if not names]
    if broken:
        check.log(ended)
    else:
        check.keep("collection", "tests", key, passed=True, tests=tests)
    print(f"  {sum(map(len, tests.values()))} cuda-marked tests in {len(tests) - len(broken)} files", flush=True)
    print("\n".join(f"  {file} cannot be collected, see gpu_check.log" for file in broken), end="\n" if broken else "")
    return tests


def keys_of_tests(root: Path) -> dict[str, str]:
    """Of every test file a hash of itself and of all sources but the other test files."""
    own = files(root, TEST_FILES)
    common = digest(root, files(root, *SOURCES, TESTS) - own)
    return {path.relative_to(root).as_posix(): common + digest(root, [path]) for path in sorted(own)}


def judge(ended: Ended, results: Path) -> dict:
    """Whether a test file passed, why not, and the outcome of each test."""
    if not results.exists():
        why = f"pytest died (exit status {ended.status}) without writing results"
        return {"passed": False, "why": why, "outcomes": {}}
    outcomes = read_outcomes(results)
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(Counter(outcomes.values()).items()))
    first = next((name for name, outcome in outcomes.items() if outcome == "failed"), None)
    why = f"{counts}, first {first}" if first else f"exit status {ended.status}" if ended.status else None
    return {"passed": why is None, "why": why, "counts": counts, "outcomes": outcomes}


def read_outcomes(results: Path) -> dict[str, str]:
    """Test → ``"passed"``, ``"skipped"`` or ``"failed"``, from JUnit's XML."""
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(results).iter("testcase"):
        classes = (case.get("classname") or "").rpartition("test_")[2].split(".")[1:]
        name = ".".join([*classes, case.get("name")])
        outcome = "passed"
        if case.find("skipped") is not None:
            outcome = "skipped"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        if outcomes.get(name) != "failed":  # a test that passed and then failed in teardown has two entries
            outcomes[name] = outcome
    return outcomes


def write_ledger(check: Check, hashes: Mapping[str, str], keys: Mapping[str, str]) -> None:
    """Enter the kernel files whose tests all passed, take out those with one that did not; the others stay."""
    file = check.out / Path(ledger.LEDGER).name
    entries = {kernel: entry for kernel, entry in read_json(file).items() if kernel in hashes}
    for kernel, sha256 in hashes.items():
        test_file = ledger.tests_of(kernel)
        found = check.result("tests", test_file, keys.get(test_file, ""))
        if found is None and test_file in keys:
            continue
        if found is not None and ledger.verdict(kernel, {test_file: found["outcomes"]}) is None:
            entries[kernel] = {"sha256": sha256, **check.stamp, "date": found["date"]}
        else:
            entries.pop(kernel, None)
    if entries != read_json(file):
        write_json(file, entries)
