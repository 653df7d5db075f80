"""The Triton backend of memories and sets under the interpreter; run by test_interpreter.py in a process of its own."""

import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from tests.ops.contract import assert_within_budget
from tests.ops.memories import check, evaluate, random_sets, unit

SHAPES = [  # banks, rows, columns, width: no multiples of a tile or of a chunk, one or several of each
    ((None, 1, 33, 7), torch.float32),
    ((2, 17, 70, 40), torch.float32),
    ((6, 2, 40, 16), torch.float16),
]


def banks_of(shape):
    banks, *rest = shape
    return (() if banks is None else (banks,)), *rest


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_cluster_contrast(generator, shape, dtype):
    lead, rows, columns, width = banks_of(shape)
    features = torch.randn(*lead, rows, width, generator=generator).to(dtype)
    memory = unit(generator, *lead, columns, width).to(dtype)
    targets = torch.randint(-1, columns, (*lead, rows), generator=generator)
    for reduction in ("mean", "sum", "none"):
        check("triton", "cluster_contrast", features, memory, targets, reduction=reduction, temperature=0.1)
    check("triton", "cluster_contrast", features, memory, targets[0] if lead else targets)


def test_one_class_and_ignored_rows(generator):
    features, targets = torch.randn(2, 3, 7, generator=generator), torch.zeros(2, 3, dtype=torch.int64)
    for memory, y in ((unit(generator, 2, 1, 7), targets), (unit(generator, 2, 5, 7), targets - 1)):
        loss, gradient = evaluate(ops.cluster_contrast, features, memory.float(), y, impl="triton")
        assert loss == 0 and not gradient.any()
        loss, gradient = evaluate(ops.set_contrast, features, memory.float(), y.unsqueeze(-1), impl="triton")
        assert loss.abs() < 1e-5 and gradient.abs().max() < 1e-4


def test_strided_arguments(generator):
    features = torch.randn(20, 9, generator=generator).mT
    memory = unit(generator, 20, 15).float().mT
    wide = torch.randint(0, 15, (9, 2), generator=generator)
    check("triton", "cluster_contrast", features, memory, wide[:, 1])
    check("triton", "set_contrast", features[:, 1:], memory[:, 1:], wide.sort(-1).values[:, :1])


@pytest.mark.parametrize("wide", [1, 12])
@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_set_contrast(generator, shape, wide, dtype):
    lead, rows, columns, width = banks_of(shape)
    features = torch.randn(*lead, rows, width, generator=generator).to(dtype)
    memory = unit(generator, *lead, columns, width).to(dtype)
    positives = random_sets(generator, lead, rows, columns, wide)
    check("triton", "set_contrast", features, memory, positives[0] if lead else positives, temperature=0.5)
    _, lse, pull = ops.instance_search(features, memory, 5, impl="triton")
    check("triton", "set_contrast", features, memory, positives, lse=lse, pull=pull)


@pytest.mark.parametrize(("shape", "k"), [((None, 1, 1, 16), 30), ((2, 5, 150, 33), 5), ((1, 3, 65, 7), 64)])
def test_instance_search(generator, shape, k):
    lead, rows, columns, width = banks_of(shape)
    features, memory = torch.randn(*lead, rows, width, generator=generator), unit(generator, *lead, columns, width)
    exact = reference.instance_search(features.double(), memory, k)
    eager = reference.instance_search(features, memory.float(), k)
    got = ops.instance_search(features, memory.float(), k, impl="triton")
    assert torch.equal(got[0], exact[0])
    for x, e, b in zip(got[1:], exact[1:], eager[1:], strict=True):
        assert_within_budget(x, e, b)
    alone = ops.instance_neighbors(features, memory.float(), k, impl="triton")
    assert torch.equal(alone[0], got[0]) and torch.equal(alone[1], got[1])


def test_ties_at_the_bound_are_left_out(generator):
    """Whole numbers, whose products are exact: every copy of a row ties with it, in its own chunk and in others."""
    memory = torch.randint(-1, 2, (150, 4), generator=generator).float()
    features = F.one_hot(torch.arange(4)).float()
    for k in (1, 40, 149, 150, 200):
        expected = reference.instance_neighbors(features, memory, k)[0]
        assert torch.equal(ops.instance_neighbors(features, memory, k, impl="triton")[0], expected)


def test_temperatures_and_zero_rows(generator):
    features, memory = torch.randn(3, 8, generator=generator), unit(generator, 90, 8).float()
    features[1] = 0
    targets = torch.tensor([4, 5, 89])
    for temperature in (1e-4, 10.0):
        check("triton", "cluster_contrast", features[::2], memory, targets[::2], temperature=temperature)
        value, gradient = evaluate(
            ops.cluster_contrast, features, memory, targets, temperature=temperature, impl="triton"
        )
        assert torch.isfinite(value) and torch.isfinite(gradient).all()
        search = ops.instance_search(features, memory, 3, temperature=temperature, impl="triton")
        assert all(torch.isfinite(x).all() for x in search)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_update(generator, shape, momentum, dtype):
    lead, rows, columns, width = banks_of(shape)
    rows, columns = 17 * rows, rows
    features = torch.randn(*lead, rows, width, generator=generator).to(dtype)
    memory = unit(generator, *lead, columns, width).to(dtype)
    targets = torch.randint(-1, columns, (*lead, rows), generator=generator)
    for order in (None, torch.randperm(rows, generator=generator)):
        exact, eager, got = memory.double(), memory.clone(), memory.clone()
        reference.update_cluster_memory_(exact, features.double(), targets, momentum=momentum, order=order)
        reference.update_cluster_memory_(eager, features, targets, momentum=momentum, order=order)
        ops.update_cluster_memory_(got, features, targets, momentum=momentum, order=order, impl="triton")
        assert_within_budget(got, exact, eager)
    strided = memory.mT.contiguous().mT
    ops.update_cluster_memory_(strided, features, targets, momentum=momentum, order=order, impl="triton")
    assert torch.equal(strided, got)


def test_sets(generator):
    for columns, widths in ((12, (3,)), (30, (9, 4)), (20, (20, 17, 30)), (90, (33, 60))):
        sets = [random_sets(generator, (2,), 6, columns, wide) for wide in widths]
        for name in ("intersect_sets", "unite_sets"):
            expected = getattr(reference, name)(*sets, sets[0][1])
            assert torch.equal(getattr(ops, name)(*sets, sets[0][1], impl="triton"), expected)
