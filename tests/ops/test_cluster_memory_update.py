"""The momentum update of cluster memories, of one and of several at once; kernels without a GPU: tests/kernels.

Of the hardest samples: test_cluster_memory_hardest.py.
"""

import pytest
import torch

from salcr import ops, reference
from salcr.ops._dispatch import missing
from salcr.ops.cluster_memory_update import SELECTIONS, update_cluster_memories_
from tests.ops.contract import assert_compiles, assert_operator_contract, assert_within_budget
from tests.ops.memories import CPU_BACKENDS, check_updates_together, contrast_problem, unit


def update_by_hand(memory, features, targets, momentum, order=None):
    memory = memory.clone()
    for b in range(len(features)) if order is None else order.tolist():
        if targets[b] >= 0:
            row = momentum * memory[targets[b]] + (1 - momentum) * features[b] / features[b].norm()
            memory[targets[b]] = row / row.norm()
    return memory


@pytest.mark.parametrize("impl", CPU_BACKENDS)
@pytest.mark.parametrize("banks", [None, 1, 4])
def test_update_is_sequential(generator, impl, banks):
    features, memory, targets = contrast_problem(generator, banks=banks, samples=40, classes=5, dtype=torch.float64)
    order = torch.randperm(40, generator=generator)
    for permutation in (None, order):
        got = memory.clone()
        returned = ops.update_cluster_memory_(got, features, targets, order=permutation, impl=impl)
        assert returned is got
        if banks is None:
            expected = update_by_hand(memory, features, targets, 0.1, permutation)
        else:
            expected = torch.stack(
                [update_by_hand(memory[p], features[p], targets[p], 0.1, permutation) for p in range(banks)]
            )
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_update_error_budget(generator, impl):
    features, memory, targets = contrast_problem(generator, banks=2, samples=200, classes=3, width=129)
    exact, eager, got = memory.double(), memory.clone(), memory.clone()
    reference.update_cluster_memory_(exact, features.double(), targets)
    reference.update_cluster_memory_(eager, features, targets)
    ops.update_cluster_memory_(got, features, targets, impl=impl)
    assert_within_budget(got, exact, eager, terms=129 + 200)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_update_of_a_strided_or_negative_memory_and_ignored_rows(generator, impl):
    features, memory, targets = contrast_problem(generator)
    wide = torch.full((memory.shape[0], 2 * memory.shape[1]), 3.0)
    wide[:, ::2] = memory
    view = wide[:, ::2]
    ops.update_cluster_memory_(view, features, targets, impl=impl)
    torch.testing.assert_close(view, update_by_hand(memory, features, targets, 0.1))
    assert (wide[:, 1::2] == 3).all()
    negative = torch._neg_view(-memory)
    ops.update_cluster_memory_(negative, features, targets, impl=impl)
    torch.testing.assert_close(negative, update_by_hand(memory, features, targets, 0.1))
    before = memory.clone()
    ops.update_cluster_memory_(memory, features, torch.full_like(targets, -1), impl=impl)
    assert torch.equal(memory, before)


OVERLAPS = {
    "its first rows": lambda memory, flat: (memory, memory[:3]),
    "itself": lambda memory, flat: (memory, memory),
    "every other column": lambda memory, flat: (flat.view(6, 8)[:, ::2], flat.view(6, 8)[:, 2:6]),
    "the end of its last row": lambda memory, flat: (memory[:, :4], flat[23:43].view(5, 4)),
    "a transposed view": lambda memory, flat: (flat[:36].view(6, 6), flat[:36].view(6, 6).mT),
    "one of its parts": lambda memory, flat: (flat.view(2, 6, 4), flat.view(2, 6, 4)[:, :3]),
}


@pytest.mark.parametrize("impl", ["eager", *CPU_BACKENDS])
@pytest.mark.parametrize("what", OVERLAPS)
def test_an_update_with_elements_of_the_memory_is_refused(generator, what, impl):
    flat = torch.randn(48, generator=generator)
    before = flat.clone()
    memory, features = OVERLAPS[what](flat[:24].view(6, 4), flat)
    with pytest.raises(ValueError, match="features shares elements with memory, which is changed in place"):
        ops.update_cluster_memory_(memory, features, torch.arange(features.shape[-2]) % 2, impl=impl)
    assert torch.equal(flat, before)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
