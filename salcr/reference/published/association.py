"""Association as published implementations compute it: baselines of benchmarks, not for use. Written from the paper."""

import torch

from salcr.reference.published.propagation import propagate_features


def associate(
    visible: torch.Tensor,
    visible_labels: torch.Tensor,
    infrared: torch.Tensor,
    infrared_labels: torch.Tensor,
    *,
    k: int = 30,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """An epoch's association by optimal transport: labels as :class:`salcr.objectives.CrossLabels` holds them.

    Features are propagated over dense graphs, and both transport plans are dense products.
    """
    visible, infrared = propagate_features(visible, infrared, k=k)
    centroids_v, centroids_r = _centroids(visible, visible_labels), _centroids(infrared, infrared_labels)
    own_v, own_r = (visible @ centroids_v.T).argmax(1), (infrared @ centroids_r.T).argmax(1)
    plan_v = sinkhorn(torch.cdist(visible, centroids_r) ** 2)
    plan_r = sinkhorn(torch.cdist(infrared, centroids_v) ** 2)
    return own_v, plan_v.argmax(1), own_r, plan_r.argmax(1)


def sinkhorn(
    cost: torch.Tensor, *, lam: float = 5.0, tol: float = 0.1, max_iter: int = 500, check_every: int = 10
) -> torch.Tensor:
    """Same plan as :func:`salcr.reference.sinkhorn` as long as ``exp(−λ cost)`` stays in range.

    The plan is the product of dense matrices ``diag(α) K diag(β)``: M² + N² further entries, and M²N multiplications.
    """
    num_rows, num_cols = cost.shape
    kernel = torch.exp(-lam * cost)
    beta = kernel.new_full((num_cols, 1), 1 / num_cols)
    error, step = float("inf"), 0
    while error > tol and step < max_iter:
        alpha = (1 / num_rows) / (kernel @ beta)
        before, beta = beta, (1 / num_cols) / (alpha.T @ kernel).T
        if step % check_every == 0:
            error = (before / beta - 1).abs().sum().item()
        step += 1
    return torch.diag(alpha.squeeze(1)) @ kernel @ torch.diag(beta.squeeze(1))


def linear_assignment(cost: torch.Tensor, *, maximize: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Same total cost as :func:`salcr.reference.linear_assignment` of one matrix, padded with zeros to a square one."""
    from scipy.optimize import linear_sum_assignment

    num_rows, num_cols = cost.shape
    square = cost.new_zeros(max(cost.shape), max(cost.shape), dtype=torch.float64)
    square[:num_rows, :num_cols] = cost
    rows, cols = (torch.from_numpy(x) for x in linear_sum_assignment(square.cpu().numpy(), maximize))
    real = (rows < num_rows) & (cols < num_cols)
    return rows[real].to(cost.device), cols[real].to(cost.device)


def bidirectional_assignment(cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Same totals as :func:`salcr.reference.bidirectional_assignment`, each direction padded to a square problem.

    Columns are repeated until every row can have one; with equally many rows and columns both directions are solved.
    """
    return _assign_rows(cost), _assign_rows(cost.T)


def _assign_rows(cost: torch.Tensor) -> torch.Tensor:
    num_rows, num_cols = cost.shape
    _, cols = linear_assignment(torch.cat([cost] * -(-num_rows // num_cols), dim=1))
    return cols % num_cols


def _centroids(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.stack([features[labels == cluster].mean(0) for cluster in range(int(labels.max()) + 1)])
