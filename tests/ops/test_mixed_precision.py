"""bfloat16 features and float32 memories: under autocast the features' dtype is taken, elsewhere it is an error."""

import pytest
import torch

from salcr import ops
from tests.ops.contract import assert_compiles
from tests.ops.memories import random_memory

TARGETS = torch.tensor([0, 3, 1, -1, 2])
SETS = torch.tensor([[0, 2], [1, -1], [2, 3], [-1, -1], [0, 1]])
SOFT, WEIGHTS = torch.full((5, 4), 0.25), torch.linspace(0.5, 1.5, 5)
CALLS = {
    "cluster_contrast": lambda x, m: ops.cluster_contrast(x, m, TARGETS),
    "cluster_contrast of soft targets": lambda x, m: ops.cluster_contrast(x, m, soft_targets=SOFT, weights=WEIGHTS),
    "cluster_contrast_sum": lambda x, m: ops.cluster_contrast_sum(x, [m, m], [TARGETS, TARGETS]),
    "set_contrast": lambda x, m: ops.set_contrast(x, m, SETS),
    "set_contrast with each": lambda x, m: ops.set_contrast(x, m, [SETS, SETS[:, :1]], over="each"),
    "instance_search": lambda x, m: ops.instance_search(x.detach(), m, 2)[1],
    "instance_neighbors": lambda x, m: ops.instance_neighbors(x.detach(), m, 2)[1],
}


@pytest.mark.parametrize("name", CALLS)
def test_autocast_takes_the_dtype_of_the_features(generator, name):
    features, memory = random_memory(generator, (), 5, 4, 8, torch.float32)
    features = features.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = CALLS[name](features, memory)
    expected = (
        CALLS[name](features, memory.bfloat16())
        if "soft" not in name
        else ops.cluster_contrast(features, memory.bfloat16(), soft_targets=SOFT.bfloat16(), weights=WEIGHTS.bfloat16())
    )
    assert found.dtype == expected.dtype and torch.equal(found, expected)
    if found.requires_grad:
        gradients = [torch.autograd.grad(x, features)[0] for x in (found, expected)]
        assert gradients[0].dtype == torch.bfloat16 and torch.equal(*gradients)
    with pytest.raises(TypeError, match=r"memory is torch\.float32, features torch\.bfloat16|soft_targets is"):
        CALLS[name](features, memory)


def test_an_update_under_autocast_keeps_the_precision_of_the_memory(generator):
    features, memory = random_memory(generator, (), 5, 4, 8, torch.float32)
    features = features.bfloat16().requires_grad_()
    expected = ops.update_cluster_memory_(memory.clone(), features.detach().float(), TARGETS)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.update_cluster_memory_(memory, features, TARGETS)
    assert found is memory and torch.equal(memory, expected)
    with pytest.raises(TypeError, match=r"memory is torch\.float32, features torch\.bfloat16"):
        ops.update_cluster_memory_(memory, features, TARGETS)


def test_it_compiles_under_autocast(generator):
    def step(features, memory):
        with torch.autocast("cpu", torch.bfloat16):
            return ops.cluster_contrast(features, memory, TARGETS) + ops.set_contrast(features, memory, SETS)

    features, memory = random_memory(generator, (), 5, 4, 8, torch.float32)
    assert_compiles(step, (features.bfloat16().requires_grad_(), memory))
