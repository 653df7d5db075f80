"""Transport plans on the CPU, in C++."""

import torch


def sinkhorn(
    cost: torch.Tensor, *, lam: float = 5.0, tol: float = 0.1, max_iter: int = 500, check_every: int = 10
) -> torch.Tensor:
    """See :func:`salcr.ops.sinkhorn`."""
    from salcr import _C

    cost = cost.contiguous()
    plan = torch.empty_like(cost)
    problems = (1, *cost.shape)[-3:]
    arrays = (x.view(problems).numpy() for x in (cost, plan))
    _C.sinkhorn(next(arrays), lam, tol, max_iter, check_every, next(arrays), torch.get_num_threads())
    return plan
