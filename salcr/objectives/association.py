"""Strategies of association (docs/method.md, "Association"): which cluster of the other modality an image is in."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from salcr import ops
from salcr.ops._checks import check_indices, check_tensor, known_values

BLOCK_ROWS = 1024


class Association(NamedTuple):
    """What an association strategy sees of one epoch: propagated features, refined labels, centroids."""

    visible: torch.Tensor  # [N_v, D]
    infrared: torch.Tensor  # [N_r, D]
    visible_labels: torch.Tensor  # [N_v]
    infrared_labels: torch.Tensor  # [N_r]
    visible_centroids: torch.Tensor  # [K_v, D]
    infrared_centroids: torch.Tensor  # [K_r, D]
    sinkhorn: Mapping[str, float] = MappingProxyType({})  # options of salcr.ops.sinkhorn


Strategy = Callable[[Association], tuple[torch.Tensor, torch.Tensor]]


def register_association(name: str, strategy: Strategy) -> None:
    """Make ``strategy`` available as ``dagi.association: name``, to be called before training starts.

    Args:
        name: not yet taken.
        strategy: takes an :class:`Association`; returns the infrared cluster of every visible image, int64 ``[N_v]``
            in ``[0, K_r)``, and the visible cluster of every infrared image, ``[N_r]`` in ``[0, K_v)``.

    Raises:
        ValueError: the name is taken.
    """
    if name in _STRATEGIES:
        raise ValueError(f"the association {name!r} is registered already")
    _STRATEGIES[name] = strategy


def association_named(name: str) -> Strategy:
    """The strategy registered as ``name``.

    Raises:
        ValueError: there is none; the message lists those that there are.
    """
    if name not in _STRATEGIES:
        raise ValueError(f"association must be one of {', '.join(_STRATEGIES)}, got {name!r}")
    return _STRATEGIES[name]


def answered(name: str, state: Association) -> tuple[torch.Tensor, torch.Tensor]:
    """What the strategy registered as ``name`` returns.

    The labels of a strategy that is not built in are checked, and so are its arguments to operators.

    Raises:
        TypeError: labels are no int64 tensor.
        ValueError: the name is not known; or labels are not as :func:`register_association` says.
    """
    with known_values(False):
        found = association_named(name)(state)
        if name in BUILT_IN:
            return found
        rows = state.visible, state.infrared
        centroids = state.infrared_centroids, state.visible_centroids
        for labels, images, clusters in zip(found, rows, centroids, strict=True):
            what = f"labels of the association {name!r}"
            check_tensor(what, labels, ndim=1, floating=False)
            if len(labels) != len(images):
                raise ValueError(f"{what} must be one for each of {len(images)} images, got {len(labels)}")
            check_indices(what, labels, 0, len(clusters))
    return found


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``[M, N]``, of every row of ``x [M, D]`` to every row of ``y [N, D]``. Beside the result it holds a block."""
    distances, of_y = x @ y.mT, y.square().sum(1)
    of_x = torch.linalg.vector_norm(x, dim=1, keepdim=True).square()  # unlike a sum of squares, without a copy of x
    for norms, products in zip(of_x.split(BLOCK_ROWS), distances.split(BLOCK_ROWS), strict=True):
        torch.sub(norms + of_y, products, alpha=2, out=products).clamp_min_(0)
    return distances


def _optimal_transport(state: Association) -> tuple[torch.Tensor, torch.Tensor]:
    """Instance to cluster: the heaviest column of each image's row of the entropic transport plan."""
    plan_v = ops.sinkhorn(squared_distances(state.visible, state.infrared_centroids), **state.sinkhorn)
    plan_r = ops.sinkhorn(squared_distances(state.infrared, state.visible_centroids), **state.sinkhorn)
    return plan_v.argmax(1), plan_r.argmax(1)


def _hungarian(state: Association) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster to cluster with capacities: each image takes the partner of its own cluster."""
    return _of_partners(state, ops.bidirectional_assignment)


def _graph(state: Association) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster to cluster in rounds: each image takes the partner of its own cluster."""
    return _of_partners(state, ops.progressive_matching)


def _of_partners(
    state: Association, match: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    partner_of_v, partner_of_r = match(squared_distances(state.visible_centroids, state.infrared_centroids))
    return partner_of_v[state.visible_labels], partner_of_r[state.infrared_labels]


_STRATEGIES: dict[str, Strategy] = {"ot": _optimal_transport, "hungarian": _hungarian, "graph": _graph}
BUILT_IN = frozenset(_STRATEGIES)
