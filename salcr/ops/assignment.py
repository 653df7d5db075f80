"""Minimum-cost assignment: association of clusters with clusters."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from salcr import reference
from salcr.ops._checks import check_flag, check_tensor, check_values
from salcr.ops._dispatch import add_backend, check_impl, pick, prefers_none, share_backends
from salcr.ops._parts import SINGLE_AND_DOUBLE
from salcr.ops._register import is_plain, register
from salcr.ops.backends.cpp import assignment as _cpp
from salcr.ops.backends.cuda import assignment as _cuda


def linear_assignment(
    cost: torch.Tensor, *, maximize: bool = False, return_duals: bool = False, impl: str = "auto"
) -> tuple[torch.Tensor, ...]:
    """One-to-one assignment of rows to columns of the smallest total cost.

    Equivalent expression::

        rows, cols = scipy.optimize.linear_sum_assignment(cost, maximize)

    Where several assignments are optimal, which of them is returned is not specified. No gradient flows to ``cost``.
    In a compiled or exported graph it is one opaque operator.

    Args:
        cost: ``[M, N]`` or a batch ``[B, M, N]``, float, of any sign; float16 and bfloat16 are converted to float32.
            ``inf`` (``-inf`` when maximising) forbids a pair.
        maximize: look for the largest total instead; False by default.
        return_duals: also return the duals, which prove that the assignment is optimal; False by default.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(rows, cols)``, int64 on the device of ``cost``, each ``[min(M, N)]`` or ``[B, min(M, N)]``; rows ascend.
        With ``return_duals`` ``(rows, cols, row_duals, col_duals)``, where the duals u ``[M]`` or ``[B, M]`` and v
        ``[N]`` or ``[B, N]`` are finite, float64 on the device of ``cost``, and up to float64 rounding of the largest
        finite magnitude in ``cost``:

        - feasible: ``u[i] + v[j] <= cost[i, j]`` for every pair (a forbidden one is never violated);
        - tight: ``u[i] + v[j] == cost[i, j]`` on the assigned pairs;
        - where M < N: ``v <= 0``, and exactly ``v[j] == 0`` for every column without a row. All rows are assigned, and
          ``u`` has any sign;
        - where M > N: ``u <= 0``, and exactly ``u[i] == 0`` for every row without a column; ``v`` has any sign;
        - where M = N: both have any sign.

        So ``u.sum() + v.sum()`` is the total cost, and no assignment has a smaller one. When maximising, the same holds
        with ``>=`` for ``<=``. Duals are not unique: which are returned is not specified.

    Raises:
        TypeError, ValueError: a wrong shape or dtype; a cost that is NaN, or infinite with the sign that does not
            forbid; a problem without an assignment that avoids all forbidden pairs.

    Example:
        >>> cost = torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0]])
        >>> rows, cols = ops.linear_assignment(cost)
        >>> cols.tolist(), cost[rows, cols].sum().item()
        ([1, 0], 3.0)

    Source: docs/method.md, "Cluster assignment"; Crouse (2016) for the rectangular problem.
    """
    if impl in ("auto", "cpp") and type(maximize) is type(return_duals) is bool and is_plain(cost):
        array = _array(cost)
        found = None if array is None else assign_array(array, maximize, return_duals, impl)
        if found is not None:
            return tuple(map(torch.from_numpy, found))
    check_tensor("cost", cost, ndim=(2, 3))
    check_flag("maximize", maximize)
    check_flag("return_duals", return_duals)
    impl = check_impl(impl)
    check_values("cost", cost)
    arguments = cost, bool(maximize), bool(return_duals), impl
    if is_plain(cost):
        return _linear_assignment(*arguments)
    return tuple(torch.ops.salcr.linear_assignment(cost.detach(), *arguments[1:]))


def bidirectional_assignment(cost: torch.Tensor, *, impl: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """Minimum-cost assignment in both directions in which every row and every column gets a partner.

    Equivalent eager expression::

        def assign_rows(cost):  # [M, N] -> [M]
            M, N = cost.shape
            return linear_assignment(cost.repeat(1, ceil(M / N)))[1] % N

        row_to_col = assign_rows(cost)
        col_to_row = row_to_col.argsort() if M == N else assign_rows(cost.T)

    ``row_to_col`` has the smallest ``cost[m, row_to_col[m]]`` summed over all rows among the maps that use no column
    more than ``ceil(M / N)`` times; ``col_to_row`` the same with rows and columns exchanged, no row more than
    ``ceil(N / M)`` times. So the smaller side is mapped one to one, and the larger side as evenly as that bound says.
    The two are solved apart: with M > N a column may be the partner of no row in ``row_to_col``, and still has its own
    partner in ``col_to_row``. With M = N they are one permutation and its inverse. Where several optima exist, which
    of them is returned is not specified.

    Args:
        cost: ``[M, N]``, float, of any sign; float16 and bfloat16 are converted to float32. ``inf`` forbids a pair.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(row_to_col [M], col_to_row [N])``, int64 on the device of ``cost``.

    Raises:
        TypeError, ValueError: a wrong shape or dtype; a cost that is NaN or ``-inf``; a direction that cannot avoid
            all forbidden pairs.

    Example:
        >>> cost = torch.tensor([[0.0, 9.0], [9.0, 0.0], [1.0, 2.0]])  # three visible clusters, two infrared ones
        >>> row_to_col, col_to_row = ops.bidirectional_assignment(cost)
        >>> row_to_col.tolist(), col_to_row.tolist()
        ([0, 1, 0], [0, 1])

    Source: docs/method.md, "Cluster assignment".
    """
    check_tensor("cost", cost, ndim=2)
    impl = check_impl(impl)
    check_values("cost", cost)
    return torch.ops.salcr.bidirectional_assignment(cost.detach(), impl)


def progressive_matching(cost: torch.Tensor, *, impl: str = "auto") -> tuple[torch.Tensor, torch.Tensor]:
    """Partners of all rows and all columns, matched one to one in rounds.

    Equivalent expression, for M >= N::

        row_to_col, left = torch.empty(M, dtype=torch.int64), list(range(M))
        while left:
            rows, cols = scipy.optimize.linear_sum_assignment(cost[left])  # the first time these are col_to_row
            row_to_col[[left[row] for row in rows]] = torch.from_numpy(cols)
            left = [left[row] for row in range(len(left)) if row not in rows]

    The first minimum-cost matching pairs all of the smaller side, which keeps these partners. What it leaves of the
    larger side is matched to the smaller side again, until nothing is left: ceil(M / N) rounds. So all partners
    are used equally often, but for the last round's, and the surest pairs are settled first, where
    :func:`bidirectional_assignment` finds the smallest total over all. Where several matchings of a round are optimal,
    which of them counts is not specified.

    Args:
        cost: ``[M, N]``, float, of any sign; float16 and bfloat16 are converted to float32. ``inf`` forbids a pair.
        impl: backend of :func:`linear_assignment`.

    Returns:
        ``(row_to_col [M], col_to_row [N])``, int64 on the device of ``cost``.

    Raises:
        TypeError, ValueError: a wrong shape or dtype; a cost that is NaN or ``-inf``; a round that cannot avoid all
            forbidden pairs.

    Example:
        >>> cost = torch.tensor([[4.0, 6.0], [0.0, 9.0], [9.0, 0.0], [5.0, 4.0]])  # four visible clusters, two infrared
        >>> row_to_col, col_to_row = ops.progressive_matching(cost)
        >>> row_to_col.tolist(), col_to_row.tolist()
        ([0, 0, 1, 1], [1, 2])

    Source: docs/method.md, "Progressive matching"; after Progressive Graph Matching (Wu and Ye, 2023).
    """
    check_tensor("cost", cost, ndim=2)
    impl = check_impl(impl)
    check_values("cost", cost)
    return torch.ops.salcr.progressive_matching(cost.detach(), impl)


def assign_array(
    cost: np.ndarray, maximize: bool, return_duals: bool = False, impl: str = "auto"
) -> tuple[np.ndarray, ...] | None:
    """``linear_assignment`` of one or more matrices by the C++ extension, without the checks: these take as long as it.

    None where the checks have to be made: another backend is wanted, the extension is not built, or it has no result
    for this array (another dtype, NaN, no assignment), and they say why.
    """
    extension = _cpp.extension()
    if extension is None or not (impl == "cpp" or prefers_none()):
        return None
    return extension.linear_assignment(cost, maximize, return_duals, torch.get_num_threads())


def _array(cost: torch.Tensor) -> np.ndarray | None:
    """``cost`` as an array; None on another device, with a gradient, sparse or in bfloat16.

    To catch NumPy's error is quicker than to look for what causes it.
    """
    try:
        return cost.numpy() if cost.is_cpu and not cost.requires_grad else None
    except (TypeError, RuntimeError):
        return None


def _linear_assignment(cost: torch.Tensor, maximize: bool, return_duals: bool, impl: str) -> tuple[torch.Tensor, ...]:
    solve = pick("linear_assignment", impl, cost)
    return solve(_as_read(cost), maximize=maximize, return_duals=return_duals)


def _linear_assignment_fake(
    cost: torch.Tensor, maximize: bool, return_duals: bool, impl: str
) -> tuple[torch.Tensor, ...]:
    *batch, num_rows, num_cols = cost.shape
    pairs = [cost.new_empty((*batch, torch.sym_min(num_rows, num_cols)), dtype=torch.int64) for _ in range(2)]
    lengths = (num_rows, num_cols) if return_duals else ()
    return (*pairs, *(cost.new_empty((*batch, length), dtype=torch.float64) for length in lengths))


def _bidirectional_assignment(cost: torch.Tensor, impl: str) -> tuple[torch.Tensor, torch.Tensor]:
    return pick("bidirectional_assignment", impl, cost)(_as_read(cost))


def _progressive_matching(cost: torch.Tensor, impl: str) -> tuple[torch.Tensor, torch.Tensor]:
    match = partial(pick("progressive_matching", impl, cost), maximize=False, return_duals=False)
    cost = _as_read(cost)
    _check_costs(cost, maximize=False)  # a round would name a place among those left
    turned = cost.shape[0] < cost.shape[1]
    cost = cost.mT if turned else cost
    rows, cols = match(cost)
    small_to_large = rows[cols.argsort()]
    large_to_small = torch.full((len(cost),), -1, device=cost.device).index_copy_(0, rows, cols)
    while len(left := (large_to_small < 0).nonzero()[:, 0]):
        rows, cols = match(cost[left])
        large_to_small[left[rows]] = cols
    return (small_to_large, large_to_small) if turned else (large_to_small, small_to_large)


def _fake_partners(cost: torch.Tensor, impl: str) -> tuple[torch.Tensor, torch.Tensor]:
    row_to_col, col_to_row = (cost.new_empty(length, dtype=torch.int64) for length in cost.shape)
    return row_to_col, col_to_row


def _as_read(cost: torch.Tensor) -> torch.Tensor:
    """``cost`` as solvers read it: without a gradient, in float32 or float64."""
    cost = cost.detach() if cost.requires_grad else cost
    cost = cost.resolve_neg() if cost.is_neg() else cost
    return cost if cost.dtype in SINGLE_AND_DOUBLE else cost.float()


def _check_costs(cost: torch.Tensor, maximize: bool) -> None:
    """No cost is NaN or an infinity that is no prohibition."""
    worst = torch.inf if maximize else -torch.inf
    extreme = float(cost.amax() if maximize else cost.amin())  # NaN if there is any
    if extreme == worst or extreme != extreme:
        at = (cost.isnan() | (cost == worst)).nonzero()[0].tolist()
        raise ValueError(f"cost has NaN or {worst} with maximize={maximize}, first {cost[tuple(at)].item()} at {at}")


def _checked_before(solve: Callable) -> Callable:
    """For a solver that does not look for NaN and wrong infinities itself."""

    def checked(cost: torch.Tensor, **options: bool) -> tuple[torch.Tensor, ...]:
        _check_costs(cost, options.get("maximize", False))
        return solve(cost, **options)

    return checked


def _checked_after(solve: Callable) -> Callable:
    """For a solver that fails on NaN and wrong infinities: only then are the costs searched, to name the first."""

    def checked(cost: torch.Tensor, **options: bool) -> tuple[torch.Tensor, ...]:
        try:
            return solve(cost, **options)
        except ValueError:
            _check_costs(cost, options.get("maximize", False))
            raise

    return checked


for _operator in ("linear_assignment", "bidirectional_assignment"):
    add_backend(_operator, "cpp", _checked_after(getattr(_cpp, _operator)))
    add_backend(_operator, "cuda", _checked_before(getattr(_cuda, _operator)), needs=_cuda.missing_solver)
    add_backend(_operator, "reference", _checked_before(getattr(reference, _operator)))
register(
    "linear_assignment",
    "(Tensor cost, bool maximize, bool return_duals, str impl) -> Tensor[]",
    lambda *arguments: list(_linear_assignment(*arguments)),
    lambda *arguments: list(_linear_assignment_fake(*arguments)),
)
share_backends("progressive_matching", "linear_assignment")
_BOTH_WAYS = "(Tensor cost, str impl) -> (Tensor row_to_col, Tensor col_to_row)"
register("bidirectional_assignment", _BOTH_WAYS, _bidirectional_assignment, _fake_partners)
register("progressive_matching", _BOTH_WAYS, _progressive_matching, _fake_partners)
