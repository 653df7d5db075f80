"""Several contrasts and searches in one call; of several updates: test_cluster_memory_update.py."""

import pytest
import torch

from salcr.ops.cluster_memories import cluster_contrast_sums
from salcr.ops.instance_memories import instance_searches
from tests.ops.contract import assert_operator_contract
from tests.ops.memories import CPU_BACKENDS, random_sets
from tests.ops.together import check_contrasts_together, check_searches_together, random_memories


@pytest.mark.parametrize("impl", [*CPU_BACKENDS, "eager"])
@pytest.mark.parametrize("check", [check_contrasts_together, check_searches_together])
def test_together_as_alone(generator, impl, check):
    check(impl, generator, torch.float32)


@pytest.mark.cuda
@pytest.mark.parametrize("check", [check_contrasts_together, check_searches_together])
def test_on_a_gpu_together_as_alone(generator, check):
    check("triton", generator, torch.float32, "cuda")


def of_sets(generator):
    """Features, memories and sets of every second image."""
    features, memories, _ = random_memories(generator, torch.float64)
    sets = [
        [random_sets(generator, x.shape[:-2], x.shape[-2], memory.shape[-2], 3) for memory in banks]
        for x, banks in zip(features, memories, strict=True)
    ]
    sets[0][0] = sets[0][0].expand(-1, 3).contiguous()
    sets[0][0][:, 1:] = -1
    return features, memories, sets


def flat(groups):
    return [x for some in zip(*groups, strict=True) for x in some]


def test_contract(generator):
    features, memories, targets = random_memories(generator, torch.float64)
    terms = features, flat(memories), flat(targets)
    rows, salcr = sum(x.shape[:-1].numel() for x in features), torch.ops.salcr
    lse, ones = torch.full((2, rows), 20.0, dtype=torch.float64), [torch.ones((), dtype=torch.float64)] * 3
    assert_operator_contract(salcr.cluster_contrast_sum, (*terms, 0.05, "float32", "auto"))
    assert_operator_contract(salcr.cluster_contrast_sum_backward, (ones, *terms, lse, 0.05, "float32", "auto"))
    features, memories, sets = of_sets(generator)
    mean_row = torch.zeros(2, rows, features[0].shape[-1], dtype=torch.float64)
    terms = features, flat(memories), flat(sets), lse
    assert_operator_contract(salcr.instance_searches, (*terms[:2], [], 3, 0.05, "float32", "auto"))
    assert_operator_contract(salcr.set_contrasts, (*terms, 0.05, "auto"))
    assert_operator_contract(salcr.set_contrasts_backward, (ones, *terms, mean_row, 0.05, "auto"))


def test_second_derivatives_are_those_of_the_reference(generator):
    features, memories, targets = random_memories(generator, torch.float64, width=3)
    leaf = features[2].requires_grad_()

    def losses(x):
        return sum(cluster_contrast_sums([*features[:2], x], memories, targets, temperature=1.0, impl="reference"))

    assert torch.autograd.gradgradcheck(losses, leaf)


@pytest.mark.parametrize("wrong", ["one dtype", "equally many", "must be as many", "does not fit"])
def test_what_is_refused(generator, wrong):
    features, memories, targets = random_memories(generator, torch.float64)
    if wrong == "one dtype":
        features[0], memories[0] = features[0][:, 1:], [memory[:, 1:] for memory in memories[0]]
    if wrong == "equally many":
        memories[2].pop(), targets[2].pop()
    if wrong == "must be as many":
        targets[1].pop()
    if wrong == "does not fit":
        memories[1][0] = memories[1][0][..., 1:]
    with pytest.raises(ValueError, match=wrong):
        cluster_contrast_sums(features, memories, targets)
    if wrong != "must be as many":
        with pytest.raises(ValueError, match=wrong):
            instance_searches(features, memories)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[..., 1:], ValueError, "does not fit memory"),
        (lambda x: x[..., 1:, :], ValueError, "does not fit memory"),
        (lambda x: x[None], ValueError, "rounded must have"),
        (torch.Tensor.half, TypeError, "rounded must be torch.bfloat16, got torch.float16"),
        (lambda x: x.to("meta"), ValueError, "rounded is on meta"),
        (torch.Tensor.tolist, TypeError, "rounded must be a torch.Tensor"),
        (None, ValueError, "rounded must be as many as memories"),
    ],
)
def test_memories_in_bfloat16_that_are_not_those(generator, change, error, message):
    """Kernels read them by the sizes of the memories."""
    features, memories, _ = random_memories(generator, torch.float32)
    rounded = [[memory.bfloat16() for memory in some] for some in memories]
    expected = instance_searches(features, memories, 3).lse
    assert torch.equal(instance_searches(features, memories, 3, rounded=rounded).lse, expected)
    if change is None:
        rounded[-1].pop()
    else:
        rounded[-1][-1] = change(rounded[-1][-1])
    with pytest.raises(error, match=message):
        instance_searches(features, memories, 3, rounded=rounded)
