from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salcr import ops, reference
from tests.ops.contract import assert_compiles, assert_operator_contract
from tests.ops.memories import random_sets

rows_of_sets = st.integers(1, 4).flatmap(
    lambda rows: st.lists(
        st.tuples(
            st.lists(st.sets(st.integers(0, 12), max_size=9), min_size=rows, max_size=rows),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=4,
    )
)


def padded(rows, width=None):
    """Python sets as a tensor in the operators' format."""
    width = max(1, *(len(row) for row in rows)) if width is None else width
    return torch.tensor([sorted(row) + [-1] * (width - len(row)) for row in rows])


@pytest.fixture(params=["reference", "cpp"])
def impl(request):
    return request.param


@pytest.mark.parametrize("impl", ["reference", "cpp"])
@given(drawn=rows_of_sets)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_sets_are_pythons(impl, drawn):
    operands = [rows for rows, _ in drawn]
    tensors = [padded(rows, max(1, *map(len, rows)) + extra) for rows, extra in drawn]
    common = [set.intersection(*row) for row in zip(*operands, strict=True)]
    together = [set.union(*row) for row in zip(*operands, strict=True)]
    widths = [x.shape[-1] for x in tensors]
    assert torch.equal(ops.intersect_sets(*tensors, impl=impl), padded(common, min(widths)))
    assert torch.equal(ops.unite_sets(*tensors, impl=impl), padded(together, sum(widths)))


def test_results_are_operands_again():
    a, b, c = padded([{1, 2, 5}, {0}]), padded([{2, 7}, set()]), padded([{2, 5, 7, 9}, {0, 3}])
    assert torch.equal(ops.intersect_sets(ops.unite_sets(a, b), c), padded([{2, 5, 7}, {0}], 4))


def test_leading_axes_broadcast(impl):
    intersect_sets, unite_sets = partial(ops.intersect_sets, impl=impl), partial(ops.unite_sets, impl=impl)
    parts = torch.stack([padded([{0, 3}, {1}]), padded([{3, 4}, {5}])])
    shared = padded([{3, 4}, {1, 5}])
    assert torch.equal(intersect_sets(parts, shared), torch.tensor([[[3, -1], [1, -1]], [[3, 4], [5, -1]]]))
    assert unite_sets(parts, shared).shape == (2, 2, 4)
    one_row = torch.tensor([3, 9])
    assert torch.equal(intersect_sets(shared, one_row), torch.tensor([[3, -1], [-1, -1]]))
    assert torch.equal(unite_sets(one_row, one_row), torch.tensor([3, 9, -1, -1]))


@pytest.mark.parametrize("operator", [ops.intersect_sets, ops.unite_sets])
def test_empty_and_single_sets(operator, impl):
    operator, name = partial(operator, impl=impl), operator.__name__
    empty = torch.full((3, 4), -1)
    assert (operator(empty, empty) == -1).all()
    alone = padded([{1, 4}, set(), {0, 2, 8}])
    result = operator(alone)
    assert torch.equal(result, alone) and result.data_ptr() != alone.data_ptr()
    with_empty = operator(alone, empty)
    expected = alone if name == "unite_sets" else torch.full_like(alone, -1)
    assert torch.equal(with_empty[:, :3], expected) and (with_empty[:, 3:] == -1).all()


def test_threads_share_the_rows(generator):
    """More rows than a task takes, from 0 entries to all."""
    sets = [random_sets(generator, (2,), 300, 90, wide) for wide in (30, 7, 60)]
    for name in ("intersect_sets", "unite_sets"):
        assert torch.equal(getattr(ops, name)(*sets, impl="cpp"), getattr(reference, name)(*sets))


def test_contract_and_compilation():
    examples = [
        (padded([{1, 2, 5}, {0}]), padded([{2, 7}, set()])),
        (padded([{3}, {0, 1}, {5, 6}, set()]), padded([{3}, {0, 9}, {6}, {1, 2, 3, 4}])),
    ]
    for operator in (torch.ops.salcr.intersect_sets, torch.ops.salcr.unite_sets):
        assert_operator_contract(operator, *[(list(sets), "auto") for sets in examples])
    assert_compiles(lambda a, b: (ops.intersect_sets(ops.unite_sets(a, b), b), ops.intersect_sets(a, b)), *examples)


def test_bad_arguments_are_named():
    rows = padded([{1, 2}, {3}])
    for operator in (ops.intersect_sets, ops.unite_sets):
        for error, message, sets in (
            (ValueError, "sets is empty", ()),
            (TypeError, r"sets\[1\] must be int64", (rows, rows.float())),
            (ValueError, r"sets\[0\] is empty", (rows[:0],)),
            (ValueError, r"do not broadcast: \(2, 2\), \(3, 2\)", (rows, rows[[0, 0, 0]])),
            (ValueError, r"sets\[1\] must be ascending.*got \[2, 1\]", (rows, rows.flip(-1))),
            (ValueError, r"got \[4, 4\]", (torch.tensor([4, 4]),)),
            (ValueError, r"got \[-1, 4\]", (torch.tensor([[0, 1], [-1, 4]]),)),
        ):
            with pytest.raises(error, match=message):
                operator(*sets)
        with pytest.raises(ValueError, match="impl must be one of"):
            operator(rows, impl="numpy")


@pytest.mark.cuda
@pytest.mark.parametrize("widths", [(30, 30, 30), (60, 30), (3, 200), (1,)])
def test_kernels(generator, widths):
    sets = [random_sets(generator, (3, 3), 432, 300, wide).cuda() for wide in widths]
    for name in ("intersect_sets", "unite_sets"):
        expected = getattr(reference, name)(*sets, sets[0][1, 1])
        assert torch.equal(getattr(ops, name)(*sets, sets[0][1, 1], impl="triton"), expected)
