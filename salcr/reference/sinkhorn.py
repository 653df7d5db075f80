"""Entropic transport plan with uniform marginals (docs/method.md, "Optimal transport"), in plain PyTorch."""

import math

import torch


def sinkhorn(
    cost: torch.Tensor, *, lam: float = 5.0, tol: float = 0.1, max_iter: int = 500, check_every: int = 10
) -> torch.Tensor:
    """``diag(α) exp(−λ cost) diag(β)`` with rows summing to 1/M and columns to 1/N; see :func:`salcr.ops.sinkhorn`.

    In the log domain. Taking a row's smallest cost off that row scales α only: the iterates of β, and with them the
    stopping rule, stay those of the plain form.
    """
    if cost.ndim == 3:
        options = dict(lam=lam, tol=tol, max_iter=max_iter, check_every=check_every)
        return torch.stack([sinkhorn(problem, **options) for problem in cost])
    num_rows, num_cols = cost.shape
    log_kernel = lam * (cost.amin(1, keepdim=True) - cost)
    log_beta = log_kernel.new_full((num_cols,), -math.log(num_cols))
    for step in range(max_iter):
        log_alpha = -math.log(num_rows) - (log_kernel + log_beta).logsumexp(1)
        before = log_beta
        log_beta = -math.log(num_cols) - (log_kernel + log_alpha.unsqueeze(1)).logsumexp(0)
        if step % check_every == 0 and (before - log_beta).expm1().abs().sum() <= tol:
            break
    return (log_alpha.unsqueeze(1) + log_kernel + log_beta).exp()
