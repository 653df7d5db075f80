"""The pooling kernels, compiled for every architecture with the tiles of a training step and of a whole map."""

import importlib

import pytest

from tests.kernels.lanes import ARCHITECTURES, SHARED_LIMIT, compile_for

pytest.importorskip("triton")

F, N = "*fp32", "i32"
STRIDES = dict(image_stride=N, cell_stride=N, width_stride=N)
COMMON = STRIDES | dict(positions=N, cells=N, width=N, stripe=N, parts=N)


def tile(arch, stripe, width=2048, *, wide=False):
    from salcr.kernels.pooling import tile_width

    return dict(T=stripe, D=tile_width(stripe, width, arch // 10, wide=wide))


def layout(channels_last):
    """The stride that a launch finds to be 1 becomes a constant; those of a map of 2048 are divisible by 16."""
    return (dict(width_stride=1), ("cell_stride",)) if channels_last else (dict(cell_stride=1), ())


def cases(arch):
    for x, last in (("*bf16", True), ("*fp32", True), ("*fp16", False), ("*fp32", False))[: 4 if arch == 90 else 3]:
        yield from training_step(arch, x, last)
    training, gem = tile(arch, 64), dict(QUIRK=False, TAIL=0)
    gather = dict(x=F, tokens=F, scores=F, prototypes=F, powers=F) | COMMON
    yield "gem", "pooling", "gather_kernel", gather, dict(TOKENS=False, POWER=3.0, TAIL=0) | training, True
    yield "power", "pooling", "gather_kernel", gather, dict(TOKENS=False, POWER=4.5, TAIL=0) | training, True
    whole = tile(arch, 1024, 64)
    forms = dict(own=F, pg1=F, pg2=F, queries=F, weights=F)
    one = dict(x=F, scale="fp32") | forms | COMMON
    yield "one-part", "pooling", "attention_kernel", one, dict(VIEWS=1, QUIRK=False) | whole, True
    names = ("tokens", "scores", "sent", "asking", "power_gradient", "gradient", "token_gradient")
    spread = dict(x=F) | forms | dict.fromkeys(names, F) | COMMON
    for name, flags in (
        ("gem-backward", dict(ATTEND=False, TOKENS=False, POWER=3.0)),
        ("power-backward", dict(ATTEND=False, TOKENS=False, POWER=4.5)),
        ("prototypes-backward", dict(ATTEND=False, TOKENS=True, POWER=0.0)),
        ("attention-backward", dict(ATTEND=True, TOKENS=False, POWER=0.0)),
    ):
        yield name, "pooling_backward", "spread_kernel", spread, flags | dict(VIEWS=1) | gem | training, True


def training_step(arch, x, last):
    """Fifty-four cells a stripe and three views, with a dropped cell."""
    name = f"{x[1:]}-{'last' if last else 'first'}"
    gather = dict(x=x, tokens=x, scores=F, prototypes=F, powers=F) | COMMON
    forms = dict(own=x, pg1=x, pg2=x, weights=F)
    tiles = tile(arch, 64, wide=last and x != F)
    views = dict(VIEWS=3, QUIRK=False) | tiles
    step = dict(TOKENS=True, POWER=3.0, TAIL=2)
    attention = dict(x=x, queries=F, scale="fp32") | forms | COMMON
    backward = dict(x=x, sent=F, asking=F, scale="fp32") | forms | COMMON
    names = ("scores", "queries", "sent", "asking", "power_gradient", "token_gradient")
    spread = dict(x=x, tokens=x, gradient=x) | forms | dict.fromkeys(names, F) | COMMON
    yield f"gather-{name}", "pooling", "gather_kernel", gather, step | tiles, last
    yield f"attention-{name}", "pooling", "attention_kernel", attention, views, last
    yield f"attention-backward-{name}", "pooling_backward", "attention_backward_kernel", backward, views, last
    yield f"spread-{name}", "pooling_backward", "spread_kernel", spread, step | views | dict(ATTEND=True), last


CASES = [(arch, *case) for arch in ARCHITECTURES for case in cases(arch)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"sm_{case[0]}-{case[1]}")
def test_no_spills_and_shared_memory_fits(case):
    from salcr.kernels.pooling import WARPS

    arch, _, module, name, signature, constexprs, last = case
    kernel = getattr(importlib.import_module(f"salcr.kernels.{module}"), name)
    unit, divisible = layout(last)
    aligned = ("image_stride", "width", *divisible)
    used = compile_for(kernel, signature, constexprs | unit, arch, aligned=aligned, num_warps=WARPS)
    print(used)
    assert used.spills == 0, used
    assert used.shared <= SHARED_LIMIT[arch], used