@pytest.mark.parametrize("what", ["other rows", "other columns", "the columns between"])
def test_an_update_with_neighbours_of_the_memory_is_none_with_itself(generator, what, impl):
    buffer = torch.randn(8, 8, generator=generator)
    memory, features = {
        "other rows": (buffer[:5], buffer[5:]),
        "other columns": (buffer[:, :4], buffer[:, 4:]),
        "the columns between": (buffer[:, ::2], buffer[:, 1::2]),
    }[what]
    targets = torch.arange(len(features)) % 3
    expected, untouched = update_by_hand(memory, features, targets, 0.1), features.clone()
    ops.update_cluster_memory_(memory, features, targets, impl=impl)
    torch.testing.assert_close(memory, expected)
    assert torch.equal(features, untouched)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_rows_that_lie_between_one_another_are_not_one(generator, impl):
    memory = torch.randn(8, generator=generator).as_strided((3, 2), (2, 3))  # 0 3, 2 5 and 4 7
    features, targets = torch.randn(4, 2, generator=generator), torch.tensor([0, 2, 1, 2])
    expected = update_by_hand(memory, features, targets, 0.1)
    ops.update_cluster_memory_(memory, features, targets, impl=impl)
    torch.testing.assert_close(memory, expected)


@pytest.mark.parametrize("impl", ["eager", *CPU_BACKENDS])
def test_a_memory_whose_rows_are_one_is_refused(generator, impl):
    row, features, targets = torch.randn(9, generator=generator), torch.ones(2, 4), torch.tensor([0, 1])
    for memory in (row[:4].expand(3, 4), row.unfold(0, 4, 1)):
        with pytest.raises(ValueError, match="memory is changed in place and has elements that are one in memory"):
            ops.update_cluster_memory_(memory, features, targets, impl=impl)


@pytest.mark.skipif(bool(missing("cpp")), reason=str(missing("cpp")))
@pytest.mark.parametrize("select", SELECTIONS)
def test_threads_change_nothing(generator, select):
    features, memory, targets = contrast_problem(generator, banks=3, samples=300, classes=40)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(ops.update_cluster_memory_(memory.clone(), features, targets, select=select, impl="cpp"))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("impl", CPU_BACKENDS)
@pytest.mark.parametrize("together", [False, True])
def test_an_update_before_backward_is_noticed(generator, impl, together):
    features, memory, targets = contrast_problem(generator)
    loss = ops.cluster_contrast(features.requires_grad_(), memory, targets)
    if together:
        update_cluster_memories_([memory], [features], [targets], momentum=0.1, impl=impl)
    else:
        ops.update_cluster_memory_(memory, features, targets, impl=impl)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_bad_options_are_named(generator):
    features, memory, targets = contrast_problem(generator)
    with pytest.raises(ValueError, match="not a permutation"):
        ops.update_cluster_memory_(memory, features, targets, order=torch.zeros(23, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"targets \(22,\) do not fit features"):
        ops.update_cluster_memory_(memory, features, targets[1:])
    with pytest.raises(TypeError, match=r"targets must be int64, got torch\.int32"):
        ops.update_cluster_memory_(memory, features, targets.int())


def test_compiles(generator):
    def update(features, memory, targets):
        return ops.update_cluster_memory_(memory, features, targets)

    assert_compiles(update, *(contrast_problem(generator, samples=n, classes=k) for n, k in ((23, 7), (9, 5))))


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_contract(generator, impl):
    features, memory, targets = contrast_problem(generator, banks=2)
    order = torch.randperm(features.shape[1], generator=generator)
    assert_operator_contract(
        torch.ops.salcr.update_cluster_memory_, (memory, features, targets, 0.1, order, "all", impl)
    )


def arguments(generator, width=7):
    memories = [unit(generator, 4, width), unit(generator, 2, 3, width)]
    features = [torch.randn(*m.shape[:-2], 5, width, generator=generator, dtype=torch.float64) for m in memories]
    targets = [torch.randint(-1, 3, (5,), generator=generator) for _ in memories]
    return memories, features, targets, [torch.randperm(5, generator=generator) for _ in memories]


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_updates_together_are_the_updates_alone(generator, impl):
    check_updates_together(impl, generator, torch.float32, "cpu")


def test_contract_together(generator):
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
