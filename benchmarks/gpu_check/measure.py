"""The parts ``bench`` and ``tune``: the registry at full sizes, and the launch tables."""

import sys

from benchmarks import ledger, processes, registry, runner
from benchmarks.gpu_check.record import NO_DEVICE, NOT_BEGUN, SOURCES, Check, Found, digest, files, fingerprint
from benchmarks.processes import Command
from benchmarks.worker import Worker

CASE_LIMIT = 150  # seconds
TUNE = "benchmarks.tune"


def bench(check: Check) -> Found:
    """Measure the cases that ``cuda.json`` does not have from the same sources."""
    cases = runner.cases_for("cuda")
    print(f"  {len(cases)} cases", flush=True)
    if check.device is None:
        return Found(left=dict.fromkeys((case.name for case in cases), NO_DEVICE), left_out=dict(registry.LEFT_OUT))
    check.out.mkdir(parents=True, exist_ok=True)
    file, sources = check.out / "cuda.json", digest(check.root, files(check.root, *SOURCES))
    record = ledger.read(file)
    with Worker(limit=CASE_LIMIT) as worker:
        if record.get("sources") != sources:
            record = {**runner.new_record("cuda", False, worker), "sources": sources}
        left = runner.fill(record, cases, worker, file, check.deadline)
    failed = {name: runner.failures({"cases": {name: case}}) for name, case in record["cases"].items()}
    return Found(
        done=[name for name, variants in failed.items() if not variants],
        failed={name: ", ".join(variants) for name, variants in failed.items() if variants},
        left=dict.fromkeys(left, NOT_BEGUN),
        left_out=dict(registry.LEFT_OUT),
    )


def tune(check: Check) -> Found:
    """Tune in what time there is. It changes sources, so that afterwards the parts before it are due again."""
    before = check.result("tune", TUNE, fingerprint(check.root))
    if before is not None and before["passed"]:
        return Found(done=[TUNE])
    if not (check.root / TUNE.replace(".", "/")).with_suffix(".py").exists():
        return Found(left_out={TUNE: "it is not in this checkout"})
    if check.device is None:
        return Found(left={TUNE: NO_DEVICE})
    minutes = max(0.0, check.left - 30) / 60
    command = Command(TUNE, (sys.executable, "-m", TUNE, "--minutes", f"{minutes:.1f}"))
    for ended in processes.run([command], check.root, 1, check.deadline):
        print(ended.output)
        check.log(ended)
        if ended.status is None:
            return Found(left={TUNE: f"killed after {ended.seconds} s"})
        why = f"ended with status {ended.status}, see gpu_check.log" if ended.status else None
        check.keep("tune", TUNE, fingerprint(check.root), passed=why is None, why=why, seconds=ended.seconds)
        return Found(failed={TUNE: why}) if why else Found(done=[TUNE])
    return Found(left={TUNE: NOT_BEGUN})
