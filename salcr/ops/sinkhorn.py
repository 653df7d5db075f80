"""Entropic transport plan with uniform marginals: association of instances with clusters."""

import torch

from salcr import reference
from salcr.ops._checks import check_finite, check_integer, check_number, check_positive, check_tensor, wide_dtype
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._register import register
from salcr.ops.backends.cpp import sinkhorn as _cpp
from salcr.ops.backends.triton import sinkhorn as _triton


def sinkhorn(
    cost: torch.Tensor,
    *,
    lam: float = 5.0,
    tol: float = 0.1,
    max_iter: int = 500,
    check_every: int = 10,
    impl: str = "auto",
) -> torch.Tensor:
    """Transport plan between uniform marginals that favours small costs.

    Equivalent eager expression::

        K, beta = exp(-lam * cost), full([N], 1 / N)
        for step in range(max_iter):
            alpha = (1 / M) / (K @ beta)
            before, beta = beta, (1 / N) / (alpha @ K)
            if step % check_every == 0 and (before / beta - 1).abs().sum() <= tol:
                break
        plan = alpha[:, None] * K * beta

    It is computed in the log domain, or with factors that are absorbed into it before they leave the range, so
    ``lam * cost`` in the hundreds and beyond neither underflows nor overflows, up to the bound given below. Each
    problem of a batch stops on its own. The last half step is over columns: these sum to 1/N exactly, rows to 1/M as
    nearly as ``tol`` asks. No gradient flows to ``cost``.

    Args:
        cost: ``[M, N]`` or a batch ``[B, M, N]``, float, finite; of any sign. float16 and bfloat16 are computed in
            float32.
        lam: λ, how sharply the plan follows the cost, in 1 / unit of cost; 5 in the paper.
        tol: stop when the column factors change by at most this, summed over columns and relative; 0.1 in the paper.
        max_iter: stop after so many steps at the latest; 500 in the paper.
        check_every: steps between two looks at the change, the first at step 0; 10 in the paper.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        Of the shape of ``cost``, not negative, each plan of sum 1; float32, or float64 for a float64 cost.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or option; a cost that is NaN or infinite (the message names the
            row, counted through the batch); ``lam`` times the range of a row of costs above 1 / ε of the dtype
            (8.4e6 in float32), where rounding alone changes the plan's entries by factors.

    Example:
        >>> plan = ops.sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> [[round(x, 3) for x in row] for row in plan.tolist()]
        [[0.497, 0.003], [0.003, 0.497]]

    Source: docs/method.md, "Optimal transport"; Sinkhorn Distances (Cuturi, 2013).
    """
    check_tensor("cost", cost, ndim=(2, 3))
    check_positive("lam", lam)
    check_integer("max_iter", max_iter)
    check_integer("check_every", check_every)
    check_number("tol", tol)
    if not tol >= 0:
        raise ValueError(f"tol must not be negative, got {tol}")
    return torch.ops.salcr.sinkhorn(cost.detach(), lam, tol, max_iter, check_every, check_impl(impl))


def _sinkhorn(cost, lam, tol, max_iter, check_every, impl):
    cost = cost.to(wide_dtype(cost))
    _check_range(cost, lam)
    function = pick("sinkhorn", impl, cost)
    return function(cost, lam=lam, tol=tol, max_iter=max_iter, check_every=check_every)


def _check_range(cost: torch.Tensor, lam: float) -> None:
    """Costs are finite, and ``lam`` times the range of each row so small that it rounds by 1 at most.

    Synchronises with the device once.
    """
    limits, (smallest, largest) = torch.finfo(cost.dtype), (x.double() for x in torch.aminmax(cost, dim=-1))
    row = float((largest - smallest).max())  # not finite where a cost is not
    if not (max(row, lam) <= limits.max and lam * row <= 1 / limits.eps):
        check_finite("cost", cost.flatten(0, -2))
        raise ValueError(
            f"lam={lam:.3g} times a row of cost that ranges over {row:.3g} leaves {cost.dtype} no digit of the plan"
        )


def _fake_sinkhorn(cost, lam, tol, max_iter, check_every, impl):
    return cost.new_empty(cost.shape, dtype=wide_dtype(cost))


add_backend("sinkhorn", "cpp", _cpp.sinkhorn)
add_backend("sinkhorn", "triton", _triton.sinkhorn, dtypes=(torch.float32,))
add_backend("sinkhorn", "reference", reference.sinkhorn)
register(
    "sinkhorn",
    "(Tensor cost, float lam, float tol, int max_iter, int check_every, str impl) -> Tensor",
    _sinkhorn,
    _fake_sinkhorn,
)
