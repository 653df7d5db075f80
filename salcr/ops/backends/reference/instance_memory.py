"""Instance memories by the formulas; autograd runs the contrast again for its gradient."""

import functools
from collections.abc import Sequence

import torch

from salcr import reference
from salcr.ops._checks import wide_dtype
from salcr.ops._parts import of_features
from salcr.ops._register import reference_gradient
from salcr.ops.backends.reference.cluster_memory import zero_where


def search(
    features: torch.Tensor, memory: torch.Tensor, k: int, temperature: float, *, mean: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.instance_search`; the mean row comes in any case."""
    return reference.instance_search(features, memory, k, temperature=temperature)


def set_contrast(
    features: torch.Tensor, memory: torch.Tensor, positives: torch.Tensor, lse: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the given LSE or zeros in its place: the backward pass has no use for it."""
    loss = reference.set_contrast(features, memory, positives, temperature=temperature, lse=lse)
    return loss, features.new_zeros(features.shape[:-1], dtype=wide_dtype(features)) if lse is None else lse


def set_contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    positives: torch.Tensor,
    lse: torch.Tensor,
    mean_row: torch.Tensor | None,
    temperature: float,
    *,
    create_graph: bool = False,
) -> torch.Tensor:
    """Gradient of the loss for ``features``."""

    def loss(x: torch.Tensor) -> tuple[torch.Tensor]:
        return (reference.set_contrast(x, memory, positives, temperature=temperature),)

    found = reference_gradient(loss, [features], (gradient,), create_graph=create_graph)[0]
    return zero_where((positives < 0).all(-1), found)


def set_contrasts_backward(
    gradients: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    positives: Sequence[torch.Tensor],
    lse: torch.Tensor,
    mean_row: torch.Tensor,
    temperature: float,
    *,
    create_graph: bool = False,
) -> list[torch.Tensor]:
    """Gradients for each of ``features``, of the sum over its memories."""
    found = []
    for gradient, terms in zip(gradients, of_features(features, memories, positives), strict=True):
        each = (
            set_contrast_backward(gradient, x, memory, sets, lse, None, temperature, create_graph=create_graph)
            for x, memory, sets in terms
        )
        found.append(functools.reduce(torch.add, each))
    return found
