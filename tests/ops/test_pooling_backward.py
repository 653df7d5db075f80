"""Results and gradients of the Triton backend of pooling on a GPU; see also test_pooling.py and tests/kernels."""

import pytest
import torch

from tests.ops.pooling_problems import check_budget, check_repeats, on_gpu, training_step


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "channels_last"), [(torch.float32, True), (torch.bfloat16, False)])
def test_triton_error_budget(generator, dtype, channels_last):
    """Every operator; 23 cells in three parts leave two out, and a width of 300 is no multiple of a tile.

    Once in each layout and at each width of a number: a training step below has them all together.
    """
    shape = dict(parts=3, width=300, size=(23, 1), dtype=dtype, channels_last=channels_last)
    check_budget("triton", *on_gpu(generator, **shape))


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("parts", "width", "size", "channels_last"),
    [(1, 64, (16, 10), True), (2, 300, (23, 1), False), (4, 64, (16, 10), False), (5, 64, (16, 10), True)],
)
def test_triton_any_number_of_parts(generator, parts, width, size, channels_last):
    """One stripe and several, with and without cells that are left out; widths that fit a tile and that do not."""
    shape = dict(parts=parts, width=width, size=size, dtype=torch.float32, channels_last=channels_last)
    check_budget("triton", *on_gpu(generator, **shape), calls=training_step)


@pytest.mark.cuda
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_triton_at_the_size_of_a_training_step(generator, dtype, channels_last):
    arguments = on_gpu(generator, batch=36, width=2048, size=(18, 9), dtype=dtype, channels_last=channels_last)
    arguments[1] /= 2048**0.5
    check_budget("triton", *arguments, calls=training_step)
    check_repeats("triton", *arguments, calls=training_step)
