"""The kernel of :mod:`salcr.kernels.cluster_memory_update` on a GPU; the same without one: tests/kernels."""

import pytest
import torch

from salcr import ops, reference
from tests.ops.contract import assert_within_budget
from tests.ops.memories import check_updates_together, unit

pytestmark = pytest.mark.cuda


SHAPES = [((3,), 864, 600, 2048), ((), 70, 1, 100), ((2,), 513, 3, 33), ((), 1, 9, 8192)]
CASES = [(*shape, 0.1, dtype) for shape in SHAPES for dtype in (torch.float32, torch.bfloat16, torch.float16)]
CASES += [((2,), 513, 3, 33, momentum, torch.float32) for momentum in (0.0, 0.9, 1.0)]


@pytest.mark.parametrize(("lead", "rows", "columns", "width", "momentum", "dtype"), CASES)
def test_update(generator, lead, rows, columns, width, momentum, dtype):
    features = torch.randn(*lead, rows, width, generator=generator).to("cuda", dtype)
    memory = unit(generator, *lead, columns, width).to("cuda", dtype)
    targets = torch.randint(-1, min(columns, 12), (*lead, rows), generator=generator).cuda()
    order = torch.randperm(rows, generator=generator).cuda()
    exact, eager, got, again = memory.double(), memory.clone(), memory.clone(), memory.clone()
    reference.update_cluster_memory_(exact, features.double(), targets, momentum=momentum, order=order)
    reference.update_cluster_memory_(eager, features, targets, momentum=momentum, order=order)
    for x in (got, again):
        ops.update_cluster_memory_(x, features, targets, momentum=momentum, order=order, impl="triton")
    assert torch.equal(got, again)
    assert_within_budget(got, exact, eager, terms=width + rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_together_are_the_updates_alone(generator, dtype):
    check_updates_together("triton", generator, dtype, "cuda")
