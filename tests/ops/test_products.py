"""The kernels of :mod:`salcr.kernels.products` on a GPU; the same without one: tests/kernels."""

import pytest
import torch
import torch.nn.functional as F

from tests.ops.contract import assert_within_budget
from tests.ops.memories import largest_lse, unit


@pytest.mark.parametrize("rows", ["unit", "alike", "of both signs"])
@pytest.mark.parametrize("how", ["tf32x3", "float16x3"])
def test_three_products_are_as_good_as_float32(generator, how, rows):
    """A model of what tensor cores do with float32 split in two: they cut off what they add, and a block of the launch
    table's columns is added to the sum by a rounding of its own."""
    launch = pytest.importorskip("salcr.kernels.launch", reason="no triton", exc_type=ImportError)
    (depth,) = {entry["K"] for entry in launch.TABLE[f"products.{how}"].values()}
    a, b = torch.randn(2, 64, 2048, generator=generator).abs()
    if rows == "alike":
        b = a + 0.01 * b
    elif rows == "of both signs":
        a, b = a * torch.randn(a.shape, generator=generator).sign(), b - b.mean()
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    exact = (a.double() * b.double()).sum(1)

    (big_a, small_a), (big_b, small_b) = map(in_tf32 if how == "tf32x3" else in_halves, (a, b))
    total = torch.zeros(len(a))
    for block in torch.arange(2048).split(depth):
        partial = torch.zeros(len(a), dtype=torch.float64)
        for x, y in ((small_a, big_b), (big_a, small_b), (big_a, big_b)):
            for columns in block.split(8 if how == "tf32x3" else 16):  # that an instruction multiplies
                partial = cut_to_float32(partial + (x[:, columns].double() * y[:, columns].double()).sum(1))
        total += partial.float()
    assert_within_budget(total, exact, (a * b).sum(1), terms=2048)
    assert (total - exact).abs().max() < 1e-6  # far inside the tie margin


def in_tf32(x):
    big = to_tf32(x, cut=False)
    return big, to_tf32(x - big, cut=True)


def in_halves(x):
    """As :mod:`salcr.kernels.products` splits 2⁸ times the number."""
    high = (256 * x).half().float()
    return high / 256, (256 * x - high).half().float() / 256


def to_tf32(x, *, cut):
    """The ten bits that TF32 keeps of a float32's 23: rounded as ``cvt.rna`` does, or cut off as the units do."""
    bits = x.view(torch.int32) + (0 if cut else 1 << 12)
    return (bits & ~0x1FFF).view(torch.float32)


def cut_to_float32(x):
    """Towards zero."""
    near = x.float()
    return torch.where(near.double().abs() > x.abs(), torch.nextafter(near, torch.zeros(())), near).double()


GPU_CASES = [  # every precision in every shape, but for float16, which takes the tiles of bfloat16
    (*shape, dtype)
    for shape in ((1, 3, 5000, 2048), (3, 131, 4097, 384), (2, 65, 7, 100))
    for dtype in (torch.float32, torch.bfloat16, torch.float16)[: 3 if shape[1] == 131 else 2]
]


@pytest.mark.cuda
@pytest.mark.parametrize(("banks", "rows", "columns", "width", "dtype"), GPU_CASES)
def test_softmax_times_memory_in_chunks(generator, banks, rows, columns, width, dtype):
    from salcr.kernels.groups import Terms
    from salcr.kernels.products import add_chunk, chunk_columns, chunk_values, inverse_norms

    x = torch.randn(banks, rows, width, generator=generator).to("cuda", dtype)
    memory = unit(generator, banks, columns, width).to("cuda", dtype)

    def softmax(x, memory):
        logits = (F.normalize(x, dim=-1) @ memory.mT / 0.1).to(torch.promote_types(x.dtype, torch.float32))
        return logits, logits.logsumexp(-1), (logits.softmax(-1).to(memory.dtype) @ memory).to(logits.dtype)

    exact, eager = softmax(x.double(), memory.double()), softmax(x, memory)
    terms, lse = Terms([x], [memory]), exact[1].float()
    norms = inverse_norms(terms)
    assert_within_budget(norms.view(banks, rows), 1 / x.double().norm(dim=-1), 1 / x.float().norm(dim=-1), terms=width)
    scratch = torch.empty(banks, rows, chunk_columns(x, columns), device="cuda")
    weights, pull = scratch.to(dtype), torch.empty(banks, rows, width, device="cuda")
    for start in range(0, columns, scratch.shape[-1]):
        chunk_values(terms, norms, [scratch], [start], 0.1)
        stop = min(start + scratch.shape[-1], columns)
        chunk = (y[..., start:stop] for y in (exact[0], eager[0]))
        assert_within_budget(scratch[..., : stop - start], *chunk, terms=width, magnitude=1 / 0.1)
        chunk_values(terms, norms, [weights.fill_(torch.nan)], [start], 0.1, lse=lse)
        read = -(-(stop - start) // 32) * 32
        assert not weights[..., stop - start : read].any()
        add_chunk(terms, [weights], pull, [start])
    magnitude = exact[2].abs().max() * largest_lse(columns, 0.1)
    assert_within_budget(pull, exact[2], eager[2], terms=width + columns, magnitude=magnitude)
