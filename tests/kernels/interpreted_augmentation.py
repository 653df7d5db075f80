"""The Triton backend of augment under the interpreter; run by test_interpreter.py in a process of its own."""

import pytest

from tests.ops.augmentation_problems import ORDERS, check_backend, check_chains, check_views, problem


def test_every_optional_argument(generator):
    check_backend("triton", generator, views=5, height=13, width=9)  # two blocks of pixels, the last one not full


def test_chains(generator):
    check_chains("triton", generator)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(views=len(ORDERS), height=7, width=5, chain=2),
        dict(views=3, height=1, width=1, chain=1),
        dict(views=4, height=30, width=5, shift=40, chain=32),  # some views show nothing of their image
    ],
    ids=str,
)
def test_views_are_those_of_the_reference(generator, sizes):
    images, draws, rows, scalings = problem(generator, **sizes)
    check_views("triton", images, draws, rows=rows, scalings=scalings)
