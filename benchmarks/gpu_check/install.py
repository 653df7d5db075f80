"""The part ``install``: both extensions built and the checkout importable, without asking any package index."""

import os
import sys
import tempfile

from benchmarks import processes
from benchmarks.gpu_check.record import Check, Found, digest, files
from benchmarks.processes import Command

SOURCES = ("setup.py", "pyproject.toml", "csrc/**/*.*")
NAME = "salcr"
PIP = (sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--editable", ".")
IMPORTS = "import salcr._C, salcr._cuda, salcr.kernels, salcr.cuda_sources; print(salcr.__file__)"


def install(check: Check) -> Found:
    """Skipped where nothing that is built has changed and everything can be imported from elsewhere."""
    key = digest(check.root, files(check.root, *SOURCES))
    before = check.result("install", NAME, key)
    if before is not None and before["passed"] and importable(check) is None:
        return Found(done=[NAME])
    required = {"SALCR_REQUIRE_CPP": "1", "SALCR_REQUIRE_CUDA": "1", "SALCR_BUILD_JOBS": str(os.cpu_count())}
    for ended in processes.run([Command(NAME, PIP, required)], check.root, 1, check.deadline):
        check.log(ended)
        if ended.status is None:
            return Found(left={NAME: f"killed after {ended.seconds} s"})
        why = f"pip ended with status {ended.status}, see gpu_check.log" if ended.status else importable(check)
        check.keep("install", NAME, key, passed=why is None, why=why, seconds=ended.seconds)
        return Found(failed={NAME: why}) if why else Found(done=[NAME])
    return Found(left={NAME: "no time"})


def importable(check: Check) -> str | None:
    """Why this checkout cannot be imported from another folder, or None if it can."""
    with tempfile.TemporaryDirectory() as elsewhere:
        imports = Command("imports", (sys.executable, "-c", IMPORTS), {"PYTHONPATH": ""})
        for ended in processes.run([imports], elsewhere, 1, check.deadline):
            lines = ended.output.strip().splitlines() or ["nothing was printed"]
            if ended.status:
                return f"it is built, but cannot be imported: {lines[-1]}"
            if str(check.root) not in lines[-1]:
                return f"another salcr is imported: {lines[-1]}"
            return None
    return "no time to import it"
