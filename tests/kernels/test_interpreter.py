"""Every module ``interpreted_*.py`` beside this one, in a process whose Triton interprets its kernels."""

from pathlib import Path

import pytest

from tests.kernels.lanes import interpret, require_interpreter

require_interpreter()


@pytest.mark.long
def test_interpreted():
    modules = sorted(Path(__file__).parent.glob("interpreted_*.py"))
    assert modules
    interpret(*modules)
