"""The kernels of :mod:`salcr.kernels.instance_search` on a GPU; the same without one: tests/kernels."""

import pytest
import torch

from salcr import ops, reference
from tests.ops.contract import assert_within_budget
from tests.ops.memories import unit

pytestmark = pytest.mark.cuda
SHAPES = [((), 1, 9001, 2048), ((3,), 131, 4097, 384), ((2,), 65, 7, 100)]


@pytest.mark.parametrize("k", [1, 30, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("lead", "rows", "columns", "width"), SHAPES)
def test_search(generator, lead, rows, columns, width, dtype, k):
    features = torch.randn(*lead, rows, width, generator=generator).to("cuda", dtype)
    memory = unit(generator, *lead, columns, width).to("cuda", dtype)
    exact = reference.instance_search(features.double(), memory.double(), k)
    eager = reference.instance_search(features, memory, k)
    got, again = (ops.instance_search(features, memory, k, impl="triton") for _ in range(2))
    for x, same in zip(got, again, strict=True):
        assert torch.equal(x, same)
    for n in (1, 2):
        assert_within_budget(got[n], exact[n], eager[n])
    cosines = torch.nn.functional.normalize(features.double(), dim=-1) @ memory.double().mT
    top = cosines.topk(min(k + 1, columns), -1).values
    sure = torch.ones_like(top[..., 0], dtype=torch.bool) if columns <= k else top[..., -2] - top[..., -1] > 1e-5
    assert sure.any() and torch.equal(got[0][sure], exact[0][sure])


def test_ties_at_the_bound_are_left_out(generator):
    """Whole numbers, whose products are exact: every copy of a row ties with it, in its own chunk and in others."""
    memory = torch.randint(-1, 2, (9000, 4), generator=generator).float().cuda()
    features = torch.eye(4, device="cuda")
    for k in (1, 40, 4000):
        expected = reference.instance_neighbors(features, memory, k)[0]
        assert torch.equal(ops.instance_neighbors(features, memory, k, impl="triton")[0], expected)
