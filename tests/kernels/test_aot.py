"""The kernels of memories and sets, compiled for every architecture with the tiles its table gives it."""

import importlib

import pytest

from tests.kernels.lanes import ARCHITECTURES, SHARED_LIMIT, compile_for

pytest.importorskip("triton")

F, H, I64, I32, I8 = "*fp32", "*bf16", "*i64", "*i32", "*i8"
N, SCALAR = "i32", "fp32"
SIZES = ("width", "stride", "start", "depth")  # divisible by 16 at every width that is


def tiles(arch, kind):
    from salcr.kernels.products import TILES

    t = TILES[kind][arch // 10]
    return dict(M=t.m, N=t.n, K=t.k), dict(num_warps=t.warps, num_stages=t.stages)


def product_cases(arch):
    shape = dict(num_rows=N, num_columns=N, width=N)
    for kind in ("half", "tf32", "ieee"):
        x, precision = (H if kind == "half" else F), ("tf32" if kind == "tf32" else "ieee")
        blocks, options = tiles(arch, kind)
        common = dict(x=x, memory=x, inverse_norms=F, targets=I64, inverse_temperature=SCALAR) | shape
        constexprs = blocks | dict(EVEN=True, PRECISION=precision)
        lse = dict(tile_max=F, tile_sum=F, picked=F) | common
        yield f"lse-{kind}", "cluster_memory", "lse_tiles_kernel", lse, constexprs | dict(PICK=True), options
        chunk = dict(lse=F, out=x, start=N, stride=N) | common
        for name, flags in (("logits", (False, False)), ("weights", (True, True))):
            types = chunk | (dict(out=F) if name == "logits" else {})
            values = constexprs | dict(zip(("PROBABILITIES", "PICK"), flags, strict=True))
            yield f"{name}-{kind}", "products", "weights_kernel", types, values, options
        pull = dict(weights=x, memory=x, scale=F, sums=F, out=F, start=N, stride=N, depth=N) | shape
        flags = dict(PRECISION=precision, FIRST=False, SCALE=True, DIVIDE=True)
        yield f"pull-{kind}", "products", "pull_kernel", pull, blocks | flags, options


def row_cases(arch):
    x = dict(x=H, memory=H, inverse_norms=F, num_rows=N, num_columns=N, width=N, wide=N, inverse_temperature=SCALAR)
    four, eight, one = (dict(num_warps=n) for n in (4, 8, 1))
    yield "norms", "products", "inverse_norms_kernel", dict(x=H, out=F, width=N), dict(BLOCK=1024), four
    rows = x | dict(positives=I64, picked=F, tile_max=F, tile_sum=F, lse=F, losses=F, tiles=N)
    for given in (False, True):
        flags = dict(GIVEN=given, PICK=not given, WIDE=64 if given else 1, BLOCK=128)
        yield f"rows-{given}", "cluster_memory", "row_losses_kernel", rows, flags, four
    mean = dict(losses=F, positives=I64, out=F, banks=N, num_rows=N, wide=N)
    yield "mean", "cluster_memory", "mean_kernel", mean, dict(MEAN=True, BLOCK=1024), four
    gradient = x | dict(pull=F, positives=I64, losses=F, gradient=F, out=H, banks=N)
    flags = dict(MEAN=True, EACH=False, SETS=True, BLOCK=2048, ROWS=1024)
    yield "gradient", "cluster_memory", "gradient_kernel", gradient, flags, four
    search = dict(high=F, total=F, values=F, places=I32, kept=N)
    select = search | dict(logits=F, weights=H, scale=F, start=N, columns=N, stride=N)
    for first in (True, False):
        flags = dict(FIRST=first, WEIGHTS=True, C=4096, K=32)
        yield f"select-{first}", "instance_memory", "select_kernel", select, flags, eight
    last = search | dict(indices=I64, lse=F, k=N)
    yield "neighbors", "instance_memory", "neighbors_kernel", last, dict(K=32, BLOCK=16), one
    update = dict(memory=F, features=F, targets=I64, order=I64, members=I32, samples=N, classes=N, width=N)
    flags = dict(SCAN=256, BLOCK=2048)
    yield "update", "cluster_memory_update", "update_kernel", update | dict(momentum=SCALAR), flags, four
    sets = dict(entries=I64, keeps=I8, out=I64, wide=N, out_wide=N, needed=N)
    yield "sets", "index_sets", "sets_kernel", sets, dict(W=64, BLOCK=16), one


ONES = ("num_rows", "banks", "wide", "tiles", "samples", "classes", "out_wide", "needed", "k", "columns", "width")


def odd_cases(arch):
    """A launch turns an integer of 1 into a constant; a width that no tile divides is masked."""
    for name, module, kernel, types, constexprs, options in row_cases(arch):
        ones = {n: 1 for n in ONES if n in types and n not in constexprs}
        yield f"ones-{name}", module, kernel, types, constexprs | ones, options
    for name, module, kernel, types, constexprs, options in product_cases(arch):
        if "EVEN" in constexprs:
            yield f"odd-{name}", module, kernel, types, constexprs | dict(EVEN=False, num_rows=1), options


CASES = [(arch, *case) for arch in ARCHITECTURES for cases in (product_cases, row_cases) for case in cases(arch)]
CASES += [(90, *case) for case in odd_cases(90)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"sm_{case[0]}-{case[1]}")
def test_no_spills_and_shared_memory_fits(case):
    arch, _, module, name, signature, constexprs, options = case
    kernel = getattr(importlib.import_module(f"salcr.kernels.{module}"), name)
    aligned = SIZES if constexprs.get("EVEN", True) else ()
    used = compile_for(kernel, signature, constexprs, arch, aligned=aligned, **options)
    assert used.spills == 0, used
    assert used.shared <= SHARED_LIMIT[arch], used
