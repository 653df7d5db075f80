"""Sinkhorn iterations of a batch of transport problems, in logarithms; the device never waits for the host.

A step is two launches. A program of the first has some rows of a problem: their log-sum-exp over the columns gives
alpha, and with it the program leaves, for every column, the maximum and sum of its own rows. The second merges these
over the programs, in their order, into beta. The programs of all problems lie on the first axis of the grid, the only
one that takes more than 65,535.

A step reads the cost twice; the sums that pass through memory are 8 / R bytes an entry. Estimates for an H100 at
11,909 x 600, not measured: 29 MB stay in the L2 cache, so that the first launch reads 64 MB at some 5.5 TB/s, 12 µs,
in 1,489 programs of 2 warps, of which an SM can hold 12; it issues 11 million instructions of a warp, 12 µs too. Of a
column a thread has all rows but those of one other warp: tiles of 32 x 64, eight warps high, would pass over shared
memory 10 million times for their sums, 44 µs. The second has 150 programs, one for each SM and more, and 7.2 MB, 4 µs
with its latency. Rows that begin at a multiple of 16 bytes are read 16 bytes at a time, others 4.

A problem stops on its own: at a step that checks, the second launch leaves the change of each column; every program of
the next first launch adds these up, and where the sum is small enough, it and all later launches leave the problem as
it is. The host only has to know when it may stop launching: it reads the flag of the chunk of steps before the one that
it has just launched, so the device is busy while it waits. What it launches too much, two chunks at most, does nothing.
"""

import math

import torch
import triton
import triton.language as tl

from .launch import configuration, on_device


