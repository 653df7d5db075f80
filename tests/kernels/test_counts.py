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


@pytest.mark.parametrize(("columns", "chunk", "instructions"), [(22_258, 8192, 37_000), (11_909, 4096, 29_000)])
def test_a_search_selects_in_as_many_instructions_as_its_docstring_says(monkeypatch, columns, chunk, instructions):
    from salcr.kernels import instance_memory

    generator, rows = torch.Generator().manual_seed(0), 2
    features, memory = (torch.randn(1, n, 16, generator=generator).bfloat16() for n in (rows, columns))
    monkeypatch.setattr(instance_memory, "SCRATCH", 4 * rows * chunk)
    counts = counts_of(lambda: instance_memory.instance_search([features], [memory], 30, temperature=0.05, mean=True))
    found = [x for x in counts if x.kernel == "select_kernel"]
    assert len(found) == 3 and not any(x.passes for x in found)
    assert sum(x.instructions for x in found) / rows == pytest.approx(instructions, rel=0.1)
    assert f"some {instructions:,}" in instance_memory.__doc__


def test_sinkhorn_passes_over_shared_memory_without_conflicts():
    from salcr.kernels.sinkhorn import sinkhorn

    for columns in (600, 399):
        cost = torch.zeros(1, 1600, columns)
        counts = counts_of(lambda: sinkhorn(cost, lam=5.0, tol=0.1, max_iter=1, check_every=10), blocks=2)  # noqa: B023
        rows = next(x for x in counts if x.kernel == "rows_kernel")
        assert rows.passes == rows.fewest_passes < rows.fewest_sectors


def test_what_a_search_lists_costs_the_same_wherever_it_lies():
    """As for a row whose neighbours lie side by side, as images of one identity do, among rows that find one each."""
    one, many = torch.arange(128)[:, None] == torch.arange(256), torch.arange(256) < 64
    alone, beside = listed(one), listed(one | (torch.arange(128)[:, None] == 5) & many)
    assert alone.instructions == pytest.approx(33_000, rel=0.1)  # as its docstring says
    assert beside.instructions <= 1.02 * alone.instructions


def listed(reached: torch.Tensor) -> Counts:
    """Of rows and columns ``[128, 256]`` that reach the bound."""
    from salcr.kernels.knn import collect_kernel
    from salcr.kernels.launch import configuration

    x, y = torch.eye(128).half(), reached.T.half().contiguous()
    bounds, bias, counts = torch.full((128,), 0.5), torch.zeros(256), torch.zeros(128, dtype=torch.int32)
    scores, places = torch.empty(128, 512), torch.empty(128, 512, dtype=torch.int32)

    def collect():
        tile = configuration("knn.products", CPU)
        tiles = 256 // tile["N"]
        collect_kernel[(tiles,)](x, y, bias, bounds, scores, places, counts, 128, 256, 128, tiles, CAPACITY=512, **tile)

    (found,) = counts_of(collect)
    assert torch.equal(counts.long(), reached.sum(1))
    assert all(
        torch.equal(place[:n].sort().values.long(), row.nonzero()[:, 0])
        for place, n, row in zip(places, counts, reached, strict=True)
    )
    return found
