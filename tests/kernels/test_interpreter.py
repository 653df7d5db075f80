"""Every module ``interpreted_*.py`` beside this one, in a process whose Triton interprets its kernels."""

from pathlib import Path

import numpy as np
import pytest

from tests.kernels.lanes import interpret

triton = pytest.importorskip("triton")
if triton.__version__.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
    reason = f"the interpreter of Triton {triton.__version__} fails with NumPy 2.4 and newer, here {np.__version__}"
    pytest.skip(reason, allow_module_level=True)


@pytest.mark.long
def test_interpreted():
    modules = sorted(Path(__file__).parent.glob("interpreted_*.py"))
    assert modules
    interpret(*modules)
