"""Products of normalised feature rows with a memory, and sums of memory rows weighted by them, in chunks of columns.

What both the contrast and the search of instance memories are made of. A row of D = 2048 accumulators does not fit a
block, so ``softmax(rows @ memory.T) @ memory`` is two products with a scratch of ``CHUNK`` columns between them: never
B×N. Temperature, norm, exponential and the target's one are applied as a tile leaves the accumulators; rows are
normalised by a factor a row, so no normalised copy exists. Written and read: the scratch once each, the float32 sum
once a chunk. Floor: 2·B·N·D multiply-adds on tensor cores; at D = 2048 the traffic is a tenth of that time.

Sums are float32. A float32 memory is multiplied in three products of TF32, as exact as float32 and a third as fast as
TF32 (docs/numerics.md, "float32 on tensor cores"), and in one where the caller asks for that; logits that are searched,
of unit rows on both sides, in three of float16, which take half the time of tensor cores. With a memory in half
precision, features in float32 are rounded to its dtype as their norms are made, which takes no launch.
An SM of sm_90 holds two blocks, of which one stores while the other multiplies: of 128 x 128 in half precision, three
stages of 32 KB and 128 registers at most, and of 128 x 64 where three products take 12 wgmma of TF32 or 6 of float16
for 32 of the width. Read off the machine code, not measured; soft targets in half precision take more registers, and
one block.

Each product of several features with several memories each is one launch: see :mod:`groups`.

The scratch of weights has the memory's dtype and holds them times ``WEIGHT_ONE`` = 2¹⁵, which the sum takes back:
powers of two, so exact. In float16 a weight up to 1 stays below the largest number, 65,504, and one above 2⁻²⁹ keeps
all its 11 bits; a smaller one errs by at most 2⁻⁴⁰. Against a sum of weights of at least 1 that is 1e-6 in all for
N = 10⁶, far below the 2⁻¹¹ of rounding; without the factor it would be 3e-2, and weights below 3e-8 would vanish.
bfloat16 has the range of float32.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .groups import Terms, all_rows, chosen, coded, row_of, size_of, tile_of
from .launch import architecture, configuration

CHUNK = 4096  # columns of the scratch
WEIGHT_ONE = tl.constexpr(2.0**15)  # what the scratch of weights holds for a weight of 1
HALVES_ONE = tl.constexpr(2.0**8)  # what the halves of a float32 number hold for 1
INTERPRETED_CHUNK = 64


@triton.jit
def inverse_norm(square):
    """``1 / max(√square, 1e-12)`` of a row's sum of squares."""
    norm = tl.sqrt_rn(square)
    norm = tl.where(norm < float("inf"), norm, float("nan"))  # one that overflows would make a row of zeros
    return 1.0 / tl.maximum(norm, 1e-12, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def inverse_norms_kernel(x, out, rounded, parts, rows, width, ROUND: tl.constexpr, BLOCK: tl.constexpr):
    """The norms of rows, where ROUND as they are in the dtype of ``rounded``, into which they go."""
    place = tl.program_id(0).to(tl.int64)
    group, first, _ = row_of(place, parts, rows)
    begin = (place - first) * width
    row, to = chosen(x, group) + begin, chosen(rounded, group) + begin
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        d = start + tl.arange(0, BLOCK)
        value = tl.load(row + d, mask=d < width, other=0.0)
        if ROUND:
            value = value.to(to.dtype.element_ty)
            tl.store(to + d, value, mask=d < width)
        value = value.to(tl.float32)
        total += value * value
    tl.store(out + place, inverse_norm(tl.sum(total, 0)))


@triton.jit
def add_product(total, a, b, PRECISION: tl.constexpr):
    """``total + a @ b``. In float32 the block is summed apart and added once.

    Tensor cores cut off what they add to a long sum instead of rounding it: in one chain over D = 2048 that adds up.
    """
    if PRECISION == "tf32x3" and a.dtype == tl.float32:
        # max_num_imprecise_acc means nothing here, but without it the compiler makes one chain of the two sums again.
        return total + tl.dot(a, b, input_precision=PRECISION, max_num_imprecise_acc=a.shape[1])
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def add_product_of_halves(total, a, b):
    """``total + a @ b`` of float32 as sums of two float16 numbers, without the lower ones' product; summed as above.

    ``a`` is finite, or a row of NaN; where ``b`` is not finite or too large, its upper half is infinite or NaN.
    """
    high_a, high_b = a.to(tl.float16), b.to(tl.float16)
    low_a, low_b = a - high_a.to(tl.float32), b - high_b.to(tl.float32)
    low_b = tl.where(tl.abs(low_b) < float("inf"), low_b, 0.0)
    block = tl.dot(high_a, low_b.to(tl.float16), tl.dot(low_a.to(tl.float16), high_b))
    return total + tl.dot(high_a, high_b, block, max_num_imprecise_acc=a.shape[1])


@triton.jit
def tile_products(
    x, memory, rows, columns, width, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, factors=None,
):  # fmt: skip
    """``x[rows] @ memory[columns].T`` in float32; ``rows`` and ``columns`` are int64 and inside.

    Where PRECISION is float16x3 the rows are multiplied with ``factors`` first, which make them unit rows, and what
    comes out is ``HALVES_ONE`` squared times too large.
    """
    tl.assume(width > 0)  # or ptxas waits after every wgmma: a loop that is not run would leave other accumulators
    d = tl.arange(0, K)
    x_at = x + rows[:, None] * width + d[None, :]
    memory_at = memory + columns[None, :] * width + d[:, None]
    total = tl.zeros([M, N], tl.float32)
    for start in range(0, width, K):
        if EVEN:
            a, b = tl.load(x_at), tl.load(memory_at)
        else:
            inside = d < width - start
            a = tl.load(x_at, mask=inside[None, :], other=0.0)
            b = tl.load(memory_at, mask=inside[:, None], other=0.0)
        if PRECISION == "float16x3":
            total = add_product_of_halves(total, a * (factors * HALVES_ONE)[:, None], b * HALVES_ONE)
        else:
            total = add_product(total, a, b, PRECISION)
        x_at += K
        memory_at += K
    return total


@triton.jit
def soft_targets(soft, rows, first_column, num_columns, N: tl.constexpr):
    """A tile of ``soft [..., num_columns]``, 0 outside of it."""
    n = tl.arange(0, N)
    at = soft + first_column + rows.to(tl.int64)[:, None] * num_columns + n[None, :]
    return tl.load(at, mask=(n < num_columns - first_column)[None, :], other=0.0).to(tl.float32)


@triton.jit
def weights_kernel(
    x, memory, inverse_norms, lse, targets, soft, mass, scale, out, parts, rows, columns, reach, start, stride, width,
    inverse_temperature, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, PROBABILITIES: tl.constexpr, PICK: tl.constexpr, SOFT: tl.constexpr,
):  # fmt: skip
    """Columns ``start + [0, stride)``: logits, or weights (probabilities, less one at the target), 0 outside of N.

    ``x [P, B, D]`` and ``memory [P, N, D]`` are of one dtype, ``targets [P, B]`` int64; ``inverse_norms [R]`` and
    ``lse [n, R]`` float32. ``out [P, B, stride]`` is float32, weights may be of the dtype of ``x``; it is written up to
    ``reach``, a multiple of N. Where SOFT there is one term, and weights are ``(mass · probability − soft) · scale``:
    ``soft [P, B, N]`` of any float dtype, the others ``[P, B]`` float32.
    """
    term, begin, part, first_row, first_column = tile_of(tl.program_id(0), parts, rows, reach, M, N)
    group = term % len(rows)
    num_rows, num_columns, room = size_of(rows, group), size_of(columns, term), chosen(stride, term)
    m, n, skipped, begin = tl.arange(0, M), tl.arange(0, N), chosen(start, term) + first_column, begin + first_row
    first, rows_left = part * num_rows + first_row, num_rows - first_row
    at, column = tl.minimum(m, rows_left - 1), (skipped + n).to(tl.int64)
    factors = tl.load(inverse_norms + begin + at) if PRECISION == "float16x3" else None
    total = tile_products(
        chosen(x, group) + first * width, chosen(memory, term) + part * num_columns * width, at.to(tl.int64),
        tl.minimum(column, num_columns - 1), width, M, N, K, EVEN, PRECISION, factors,
    )  # fmt: skip
    if PRECISION == "float16x3":
        value = total * (inverse_temperature / (HALVES_ONE * HALVES_ONE))
    else:
        value = total * (tl.load(inverse_norms + begin + at) * inverse_temperature)[:, None]
    if PROBABILITIES:
        kept = (term // len(rows)) * all_rows(parts, rows).to(tl.int64) + begin
        value = tl.exp(value - tl.load(lse + kept + at)[:, None])
        if PICK:
            target = (tl.load(chosen(targets, term) + first + at) - skipped).to(tl.int32)
            value -= (n[None, :] == target[:, None]).to(tl.float32)  # columns in int64 would take twice the registers
        if SOFT:
            wanted = soft_targets(soft + begin * num_columns, at, skipped, num_columns, N)
            value = (value * tl.load(mass + begin + at)[:, None] - wanted) * tl.load(scale + begin + at)[:, None]
        value = tl.where((n < num_columns - skipped)[None, :], value * WEIGHT_ONE, 0.0)
    place = first_column + n
    to = chosen(out, term) + first * room + m[:, None] * room + place[None, :]
    tl.store(to, value.to(to.dtype.element_ty), mask=(m < rows_left)[:, None] & (place < room)[None, :])


@triton.jit
def left_and_right(x):
    """The first half of a block's columns, and the second."""
    return tl.split(tl.permute(tl.reshape(x, [x.shape[0], 2, x.shape[1] // 2]), (0, 2, 1)))


@triton.jit
def mean_row_kernel(
    weights, memory, scale, sums, out, parts, rows, columns, reach, start, stride, width, M: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr, FIRST: tl.constexpr, SCALE: tl.constexpr,
    DIVIDE: tl.constexpr,
):  # fmt: skip
    """``out = out · scale + weights / WEIGHT_ONE @ memory[start:]``, divided by ``sums`` once N is reached.

    ``weights [P, B, stride]``, zero from N to a multiple of K, and ``memory [P, N, D]`` are of one dtype; ``scale`` and
    ``sums [n, R]`` and ``out [n, R, D]`` float32. ``reach`` is the width, or 0 of a term that has no column left.
    """
    term, begin, part, first_row, first_column = tile_of(tl.program_id(0), parts, rows, reach, M, N)
    num_rows, num_columns = size_of(rows, term % len(rows)), size_of(columns, term)
    skipped, room = chosen(start, term), chosen(stride, term)
    m, rows_left = tl.arange(0, M), num_rows - first_row
    d = first_column + tl.arange(0, N)
    begin += (term // len(rows)) * all_rows(parts, rows).to(tl.int64) + first_row
    weights_at = chosen(weights, term) + (part * num_rows + first_row) * room
    memory_at = chosen(memory, term) + part * num_columns * width
    at = tl.minimum(m, rows_left - 1)
    place = tl.arange(0, K)
    total = tl.zeros([M, N], tl.float32)
    end = tl.minimum(room, tl.cdiv(num_columns - skipped, K) * K)
    tl.assume(end > 0)  # a term with no column left has no program; see tile_products
    for done in range(0, end, K):
        a = tl.load(weights_at + at[:, None] * room + (done + place)[None, :])
        column = tl.minimum(skipped + done + place, num_columns - 1).to(tl.int64)
        b = tl.load(memory_at + column[:, None] * width + d[None, :], mask=(d < width)[None, :], other=0.0)
        total = add_product(total, a, b, PRECISION)
    share = tl.full([M], 1.0, tl.float32)
    if DIVIDE:
        share /= tl.where(skipped + room >= num_columns, tl.load(sums + begin + at), 1.0)
    total *= (share * (1 / WEIGHT_ONE))[:, None]
    if SCALE and not FIRST:
        share *= tl.load(scale + begin + at)
    if PRECISION == "tf32x3" and memory_at.dtype.element_ty == tl.float32:
        pieces = (total,)
    else:  # what is added and its addresses would take registers beside all the accumulators
        left, right = left_and_right(total)
        pieces = left_and_right(left) + left_and_right(right)
    wide: tl.constexpr = N // len(pieces)
    for i in tl.static_range(len(pieces)):
        total, d = pieces[i], first_column + i * wide + tl.arange(0, wide)
        to = out + begin * width + m[:, None] * width + d[None, :]
        inside = (m < rows_left)[:, None] & (d < width)[None, :]
        if not FIRST:
            before = tl.load(to, mask=inside, other=0.0)
            total += before * share[:, None] if SCALE or DIVIDE else before
        tl.store(to, total, mask=inside)


def kind(terms: Terms, *, logits: bool = False) -> str:
    """``"half"``, ``"tf32"``, ``"tf32x3"`` or, for ``logits`` that are searched, ``"float16x3"``: how to multiply."""
    if terms.dtype != torch.float32:
        return "half"
    if logits:
        return "float16x3"
    return "tf32" if terms.tf32 and architecture(terms.device) is not None else "tf32x3"


def tiles(terms: Terms, *, logits: bool = False, soft: bool = False) -> dict[str, int]:
    """Blocks (``M`` rows, ``N`` columns, ``K`` deep), warps, stages and registers of products of ``terms``."""
    how = kind(terms, logits=logits)
    t = configuration(f"products.{how}", terms.device)
    if terms.width % 16 or (soft and how == "half"):  # loads of single elements, or wide tiles of targets, would spill
        t.pop("maxnreg", None)
    return t


def precision(terms: Terms, *, logits: bool = False) -> str:
    """What the kernels take as PRECISION; half precision ignores it."""
    how = kind(terms, logits=logits)
    return "tf32x3" if how == "half" else how


def chunk_columns(x: torch.Tensor, num_columns: int) -> int:
    """Width of the scratch: a multiple of every tile, no wider than the memory needs."""
    widest = INTERPRETED_CHUNK if architecture(x.device) is None else CHUNK
    return min(widest, triton.cdiv(num_columns, 256) * 256)


def inverse_norms(terms: Terms) -> torch.Tensor:
    """``1 / max(‖row‖, 1e-12)`` of all rows, ``[R]`` float32; features of another dtype become their memories'."""
    out, t, rounded = terms.new(terms.all_rows), configuration("products.norms", terms.device), terms.features
    t["BLOCK"] = min(t["BLOCK"], triton.next_power_of_2(terms.width))
    if round_off := rounded[0].dtype != terms.dtype:
        rounded = tuple(torch.empty_like(x, dtype=terms.dtype) for x in rounded)
    inverse_norms_kernel[(len(out),)](terms.features, out, rounded, *terms.sizes, terms.width, ROUND=round_off, **t)
    terms.features = rounded
    return out


def chunk_values(
    terms: Terms,
    norms: torch.Tensor,
    out: Sequence[torch.Tensor],
    start: Sequence[int],
    temperature: float,
    *,
    lse: torch.Tensor | None = None,
    targets: Sequence[torch.Tensor] | None = None,
    soft: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Fill ``out [P, B, C]`` of every term with the logits of its columns ``start + [0, C)``.

    With ``lse [n, R]`` given, with ``WEIGHT_ONE`` times their probabilities instead, less one at ``targets [P, B]``;
    from column N on zero, as far as :func:`add_chunk` reads. With ``soft`` (soft targets, mass, scale) see
    :func:`weights_kernel`.
    """
    logits = lse is None
    t = tiles(terms, logits=logits, soft=soft is not None)
    stride = tuple(scratch.shape[-1] for scratch in out)
    left = [max(columns - first, 0) for columns, first in zip(terms.columns, start, strict=True)]
    whole = max(t["N"], t["K"])  # sums of memory rows read K of the weights at a time
    reach = tuple(triton.cdiv(min(wide, n), whole) * whole for wide, n in zip(stride, left, strict=True))
    weights_kernel[(terms.tiles(reach, t["M"], t["N"]),)](
        terms.features, terms.memories, norms, norms if logits else lse, tuple(targets or (norms,)),
        *((norms,) * 3 if soft is None else soft), tuple(out), *terms.sizes, coded(terms.columns), coded(reach),
        tuple(start), stride, terms.width, 1 / temperature, EVEN=terms.width % t["K"] == 0,
        PRECISION=precision(terms, logits=logits), PROBABILITIES=not logits, PICK=targets is not None,
        SOFT=soft is not None, **t,
    )  # fmt: skip


def add_chunk(
    terms: Terms,
    weights: Sequence[torch.Tensor],
    out: torch.Tensor,
    start: Sequence[int],
    *,
    scale: torch.Tensor | None = None,
    sums: torch.Tensor | None = None,
) -> None:
    """``out [n, R, D] = out · scale + weights / WEIGHT_ONE @ memory[:, start:]``, at last divided by ``sums``.

    At ``start`` 0 ``out`` is new. ``weights [P, B, C]`` of a term are zero from column N on; ``scale`` and ``sums`` are
    ``[n, R]`` and may be left out.
    """
    t = tiles(terms)
    reach = tuple(terms.width if first < columns else 0 for columns, first in zip(terms.columns, start, strict=True))
    mean_row_kernel[(terms.tiles(reach, t["M"], t["N"]),)](
        tuple(weights), terms.memories, out if scale is None else scale, out if sums is None else sums, out,
        *terms.sizes, coded(terms.columns), coded(reach), tuple(start), tuple(scratch.shape[-1] for scratch in weights),
        terms.width, PRECISION=precision(terms), FIRST=not any(start), SCALE=scale is not None, DIVIDE=sums is not None,
        **t,
    )  # fmt: skip
