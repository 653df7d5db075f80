"""Results and gradients of the Triton backend of pooling on a GPU; see also test_pooling.py and tests/kernels."""

import pytest

from tests.ops.pooling_problems import GPU_TYPES, check_budget, check_repeats, on_gpu, training_step


@pytest.mark.cuda
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", GPU_TYPES)
@pytest.mark.parametrize("parts", range(1, 7))
def test_triton_error_budget(generator, parts, dtype, channels_last):
    """Some numbers of parts leave cells out; widths that are a multiple of a tile and that are not."""
    for width, size in ((64, (16, 10)), (300, (23, 1))):
        shape = dict(parts=parts, width=width, size=size, dtype=dtype, channels_last=channels_last)
        check_budget("triton", *on_gpu(generator, **shape))


@pytest.mark.cuda
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", GPU_TYPES)
def test_triton_at_the_size_of_a_training_step(generator, dtype, channels_last):
    arguments = on_gpu(generator, batch=36, width=2048, size=(18, 9), dtype=dtype, channels_last=channels_last)
    arguments[1] /= 2048**0.5
    check_budget("triton", *arguments, calls=training_step)
    check_repeats("triton", *arguments, calls=training_step)
