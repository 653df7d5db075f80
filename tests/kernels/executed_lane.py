"""The modules ``interpreted_*.py`` with kernels as compiled: ``python -m tests.kernels.executed_lane``.

For a change of a kernel, a launch table or Triton's version: it takes minutes, so CI runs test_executed.py instead.
Arguments are compute capabilities, all that the machine knows by default. ``--cuda`` runs cuda-marked tests in place of
those modules, on the GPU that tests/pretended_gpu.py pretends. The module is also the plugin of pytest.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.executed import ARCHITECTURES, executed
from tests.kernels.lanes import ROOT
from tests.test_pretended_gpu import FOLDERS, with_cuda_marked_tests

OF_THE_INTERPRETER = {"interpreted_races.py", "interpreted_work.py"}  # look into it
WITHOUT_TRITON = {"test_assignment_cuda.py"}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("architectures", nargs="*", type=int, default=ARCHITECTURES)
    parser.add_argument("--cuda", action="store_true")
    given = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", __spec__.name, "-n", "2"]
    if given.cuda:
        files = with_cuda_marked_tests(*FOLDERS, "engine")
        command += ["-p", "tests.pretended_gpu", *(x for x in files if x.name not in WITHOUT_TRITON)]
    else:
        files = sorted(Path(__file__).parent.glob("interpreted_*.py"))
        command += [x for x in files if x.name not in OF_THE_INTERPRETER]
    runs = (subprocess.run(command, cwd=ROOT, env=os.environ | {"SALCR_ARCH": str(x)}) for x in given.architectures)
    return max(run.returncode for run in runs)


@pytest.fixture(autouse=True)
def compiled_kernels():
    with executed(int(os.environ["SALCR_ARCH"])):
        yield


if __name__ == "__main__":
    sys.exit(main())
