"""Products of normalised feature rows with a memory, and sums of memory rows weighted by them, in chunks of columns.

What both the contrast and the search of instance memories are made of. A row of D = 2048 accumulators does not fit a
block, so ``softmax(rows @ memory.T) @ memory`` is two products with a scratch of ``CHUNK`` columns between them: never
B×N. Temperature, norm, exponential and the target's one are applied as a tile leaves the accumulators; rows are
normalised by a factor a row, so no normalised copy exists. Written and read: the scratch once each, the float32 sum
once a chunk. Floor: 2·B·N·D multiply-adds on tensor cores; at D = 2048 the traffic is a tenth of that time.

Sums are float32. A float32 memory is multiplied in three products of TF32, as exact as float32 and a third
as fast as TF32 (docs/numerics.md, "float32 on tensor cores"), and in one where PyTorch allows it for its own products.
Three take 12 wgmma a block of 128 x 64 x 32 and 130 registers, which leaves two blocks an SM on sm_90: read off the
machine code, not measured yet.

The scratch of weights has the memory's dtype and holds them times ``WEIGHT_ONE`` = 2¹⁵, which the sum takes back:
powers of two, so exact. In float16 a weight up to 1 stays below the largest number, 65,504, and one above 2⁻²⁹ keeps
all its 11 bits; a smaller one errs by at most 2⁻⁴⁰. Against a sum of weights of at least 1 that is 1e-6 in all for
N = 10⁶, far below the 2⁻¹¹ of rounding; without the factor it would be 3e-2, and weights below 3e-8 would vanish.
bfloat16 has the range of float32.
"""

import torch
import triton
import triton.language as tl

from .launch import architecture, configuration

CHUNK = 4096  # columns of the scratch
WEIGHT_ONE = tl.constexpr(2.0**15)  # what the scratch of weights holds for a weight of 1
INTERPRETED_CHUNK = 64