@triton.jit
def rows_kernel(
    cost, smallest, log_alpha, log_beta, change, done, block_max, block_sum, num_rows, vectors, blocks, lam, tol,
    log_rows, VECTOR: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """``log_alpha [B, M]``, and ``block_max`` and ``block_sum [B, blocks, N]``: each column over this program's rows.

    All are float32 but ``done [B]``, int32: ``cost [B, M, N]``, ``smallest [B, M]`` of every row's costs, ``log_beta``
    and its last ``change [B, N]``. N is VECTOR times ``vectors``.
    """
    num_columns = vectors * VECTOR
    block, problem = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    changed = tl.zeros([], tl.float32)
    for start in range(0, num_columns, C):
        c = start + tl.arange(0, C)
        changed += tl.sum(tl.load(change + problem * num_columns + c, mask=c < num_columns, other=0.0), 0)
    stopped = tl.where(changed <= tol, 1, 0)  # NaN before the first check: not stopped
    tl.store(done + problem, stopped, mask=block == 0)
    if stopped == 0:
        r = block * R + tl.arange(0, R)
        row = problem * num_rows + r
        least = tl.load(smallest + row, mask=r < num_rows, other=0.0)
        top = tl.full([R], float("-inf"), tl.float32)
        row_sum = tl.zeros([R], tl.float32)
        for start in range(0, num_columns, C):
            c = start + tl.arange(0, C)
            inside = (r < num_rows)[:, None] & (c < num_columns)[None, :]
            entry = tl.load(cost + row[:, None] * num_columns + c[None, :], mask=inside, other=0.0)
            beta = tl.load(log_beta + problem * num_columns + c, mask=c < num_columns, other=float("-inf"))
            z = beta[None, :] - lam * (entry - least[:, None])
            now = tl.maximum(top, tl.max(z, 1))
            row_sum = row_sum * tl.exp(top - now) + tl.sum(tl.exp(z - now[:, None]), 1)
            top = now
        alpha = -(log_rows + top + tl.log(row_sum))
        tl.store(log_alpha + row, alpha, mask=r < num_rows)
        out = (problem * blocks + block) * num_columns
        for start in range(0, num_columns, C):
            c = start + tl.arange(0, C)
            inside = (r < num_rows)[:, None] & (c < num_columns)[None, :]
            entry = tl.load(cost + row[:, None] * num_columns + c[None, :], mask=inside, other=0.0)
            z = tl.where((r < num_rows)[:, None], alpha[:, None] - lam * (entry - least[:, None]), float("-inf"))
            most = tl.max(z, 0)
            tl.store(block_max + out + c, most, mask=c < num_columns)
            tl.store(block_sum + out + c, tl.sum(tl.exp(z - most[None, :]), 0), mask=c < num_columns)


@triton.jit
def columns_kernel(
    block_max, block_sum, log_beta, change, done, num_columns, blocks, strips, log_columns, CHECK: tl.constexpr,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The new ``log_beta [B, N]``, and where CHECK the relative change of beta."""
    problem = (tl.program_id(0) // strips).to(tl.int64)
    if tl.load(done + problem) == 0:
        c = tl.program_id(0) % strips * C + tl.arange(0, C)
        first = problem * blocks
        top = tl.full([C], float("-inf"), tl.float32)
        column_sum = tl.zeros([C], tl.float32)
        for start in range(0, blocks, BLOCK):
            n = start + tl.arange(0, BLOCK)
            inside = (n < blocks)[:, None] & (c < num_columns)[None, :]
            at = (first + n)[:, None] * num_columns + c[None, :]
            most = tl.load(block_max + at, mask=inside, other=float("-inf"))
            part = tl.load(block_sum + at, mask=inside, other=0.0)
            now = tl.maximum(top, tl.max(most, 0))
            finite = tl.where(c < num_columns, now, 0.0)
            column_sum = column_sum * tl.exp(top - finite) + tl.sum(part * tl.exp(most - finite[None, :]), 0)
            top = now
        top = tl.where(c < num_columns, top, 0.0)
        beta = -(log_columns + top + tl.log(tl.where(c < num_columns, column_sum, 1.0)))
        place = problem * num_columns + c
        if CHECK:
            d = tl.load(log_beta + place, mask=c < num_columns, other=0.0) - beta
            series = d * (1 + d * (1 / 2 + d * (1 / 6 + d / 24)))
            direct = tl.exp(tl.minimum(d, 80.0)) - 1
            tl.store(change + place, tl.abs(tl.where(tl.abs(d) < 0.02, series, direct)), mask=c < num_columns)
        tl.store(log_beta + place, beta, mask=c < num_columns)


@triton.jit
def plan_kernel(
    cost, smallest, log_alpha, log_beta, plan, num_rows, vectors, blocks, lam, VECTOR: tl.constexpr, R: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """``plan = exp(log_alpha - lam (cost - smallest) + log_beta)``."""
    num_columns = vectors * VECTOR
    problem = (tl.program_id(0) // blocks).to(tl.int64)
    r = tl.program_id(0) % blocks * R + tl.arange(0, R)
    row = problem * num_rows + r
    shift = tl.load(log_alpha + row, mask=r < num_rows, other=float("-inf"))
    least = tl.load(smallest + row, mask=r < num_rows, other=0.0)
    for start in range(0, num_columns, C):
        c = start + tl.arange(0, C)
        inside = (r < num_rows)[:, None] & (c < num_columns)[None, :]
        at = row[:, None] * num_columns + c[None, :]
        beta = tl.load(log_beta + problem * num_columns + c, mask=c < num_columns, other=float("-inf"))
        entry = tl.load(cost + at, mask=inside, other=0.0)
        tl.store(plan + at, tl.exp(shift[:, None] - lam * (entry - least[:, None]) + beta[None, :]), mask=inside)


def sinkhorn(cost: torch.Tensor, *, lam: float, tol: float, max_iter: int, check_every: int) -> torch.Tensor:
    """Plans ``[B, M, N]`` of the contiguous float32 costs ``[B, M, N]``.

    Args:
        cost: finite.
        lam: how sharply a plan follows the cost.
        tol: a problem stops at a step that checks when its betas change by at most this.
        max_iter: steps at the latest.
        check_every: steps from one check to the next, the first at step 0.
    """
    problems, num_rows, num_columns = cost.shape
    tile, merge = (configuration(name, cost.device) for name in ("sinkhorn.rows", "sinkhorn.columns"))
    blocks, strips, new = triton.cdiv(num_rows, tile["R"]), triton.cdiv(num_columns, merge["C"]), cost.new_empty
    vector = 1 if num_columns % 4 else 4  # numbers that every row begins at a multiple of
    vectors = num_columns // vector
    smallest, log_alpha = cost.amin(2), new(problems, num_rows)
    log_beta = cost.new_full((problems, num_columns), -math.log(num_columns))
    change = torch.full_like(log_beta, math.nan)
    done = torch.zeros(problems, dtype=torch.int32, device=cost.device)
    block_max, block_sum = (new(problems, blocks, num_columns) for _ in range(2))
    plan = torch.empty_like(cost)
    period, running = max(check_every, 10), _Running()
    with on_device(cost):
        for step in range(max_iter):
            rows_kernel[(blocks * problems,)](
                cost, smallest, log_alpha, log_beta, change, done, block_max, block_sum, num_rows, vectors, blocks,
                lam, tol, math.log(num_rows), VECTOR=vector, **tile,
            )  # fmt: skip
            columns_kernel[(strips * problems,)](
                block_max, block_sum, log_beta, change, done, num_columns, blocks, strips, math.log(num_columns),
                CHECK=step % check_every == 0, **merge,
            )  # fmt: skip
            if step > 1 and step % period == 1 and not running.after(done):  # the step before's check is under way
                break
        plan_kernel[(blocks * problems,)](
            cost, smallest, log_alpha, log_beta, plan, num_rows, vectors, blocks, lam, VECTOR=vector, **tile
        )  # fmt: skip
    return plan


class _Running:
    """Whether any problem still runs, known one call late so that the host need not wait for the device."""

    def __init__(self) -> None:
        self.pending: tuple[torch.Tensor, torch.cuda.Event | None] | None = None

    def after(self, done: torch.Tensor) -> bool:
        """Start to read ``done [B]``; False where all were done at the call before this one."""
        before, everything, event = self.pending, done.all(), None
        if done.is_cuda:
            everything = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(everything, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending = everything, event
        if before is None:
            return True
        if before[1] is not None:
            before[1].synchronize()
        return not before[0].item()
