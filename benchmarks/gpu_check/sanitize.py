"""The part ``sanitize``: compute-sanitizer over the smallest cuda-marked tests of every kernel file.

The sanitizer looks for accesses out of bounds (memcheck) and races in shared memory (racecheck). PyTorch's cache of
memory is off: inside a cached block an access past the end of a tensor would pass.
"""

import math
import os
import re
import shutil
from collections.abc import Sequence

from benchmarks import ledger, processes
from benchmarks.gpu_check.record import NO_DEVICE, NOT_BEGUN, Check, Found, fingerprint
from benchmarks.gpu_check.tests import PYTEST, collect
from benchmarks.processes import Command, Ended

TOOLS = {"memcheck": r"ERROR SUMMARY: 0 errors", "racecheck": r"RACECHECK SUMMARY: 0 hazards"}  # tool → a clean end
OPTIONS = ("--target-processes", "all", "--report-api-errors", "no", "--error-exitcode", "86")
REFUSED = re.compile(r"^=========[^\n]*(?:not supported|unable to attach|insufficient permissions)[^\n]*", re.I | re.M)
LIMIT = 150  # seconds a case may take


def sanitize(check: Check) -> Found:
    """Run every kernel file's case under every tool, where these have not passed with the same sources."""
    collected, key = collect(check), fingerprint(check.root)
    cases = {kernel: smallest(collected.get(ledger.tests_of(kernel), [])) for kernel in ledger.hashes(check.root)}
    failed = {kernel: f"no cuda-marked test in {ledger.tests_of(kernel)}" for kernel, case in cases.items() if not case}
    names = {f"{kernel} {tool}": (tool, case) for kernel, case in cases.items() if case for tool in TOOLS}
    if check.device is None:
        print(f"  {len(names)} runs of compute-sanitizer")
        return Found(failed=failed, left=dict.fromkeys(names, NO_DEVICE))
    program = find_sanitizer()
    if program is None:
        return Found(failed=failed, left_out=dict.fromkeys(names, "compute-sanitizer is not installed"))
    due = [name for name in names if not (check.result("sanitize", name, key) or {}).get("passed")]
    late = dict.fromkeys(due, NOT_BEGUN)
    commands = [command(program, name, *names[name]) for name in due]
    for ended in processes.run(commands, check.root, check.at_once, check.deadline):
        if ended.status is None and check.left <= 0:
            late[ended.name] = f"killed after {ended.seconds} s"
            continue
        del late[ended.name]
        found = judge(ended, names[ended.name][0])
        check.log(ended)
        check.keep("sanitize", ended.name, key, case=names[ended.name][1], **found, seconds=ended.seconds)
        print(f"  {ended.seconds:6.1f} s  {ended.name}: {found['why'] or 'clean'}", flush=True)
    found = {name: check.result("sanitize", name, key) for name in names if name not in late}
    return Found(
        done=[name for name, result in found.items() if result["passed"]],
        failed=failed | {n: r["why"] for n, r in found.items() if not r["passed"] and not r["refused"]},
        left=late,
        left_out={name: result["why"] for name, result in found.items() if result["refused"]},
    )


def smallest(tests: Sequence[str]) -> list[str]:
    """Of every test function whose parameters are sizes the test with the smallest product; else the first of all.

    Sizes of 0 and 1 are left out, at which a kernel may do nothing.
    """
    found: dict[str, tuple[int, str]] = {}
    for test in tests:
        function, _, parameters = test.partition("[")
        sizes = [int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.])", parameters)]
        if len(sizes) > 1 and min(sizes) > 1:
            found[function] = min(found.get(function, (math.inf, "")), (math.prod(sizes), test))
    return [test for _, test in found.values()] or list(tests[:1])


def find_sanitizer() -> str | None:
    homes = filter(None, (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"))
    folders = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def command(program: str, name: str, tool: str, case: Sequence[str]) -> Command:
    arguments = (program, "--tool", tool, *OPTIONS, *PYTEST, "-q", *case)
    return Command(name, arguments, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, LIMIT)


def judge(ended: Ended, tool: str) -> dict:
    """Whether a run was clean; ``refused`` where the tool does not work on this device, which says nothing."""
    if ended.status == 0 and re.search(TOOLS[tool], ended.output):
        return {"passed": True, "refused": False, "why": None}
    if refusal := REFUSED.search(ended.output):
        return {"passed": False, "refused": True, "why": refusal[0].strip("= \t")}
    summary = re.search(r"[^\n=]*SUMMARY: (?!0)[^\n]*", ended.output)
    if ended.status is None:
        why = f"took longer than {LIMIT} s"
    else:
        why = summary[0].strip() if summary else f"the test ended with status {ended.status}"
    return {"passed": False, "refused": False, "why": f"{why}, see gpu_check.log"}
