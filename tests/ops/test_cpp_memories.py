"""The C++ backend of contrasts and searches, by the rules that the Triton backend is held to in tests/kernels."""

import pytest
import torch

from salcr import ops
from salcr.ops._dispatch import missing
from salcr.ops.backends.cpp import _products
from tests.ops import memories
from tests.ops.memories import check_contrasts, check_search, evaluate, random_memory

pytestmark = pytest.mark.skipif(bool(missing("cpp")), reason=str(missing("cpp")))
SHAPES = [  # lead, rows, columns, width: no multiples of a group, a segment or a vector
    ((), 5, 33, 7),
    ((2,), 17, 273, 40),
    ((6,), 3, 611, 16),
    ((3,), 9, 1, 65),
]


@pytest.mark.parametrize("scratch", [300, _products.SCRATCH])
@pytest.mark.parametrize("shape", SHAPES)
def test_contrasts(generator, monkeypatch, shape, scratch):
    monkeypatch.setattr(_products, "SCRATCH", scratch)
    check_contrasts("cpp", generator, *shape, torch.float32)


@pytest.mark.parametrize("scratch", [300, _products.SCRATCH])
@pytest.mark.parametrize("k", [1, 5, 30, 64, 700])
@pytest.mark.parametrize("shape", SHAPES)
def test_search(generator, monkeypatch, shape, k, scratch):
    monkeypatch.setattr(_products, "SCRATCH", scratch)
    check_search("cpp", generator, *shape, k)


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 255, 256, 257, 512, 5000])
def test_every_place_of_a_row_can_win(generator, columns):
    """The products are the memory's own numbers: a permutation, of which the largest are known."""
    memory = torch.randperm(columns, generator=generator).double().unsqueeze(-1)
    for k in (1, 2, 16, 40):
        found, lse = ops.instance_neighbors(torch.ones(1, 1).double(), memory, k, temperature=100.0, impl="cpp")
        expected = (memory[:, 0] >= columns - k).nonzero()[:, 0]
        assert torch.equal(found[0, : len(expected)], expected) and (found[0, len(expected) :] == -1).all()
        torch.testing.assert_close(lse, (memory / 100).logsumexp(0))


@pytest.mark.parametrize("edge", ["ties", "one_class_and_ignored_rows", "one_row", "strided", "extremes"])
def test_edges(generator, edge):
    getattr(memories, f"check_{edge}")("cpp", generator)


def test_threads_change_nothing(generator):
    features, memory = random_memory(generator, (2,), 70, 300, 33, torch.float32)
    targets = torch.randint(-1, 300, (2, 70), generator=generator)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(
            [
                *ops.instance_search(features, memory, 9, impl="cpp"),
                *evaluate(ops.cluster_contrast, features, memory, targets, impl="cpp"),
            ]
        )
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        for x, y in zip(other[1:], found[0][1:], strict=True):  # PyTorch's products may differ in the last bit
            torch.testing.assert_close(x, y)
