"""The Triton backend of augment under the interpreter; run by test_interpreter.py in a process of its own."""

import pytest

from tests.ops.augmentation_problems import check_backend

SIZES = [
    dict(views=24),  # every order of the adjustments; two blocks of pixels, the last one not full
    dict(views=3, height=1, width=1, chain=1),
    dict(views=6, height=30, width=5, shift=40, chain=32),  # some views show nothing of their image
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_views_are_those_of_the_reference(generator, sizes):
    check_backend("triton", generator, **sizes)
