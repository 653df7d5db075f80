"""The modules ``interpreted_*.py`` with kernels as compiled: ``python -m tests.kernels.executed_lane``.

For a change of a kernel, a launch table or Triton's version: it takes minutes, so CI runs test_executed.py instead.
Arguments are compute capabilities, all that the machine knows by default. The module is also the plugin of pytest.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.executed import ARCHITECTURES, executed
from tests.kernels.lanes import ROOT

OF_THE_INTERPRETER = {"interpreted_races.py", "interpreted_work.py"}  # look into it


def main() -> int:
    chosen = [int(x) for x in sys.argv[1:]] or ARCHITECTURES
    modules = sorted(x for x in Path(__file__).parent.glob("interpreted_*.py") if x.name not in OF_THE_INTERPRETER)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", __spec__.name, "-n", "2", *modules]
    return max(subprocess.run(command, cwd=ROOT, env=os.environ | {"SALCR_ARCH": str(x)}).returncode for x in chosen)


@pytest.fixture(autouse=True)
def compiled_kernels():
    with executed(int(os.environ["SALCR_ARCH"])):
        yield


if __name__ == "__main__":
    sys.exit(main())