@triton.jit
def inverse_norms_kernel(x, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        d = start + tl.arange(0, BLOCK)
        value = tl.load(x + row * width + d, mask=d < width, other=0.0).to(tl.float32)
        total += value * value
    norm = tl.sqrt_rn(tl.sum(total, 0))
    norm = tl.where(norm < float("inf"), norm, float("nan"))  # one that overflows would make a row of zeros
    tl.store(out + row, 1.0 / tl.maximum(norm, 1e-12, propagate_nan=tl.PropagateNan.ALL))


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
def tile_products(
    x, memory, rows, columns, width, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """``x[rows] @ memory[columns].T`` in float32; ``rows`` and ``columns`` are int64 and inside."""
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
        total = add_product(total, a, b, PRECISION)
        x_at += K
        memory_at += K
    return total


@triton.jit
def soft_targets(soft, rows, columns, num_columns):
    """A tile of ``soft [..., N]``, 0 outside of N; ``rows`` and ``columns`` are int64."""
    at = soft + rows[:, None] * num_columns + columns[None, :]
    return tl.load(at, mask=(columns < num_columns)[None, :], other=0.0).to(tl.float32)


@triton.jit
def weights_kernel(
    x, memory, inverse_norms, lse, targets, soft, mass, scale, out, num_rows, num_columns, width, start, stride,
    inverse_temperature, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, PROBABILITIES: tl.constexpr, PICK: tl.constexpr, SOFT: tl.constexpr,
):  # fmt: skip
    """Columns ``start + [0, stride)``: logits, or weights (probabilities, less one at the target), 0 outside of N.

    ``x [P, B, D]`` and ``memory [P, N, D]`` are of one dtype; ``inverse_norms`` and ``lse [P, B]`` float32,
    ``targets [P, B]`` int64; ``out [P, B, stride]`` is float32, weights may be of the dtype of ``x``. Where SOFT,
    weights are ``(mass · probability − soft) · scale``: ``soft [P, B, N]`` of any float dtype, the others ``[P, B]``
    float32.
    """
    part = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    place = tl.program_id(1).to(tl.int64) * N + tl.arange(0, N)
    columns = start + place
    x += part * num_rows * width
    memory += part * num_columns * width
    at = tl.minimum(rows, num_rows - 1)
    total = tile_products(x, memory, at, tl.minimum(columns, num_columns - 1), width, M, N, K, EVEN, PRECISION)
    value = total * (tl.load(inverse_norms + part * num_rows + at) * inverse_temperature)[:, None]
    if PROBABILITIES:
        value = tl.exp(value - tl.load(lse + part * num_rows + at)[:, None])
        if PICK:
            target = tl.load(targets + part * num_rows + at)
            value -= (columns[None, :] == target[:, None]).to(tl.float32)
        if SOFT:
            row = part * num_rows + at
            wanted = soft_targets(soft, row, columns, num_columns)
            value = (value * tl.load(mass + row)[:, None] - wanted) * tl.load(scale + row)[:, None]
        value = tl.where((columns < num_columns)[None, :], value * WEIGHT_ONE, 0.0)
    to = out + (part * num_rows + rows)[:, None] * stride + place[None, :]
    tl.store(to, value.to(out.dtype.element_ty), mask=(rows < num_rows)[:, None] & (place < stride)[None, :])


@triton.jit
def mean_row_kernel(
    weights, memory, scale, sums, out, num_rows, num_columns, width, start, stride, depth, M: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr, FIRST: tl.constexpr, SCALE: tl.constexpr,
    DIVIDE: tl.constexpr,
):  # fmt: skip
    """``out = out · scale + weights / WEIGHT_ONE @ memory[start:]``, at last divided by ``sums``.

    ``weights [P, B, stride]``, zero outside of N, and ``memory [P, N, D]`` are of one dtype; ``scale`` and
    ``sums [P, B]`` and ``out [P, B, D]`` float32. The first ``depth`` of the weights' columns are read.
    """
    part = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    d = tl.program_id(1) * N + tl.arange(0, N)
    weights += part * num_rows * stride
    memory += part * num_columns * width
    at = tl.minimum(rows, num_rows - 1)
    place = tl.arange(0, K)
    total = tl.zeros([M, N], tl.float32)
    for done in range(0, depth, K):
        a = tl.load(weights + at[:, None] * stride + (done + place)[None, :])
        column = tl.minimum(start + done + place, num_columns - 1).to(tl.int64)
        b = tl.load(memory + column[:, None] * width + d[None, :], mask=(d < width)[None, :], other=0.0)
        total = add_product(total, a, b, PRECISION)
    total *= 1 / WEIGHT_ONE
    to = out + (part * num_rows + rows)[:, None] * width + d[None, :]
    inside = (rows < num_rows)[:, None] & (d < width)[None, :]
    if not FIRST:
        before = tl.load(to, mask=inside, other=0.0)
        total += before * tl.load(scale + part * num_rows + at)[:, None] if SCALE else before
    if DIVIDE:
        total = total / tl.load(sums + part * num_rows + at)[:, None]
    tl.store(to, total, mask=inside)


def kind(x: torch.Tensor) -> str:
    """``"half"``, ``"tf32"`` or ``"tf32x3"``: how products of ``x`` are multiplied."""
    if x.dtype != torch.float32:
        return "half"
    return "tf32" if architecture(x.device) is not None and tf32_allowed() else "tf32x3"


def tf32_allowed() -> bool:
    """Whether PyTorch may multiply float32 in TF32; from 2.9 on ``allow_tf32`` raises where the newer flag was set."""
    flags = torch.backends.cuda.matmul
    setting = getattr(flags, "fp32_precision", None)
    return flags.allow_tf32 if setting is None else setting == "tf32"


def tiles(x: torch.Tensor) -> dict[str, int]:
    """Blocks (``M`` rows, ``N`` columns, ``K`` deep), warps and stages of products of ``x``."""
    return configuration(f"products.{kind(x)}", x.device)


def precision(x: torch.Tensor) -> str:
    """``input_precision`` of ``tl.dot``; half precision ignores it."""
    return "tf32" if kind(x) == "tf32" else "tf32x3"


def chunk_columns(x: torch.Tensor, num_columns: int) -> int:
    """Width of the scratch: a multiple of every tile, no wider than the memory needs."""
    widest = INTERPRETED_CHUNK if architecture(x.device) is None else CHUNK
    return min(widest, triton.cdiv(num_columns, 256) * 256)


def inverse_norms(x: torch.Tensor) -> torch.Tensor:
    """``1 / max(‖row‖, 1e-12)`` of the contiguous ``[..., D]``, float32."""
    out = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    width = x.shape[-1]
    t = configuration("products.norms", x.device)
    t["BLOCK"] = min(t["BLOCK"], triton.next_power_of_2(width))
    inverse_norms_kernel[(out.numel(),)](x, out, width, **t)
    return out


def chunk_values(
    x: torch.Tensor,
    memory: torch.Tensor,
    norms: torch.Tensor,
    out: torch.Tensor,
    start: int,
    temperature: float,
    *,
    lse: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
    soft: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Fill ``out [P, B, C]`` with the logits of columns ``start + [0, C)``.

    With ``lse [P, B]`` given, with ``WEIGHT_ONE`` times their probabilities instead, less one at ``targets [P, B]``;
    zero from N on. With ``soft`` (soft targets, mass, scale) see :func:`weights_kernel`.
    """
    (parts, rows, width), t = x.shape, tiles(x)
    columns = min(out.shape[-1], memory.shape[1] - start)
    grid = (triton.cdiv(rows, t["M"]), triton.cdiv(columns if lse is None else out.shape[-1], t["N"]), parts)
    weights_kernel[grid](
        x, memory, norms, norms if lse is None else lse, norms if targets is None else targets,
        *((norms,) * 3 if soft is None else soft), out, rows, memory.shape[1], width, start, out.shape[-1],
        1 / temperature, EVEN=width % t["K"] == 0, PRECISION=precision(x), PROBABILITIES=lse is not None,
        PICK=targets is not None, SOFT=soft is not None, **t,
    )  # fmt: skip


def add_chunk(
    weights: torch.Tensor,
    memory: torch.Tensor,
    out: torch.Tensor,
    start: int,
    *,
    scale: torch.Tensor | None = None,
    sums: torch.Tensor | None = None,
) -> None:
    """``out [P, B, D] = out · scale + weights / WEIGHT_ONE @ memory[:, start:]``, divided by ``sums``.

    At ``start`` 0 ``out`` is new. ``weights [P, B, C]`` are zero from column N on; ``scale`` and ``sums`` are
    ``[P, B]`` and may be left out.
    """
    (parts, rows, width), t = out.shape, tiles(memory)
    if width % 16:  # loads of single elements, whose addresses would spill registers
        t["N"] //= 2
    depth = min(weights.shape[-1], triton.cdiv(memory.shape[1] - start, t["K"]) * t["K"])
    grid = (triton.cdiv(rows, t["M"]), triton.cdiv(width, t["N"]), parts)
    mean_row_kernel[grid](
        weights, memory, out if scale is None else scale, out if sums is None else sums, out, rows, memory.shape[1],
        width, start, weights.shape[-1], depth, PRECISION=precision(memory), FIRST=start == 0,
        SCALE=scale is not None, DIVIDE=sums is not None, **t,
    )  # fmt: skip
