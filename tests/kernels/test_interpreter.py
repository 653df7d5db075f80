"""Every module ``interpreted_*.py`` beside this one, in a process of its own whose Triton interprets its kernels."""

from pathlib import Path

import pytest

from tests.kernels.lanes import interpret

pytest.importorskip("triton")
MODULES = sorted(Path(__file__).parent.glob("interpreted_*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_interpreted(module):
    interpret(module)
