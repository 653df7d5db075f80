"""Costs that are hard on assignment solvers, and the proof by duals that an assignment is optimal."""

import torch

INF = float("inf")
KINDS = (
    "uniform",
    "integer",
    "negative",
    "huge range",
    "equal",
    "forbidden",
    "geometric",
    "near-degenerate",
    "rank one",
    "few zeros",
    "dear rows",
)


def costs(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """``[M, N]`` of one of ``KINDS``; those with forbidden pairs have an assignment that avoids them."""

    def uniform(*size):
        return torch.rand(size, generator=generator, dtype=torch.float64)

    num_rows, num_cols = shape
    if kind == "uniform":
        return torch.rand(shape, generator=generator)
    if kind == "integer":
        return torch.randint(0, 4, shape, generator=generator).float()
    if kind == "negative":
        return -1 - uniform(*shape)
    if kind == "huge range":
        return 10 ** (60 * uniform(*shape) - 30)
    if kind == "equal":
        return torch.full(shape, 2.5)
    if kind == "geometric":  # points of two sets, as centroids are
        return torch.cdist(uniform(num_rows, 3), uniform(num_cols, 3)).float()
    if kind == "near-degenerate":
        return 1 + 1e-7 * uniform(*shape)
    if kind == "rank one":  # the classical bad case of shortest augmenting paths
        return torch.arange(1.0, num_rows + 1)[:, None] * torch.arange(1.0, num_cols + 1)
    if kind == "few zeros":  # no greedy choice among ties finds the best
        return (uniform(*shape) >= 2 / max(shape)).float()
    if kind == "dear rows":  # the others hold the minima of all columns
        return uniform(num_rows, 1) + 1e-3 * uniform(*shape)
    away = torch.rand(shape, generator=generator) < 0.5
    keep = [torch.randperm(length, generator=generator)[: min(shape)] for length in shape]
    away[keep[0], keep[1]] = False
    return torch.rand(shape, generator=generator).masked_fill(away, INF)


def assert_optimal(cost, rows, cols, row_duals, col_duals, *, maximize=False):
    """What ``return_duals`` of :func:`salcr.ops.linear_assignment` promises of one matrix, to float64's rounding.

    Every dual is a sum of at most ``min(M, N)`` differences of costs, so that many roundings are allowed.
    """
    num_rows, num_cols = cost.shape
    size = min(num_rows, num_cols)
    assert rows.dtype == cols.dtype == torch.int64 and len(rows) == len(cols) == size
    assert (rows.diff() > 0).all() and len(cols.unique()) == size
    assert row_duals.shape == (num_rows,) and col_duals.shape == (num_cols,)
    assert row_duals.dtype == col_duals.dtype == torch.float64
    assert row_duals.isfinite().all() and col_duals.isfinite().all()
    cost, u, v = (-x.double() if maximize else x.double() for x in (cost, row_duals, col_duals))
    slack = cost - u[:, None] - v
    rounding = size * torch.finfo(torch.float64).eps * cost[cost.isfinite()].abs().max()
    assert slack.min() >= -rounding
    assert slack[rows, cols].abs().max() <= rounding
    for duals, assigned, longer in ((u, rows, num_rows > num_cols), (v, cols, num_cols > num_rows)):
        if longer:
            assert (duals <= rounding).all()
            assert not duals[torch.isin(torch.arange(len(duals)), assigned, invert=True)].any()
