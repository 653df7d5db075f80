"""What compiled kernels take where a table of launches or a loop decides it: see tests/kernels/counts.py."""

import pytest
import torch

from tests.kernels.executed import Counts, executed, run
from tests.kernels.test_executed import kernel

pytest.importorskip("triton")
CPU = torch.device("cpu")


def counts_of(call, blocks=None) -> list[Counts]:
    counts: list[Counts] = []
    with executed(90, counts=counts, blocks=blocks):
        call()
    return counts


@pytest.mark.parametrize(
    ("instruction", "memory", "shared"),
    [
        ("ld.global.b32 %r7, [ %rd3 + 0 ];", (4, 4), (0, 0)),
        (
            "and.b64 %rd4, %rd2, 0; add.s64 %rd5, %rd1, %rd4; ld.global.v2.b32 { %r7, %r8 }, [ %rd5 + 0 ];",
            (1, 1),
            (0, 0),
        ),
        ("mul.lo.s64 %rd4, %rd2, 8; add.s64 %rd5, %rd1, %rd4; ld.global.b32 %r7, [ %rd5 + 0 ];", (32, 4), (0, 0)),
        ("st.shared.b32 [%r4], %r1;", (0, 0), (1, 1)),
        ("shl.b32 %r7, %r1, 7; add.s32 %r8, %r2, %r7; st.shared.b32 [%r8], %r1;", (0, 0), (32, 1)),
        ("shl.b32 %r7, %r1, 4; add.s32 %r8, %r2, %r7; st.shared.v4.b32 [%r8], { %r1, %r1, %r1, %r1 };", (0, 0), (4, 4)),
        ("ld.shared.b32 %r7, [%r2];", (0, 0), (1, 1)),
    ],
)
def test_sectors_and_passes(instruction, memory, shared):
    """Of two warps, whose %rd3 and %r4 are a thread's places of 4 bytes, and %rd1 and %r2 the first one's."""
    values = torch.zeros(64 * 8, dtype=torch.int32)
    found = run(kernel(instruction), [values.data_ptr()], [values], (3,), 2, 64 * 128, 0, counting=True)
    assert (found.sectors, found.fewest_sectors) == tuple(3 * 2 * n for n in memory)
    assert (found.passes, found.fewest_passes) == tuple(3 * 2 * n for n in shared)
    half = run(kernel(instruction), [values.data_ptr()], [values], (4,), 2, 64 * 128, 0, every=2, counting=True)
    assert half[1:6] == tuple(n // 3 * 4 for n in found[1:6])


def test_a_search_selects_in_few_instructions(generator):
    """Some 30 a column and lane, and 600 for each of the k + 1: these do not look through all columns again."""
    from salcr.kernels.instance_memory import instance_search

    rows, columns, k = 4, 8192, 30
    features, memory = (torch.randn(1, n, 16, generator=generator).bfloat16() for n in (rows, columns))
    counts = counts_of(lambda: instance_search([features], [memory], k, temperature=0.05, mean=True))
    (select,) = [x for x in counts if x.kernel == "select_kernel"]
    assert select.instructions < rows * (30 * columns / 32 + 600 * (k + 1))
    assert select.passes == 0
