"""Transport plans on the GPU, in Triton."""

import torch


def sinkhorn(
    cost: torch.Tensor, *, lam: float = 5.0, tol: float = 0.1, max_iter: int = 500, check_every: int = 10
) -> torch.Tensor:
    """See :func:`salcr.ops.sinkhorn`."""
    from salcr.kernels import sinkhorn

    problems = cost.contiguous().view((1, *cost.shape)[-3:])
    plans = sinkhorn.sinkhorn(problems, lam=lam, tol=tol, max_iter=max_iter, check_every=check_every)
    return plans.view(cost.shape)
