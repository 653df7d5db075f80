"""How many kernel variants the cuda-marked tests compile: a check of the tests, so of ``make lint``.

A training is not among them: ``test_both_stages_on_a_gpu`` compiles some more.
"""

import re

import pytest

from tests.test_pretended_gpu import FOLDERS, run

MOST = 520  # half a second of compilation each


def test_sizes_vary_to_reach_another_branch_and_not_another_variant():
    pytest.importorskip("triton")
    done = run("tests.counted_variants", *FOLDERS, "objectives", options=["--assert=plain"])
    assert done.returncode == 0, done.stdout + done.stderr
    variants = int(re.search(r"^(\d+) kernel variants", done.stdout, re.M)[1])
    print(f"{variants} kernel variants")
    assert 100 < variants <= MOST, done.stdout
