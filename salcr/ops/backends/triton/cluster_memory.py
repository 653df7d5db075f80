"""Cluster memories on the GPU, in Triton."""

import itertools
from collections.abc import Sequence

import torch

from salcr.ops._parts import with_parts


def contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    reduction: str,
    soft_targets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    precision: str = "float32",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and LSE of all logits; see :func:`salcr.ops.cluster_contrast`."""
    from salcr.kernels.cluster_memory import contrast_forward

    rows, memories = with_parts(features, memory)
    terms = _terms(soft_targets, weights, rows, memories)
    options = dict(temperature=temperature, reduction=reduction, tf32=precision == "tf32")
    (loss,), lse = contrast_forward([rows], [memories], _as_sets([targets], [rows]), **terms, **options)
    return loss.view(features.shape[:-1] if reduction == "none" else ()), lse.view(features.shape[:-1])


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
    precision: str = "float32",
) -> torch.Tensor:
    """Gradient of the loss for ``features``."""
    from salcr.kernels.cluster_memory import contrast_backward

    rows, memories = with_parts(features, memory)
    sets, terms = _as_sets([targets], [rows]), _terms(soft_targets, weights, rows, memories)
    options = dict(temperature=temperature, reduction=reduction, tf32=precision == "tf32")
    (found,) = contrast_backward([gradient], [rows], [memories], sets, lse.contiguous(), **terms, **options)
    return found.view(features.shape)


def contrast_sums(
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    temperature: float,
    precision: str,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Losses of each of the features, and the LSE of all logits; see ``salcr::cluster_contrast_sum``."""
    from salcr.kernels.cluster_memory import contrast_forward

    rows, banks = with_parts(*features), with_parts(*memories)
    options = dict(temperature=temperature, tf32=precision == "tf32")
    return contrast_forward(rows, banks, _as_sets(targets, rows), **options)


def contrast_sums_backward(
    gradients: Sequence[torch.Tensor],
    features: Sequence[torch.Tensor],
    memories: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    lse: torch.Tensor,
    temperature: float,
    precision: str,
) -> list[torch.Tensor]:
    """Gradients for ``features``."""
    from salcr.kernels.cluster_memory import contrast_backward

    rows, banks = with_parts(*features), with_parts(*memories)
    sets, options = _as_sets(targets, rows), dict(temperature=temperature, tf32=precision == "tf32")
    found = contrast_backward(gradients, rows, banks, sets, lse.contiguous(), **options)
    return [x.view(given.shape) for x, given in zip(found, features, strict=True)]


def spread(positives: Sequence[torch.Tensor], rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Sets ``[P, B, m]``, contiguous, for each term of :mod:`salcr.kernels.groups`."""
    features = itertools.cycle(rows)
    return [sets.expand(*x.shape[:-1], -1).contiguous() for sets, x in zip(positives, features, strict=False)]


def _as_sets(targets: Sequence[torch.Tensor], rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The kernel contrasts with sets; a target is a set of one."""
    return spread([labels.unsqueeze(-1) for labels in targets], rows)


def _terms(
    soft_targets: torch.Tensor | None, weights: torch.Tensor | None, rows: torch.Tensor, memories: torch.Tensor
) -> dict[str, torch.Tensor | None]:
    """Of all parts, contiguous."""
    lead, columns = rows.shape[:-1], memories.shape[1]
    return dict(
        soft=None if soft_targets is None else soft_targets.expand(*lead, columns).contiguous(),
        weights=None if weights is None else weights.expand(lead).contiguous(),
    )
