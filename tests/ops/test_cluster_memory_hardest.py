"""``update_cluster_memory_(select="hardest")``: of each class the sample of smallest cosine, against loops by hand."""

import pytest
import torch

from salcr import ops
from tests.ops.contract import assert_compiles, assert_operator_contract
from tests.ops.memories import CPU_BACKENDS, check_hardest, hardest_problem

BACKENDS = ["eager", *CPU_BACKENDS]


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_the_sample_of_smallest_cosine_moves_its_row(generator, impl, lead, momentum):
    check_hardest(impl, generator, lead, momentum, torch.float64)


@pytest.mark.parametrize("impl", ["eager", CPU_BACKENDS[0]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cosines_in_half_precision_are_float32(generator, impl, dtype):
    """Cosines 2⁻¹³ apart: of one number in either half precision."""
    memory, features = torch.zeros(1, 64, dtype=dtype), torch.zeros(3, 64, dtype=dtype)
    memory[0, 0] = 1
    features[:, 0], features[:, 1] = 1, 1
    features[1, 2], features[2, 2] = 2**-6, 2**-5
    ops.update_cluster_memory_(memory, features, torch.zeros(3, dtype=torch.int64), select="hardest", impl=impl)
    assert memory[0, 2] > 0.8 * 2**-5 * 2**-0.5


@pytest.mark.parametrize("impl", BACKENDS)
def test_the_first_in_order_of_equals_is_taken(impl):
    memory, features = torch.eye(2, 4), torch.eye(4)[[2, 3, 0, 3, 2, 1]]
    targets = torch.tensor([0, 0, 0, 0, 1, 1])  # 2 and 3 are at right angles to both rows
    for order, first in ((None, 2), (torch.tensor([5, 3, 4, 2, 1, 0]), 3), (torch.tensor([2, 4, 0, 5, 1, 3]), 2)):
        moved = ops.update_cluster_memory_(
            memory.clone(), features, targets, momentum=0.0, order=order, select="hardest", impl=impl
        )
        assert torch.equal(moved, torch.eye(4)[[first, 2]])


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("place", [0, 3])
def test_a_cosine_that_is_nan_shows_in_the_memory(generator, impl, place):
    memory, features, _ = hardest_problem(generator, (), torch.float32)
    features[place, 2] = torch.nan
    targets = torch.arange(len(features)) % 2
    moved = ops.update_cluster_memory_(memory.clone(), features, targets, select="hardest", impl=impl)
    assert moved[place % 2].isnan().all() and moved[1 - place % 2].isfinite().all()
    assert torch.equal(moved[2:], memory[2:])


@pytest.mark.parametrize("impl", BACKENDS)
def test_a_row_that_nothing_updates_keeps_its_bits(generator, impl):
    memory, features, targets = hardest_problem(generator, (2,), torch.float32)
    memory *= 3
    before = memory.clone()
    targets[targets == 1] = -1
    ops.update_cluster_memory_(memory, features, targets, select="hardest", impl=impl)
    assert torch.equal(memory[:, 1], before[:, 1]) and not torch.equal(memory, before)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_contract(generator, impl):
    memory, features, targets = hardest_problem(generator, (2,), torch.float32)
    operator = torch.ops.salcr.update_cluster_memory_
    assert_operator_contract(operator, (memory, features, targets, 0.1, None, "hardest", impl))


def test_compiles(generator):
    def update(memory, features, targets):
        return ops.update_cluster_memory_(memory, features, targets, select="hardest")

    assert_compiles(update, hardest_problem(generator, (2,), torch.float32))


@pytest.mark.parametrize("select", ["hard", "", None, True])
def test_another_selection_is_named(select):
    with pytest.raises(ValueError, match=f"select must be one of all, hardest, got {select!r}"):
        ops.update_cluster_memory_(torch.eye(2), torch.eye(2), torch.arange(2), select=select)
