"""Cluster memories by the formula under autograd, which is run again for the gradient."""

from collections.abc import Sequence

import torch

from salcr import reference
from salcr.ops._checks import wide_dtype
from salcr.ops._parts import ignored_rows, of_features
from salcr.ops._register import reference_gradient


def contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    reduction: str,
    soft_targets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and zeros in place of an LSE that the backward pass has no use for."""
    options = dict(soft_targets=soft_targets, weights=weights, temperature=temperature, reduction=reduction)
    loss = reference.cluster_contrast(features, memory, targets, **options)
    return loss, features.new_zeros(features.shape[:-1], dtype=wide_dtype(features))


def contrast_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    lse: torch.Tensor,
    temperature: float,
    reduction: str,
    soft_targets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    *,
    create_graph: bool = False,
) -> torch.Tensor:
    """Gradient of the loss for ``features``."""

    options = dict(soft_targets=soft_targets, weights=weights, temperature=temperature, reduction=reduction)

    def loss(x: torch.Tensor) -> tuple[torch.Tensor]:
        return (reference.cluster_contrast(x, memory, targets, **options),)

    found = reference_gradient(loss, [features], (gradient,), create_graph=create_graph)[0]
    return zero_where(ignored_rows([targets], features), found)


def contrast_sums_backward(
    gradients: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    lse: torch.Tensor,
    temperature: float,
    *,
    create_graph: bool = False,
) -> list[torch.Tensor]:
    """Gradients for each of ``features``."""

    def of_one(gradient: torch.Tensor, terms: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        (rows, *_), banks, labels = zip(*terms, strict=True)

        def loss(x: torch.Tensor) -> tuple[torch.Tensor]:
            return (reference.cluster_contrast_sum(x, banks, labels, temperature=temperature),)

        found = reference_gradient(loss, [rows], (gradient,), create_graph=create_graph)[0]
        return zero_where(ignored_rows(labels, rows), found)

    return [of_one(*group) for group in zip(gradients, of_features(features, memories, targets), strict=True)]


def zero_where(ignored: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Where an ignored row holds NaN, autograd's gradient of it is 0 times NaN."""
    return torch.where(ignored.unsqueeze(-1), 0.0, gradient)
