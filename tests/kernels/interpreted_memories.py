"""The Triton backend of memories and sets under the interpreter; run by test_interpreter.py in a process of its own."""

import pytest
import torch

from salcr import ops, reference
from tests.ops import memories
from tests.ops.contract import assert_within_budget
from tests.ops.memories import check_contrasts, check_search, random_memory, random_sets

SHAPES = [  # lead, rows, columns, width: no multiples of a tile or of a chunk, one or several of each
    (((), 5, 33, 7), torch.float32),
    (((2,), 17, 70, 40), torch.float32),
    (((6,), 2, 40, 16), torch.float16),
    (((3,), 3, 1, 9), torch.float32),
]


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_contrasts(generator, shape, dtype):
    check_contrasts("triton", generator, *shape, dtype)


@pytest.mark.parametrize(("shape", "k"), [(((), 1, 1, 16), 30), (((2,), 5, 150, 33), 5), (((1,), 3, 65, 7), 64)])
def test_search(generator, shape, k):
    check_search("triton", generator, *shape, k)


@pytest.mark.filterwarnings("ignore:(All-NaN slice|invalid value) encountered:RuntimeWarning")  # NumPy, of NaN rows
@pytest.mark.parametrize("edge", ["ties", "one_class_and_ignored_rows", "one_row", "strided", "extremes"])
def test_edges(generator, edge):
    getattr(memories, f"check_{edge}")("triton", generator)


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_update(generator, shape, momentum, dtype):
    lead, rows, _, width = shape
    rows, columns = 5 * rows, rows
    features, memory = random_memory(generator, lead, rows, columns, width, dtype)
    targets = torch.randint(-1, columns, (*lead, rows), generator=generator)
    for order in (None, torch.randperm(rows, generator=generator)):
        exact, eager, got = memory.double(), memory.clone(), memory.clone()
        reference.update_cluster_memory_(exact, features.double(), targets, momentum=momentum, order=order)
        reference.update_cluster_memory_(eager, features, targets, momentum=momentum, order=order)
        ops.update_cluster_memory_(got, features, targets, momentum=momentum, order=order, impl="triton")
        assert_within_budget(got, exact, eager, terms=width + rows)
    strided = memory.mT.contiguous().mT
    ops.update_cluster_memory_(strided, features, targets, momentum=momentum, order=order, impl="triton")
    assert torch.equal(strided, got)


def test_sets(generator):
    for columns, widths in ((12, (3,)), (30, (9, 4)), (20, (20, 17, 30)), (90, (33, 60))):
        sets = [random_sets(generator, (2,), 6, columns, wide) for wide in widths]
        for name in ("intersect_sets", "unite_sets"):
            expected = getattr(reference, name)(*sets, sets[0][1])
            assert torch.equal(getattr(ops, name)(*sets, sets[0][1], impl="triton"), expected)
