"""Updates of several cluster memories at once, and the update's kernel on a GPU; without one: tests/kernels."""

import pytest
import torch

from salcr import ops, reference
from salcr.ops.cluster_memory_update import update_cluster_memories_
from tests.ops.contract import assert_operator_contract, assert_within_budget
from tests.ops.memories import CPU_BACKENDS, check_updates_together, unit

SHAPES = [((3,), 864, 600, 2048), ((), 70, 1, 100), ((2,), 513, 3, 33), ((), 1, 9, 8192)]
CASES = [(*shape, 0.1, dtype) for shape in SHAPES for dtype in (torch.float32, torch.bfloat16, torch.float16)]
CASES += [((2,), 513, 3, 33, momentum, torch.float32) for momentum in (0.0, 0.9, 1.0)]


@pytest.mark.cuda
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


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_updates_together_are_the_updates_alone(generator, dtype):
    check_updates_together("triton", generator, dtype, "cuda")


def arguments(generator, width=7):
    memories = [unit(generator, 4, width), unit(generator, 2, 3, width)]
    features = [torch.randn(*m.shape[:-2], 5, width, generator=generator, dtype=torch.float64) for m in memories]
    targets = [torch.randint(-1, 3, (5,), generator=generator) for _ in memories]
    return memories, features, targets, [torch.randperm(5, generator=generator) for _ in memories]


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_updates_together_are_the_updates_alone(generator, impl):
    check_updates_together(impl, generator, torch.float32, "cpu")


def test_contract(generator):
    memories, features, targets, orders = arguments(generator)
    operator = torch.ops.salcr.update_cluster_memories_.default
    assert_operator_contract(operator, (memories, features, targets, 0.1, orders, "auto"))


@pytest.mark.parametrize("wrong", ["width", "storage of memories", "storage of features", "order", "target", "number"])
def test_what_is_refused(generator, wrong):
    memories, features, targets, orders = arguments(generator)
    match = wrong.removeprefix("storage of ")
    if wrong == "width":
        (memories[1], *_), (features[1], *_) = (x[1:] for x in arguments(generator, width=9)[:2])
    if wrong == "storage of memories":
        memories[0] = memories[1][0]
        features[0] = features[0][:, :7]
    if wrong == "storage of features":
        features[0] = memories[1].flatten(0, 1)[:5]
    if wrong == "order":
        orders[1] = torch.zeros(5, dtype=torch.int64)
        match = "permutation"
    if wrong == "target":
        targets[0] = torch.full((5,), 4)
    if wrong == "number":
        orders.pop()
        match = "shorter"
    before = [memory.clone() for memory in memories]
    with pytest.raises(ValueError, match=match):
        update_cluster_memories_(memories, features, targets, orders, momentum=0.1)
    assert all(map(torch.equal, memories, before))
