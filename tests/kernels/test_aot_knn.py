"""The kernels of neighbour search, compiled for every architecture as for SYSU-MM01 and for a million rows."""

import pytest

from tests.kernels.lanes import ARCHITECTURES, SHARED_LIMIT, compile_for

pytest.importorskip("triton")

F, H, I64, I32, N = "*fp32", "*fp16", "*i64", "*i32", "i32"
LISTS = dict(scores=F, kept=I32, totals=I32)
FOUR = dict(num_warps=4)


def cases(arch):
    from salcr.kernels.knn import TILES

    t = TILES[arch // 10]
    options, blocks = dict(num_warps=t.warps, num_stages=t.stages), dict(M=t.m, N=t.n, K=t.k)
    products = dict(x=H, y=H, bias=F, num_rows=N, num_columns=N, width=N, tiles=N)
    for every, group in ((8, 16), (8, 128), (1, 1)):
        flags = dict(STRIDE=every, GROUP=group) | blocks
        yield f"maxima-{every}-{group}", "maxima_kernel", products | dict(maxima=F), flags, options
    for near in (True, False):
        halve = dict(x=F, centre=F, scale=F, half=H, lengths=F, errors=F, bias=F, width=N, padded=N)
        yield f"halve-{near}", "halve_kernel", halve, dict(NEAR=near, BLOCK=1024), FOUR
        flags = dict(NEAR=near, CAPACITY=512, C=8, BLOCK=256)
        yield f"rescore-{near}", "rescore_kernel", LISTS | dict(x=F, y=F, width=N), flags, FOUR
    for capacity in (512, 2048):
        collect = products | dict(bounds=F, scores_out=F, places=I32, counts=I32)
        yield f"collect-{capacity}", "collect_kernel", collect, dict(CAPACITY=capacity) | blocks, options
        narrow = LISTS | dict(places=I32, counts=I32, errors=F, num_rows=N, first_row=N, k=N)
        flags = dict(OWN=True, CAPACITY=capacity, ROWS=2048 // capacity)
        yield f"narrow-{capacity}", "narrow_kernel", narrow, flags, FOUR
    order = LISTS | dict(out=F, indices=I64, k=N, stride=N)
    yield "order", "order_kernel", order, dict(CAPACITY=512, BLOCK=32), dict(num_warps=1)


CASES = [(arch, *case) for arch in ARCHITECTURES for case in cases(arch)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"sm_{case[0]}-{case[1]}")
def test_no_spills_and_shared_memory_fits(case):
    from salcr.kernels import knn

    arch, _, name, signature, constexprs, options = case
    used = compile_for(getattr(knn, name), signature, constexprs, arch, aligned=("width", "padded"), **options)
    print(used)
    assert used.spills == 0, used
    assert used.shared <= SHARED_LIMIT[arch], used
