"""Updates of several cluster memories at once."""

import pytest
import torch

from salcr.ops.memory_updates import update_cluster_memories_
from tests.ops.contract import assert_operator_contract
from tests.ops.memories import CPU_BACKENDS, check_updates_together, unit


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
