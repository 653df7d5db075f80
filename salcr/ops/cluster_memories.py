"""Contrast with several cluster memories, of several features at once."""

import functools
from collections.abc import Sequence

import torch

from salcr.defaults import TEMPERATURE
from salcr.ops._checks import wide_dtype
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import (
    HALF_TO_SINGLE,
    SINGLE_AND_DOUBLE,
    by_memory,
    check_alike,
    check_targets,
    followed,
    of_features,
    split_rows,
)
from salcr.ops._precision import check_precision, in_float32, multiplied
from salcr.ops._register import Differentiable, apply, first_derivative, register, register_backward
from salcr.ops.backends.cpp import cluster_memory as _cpp
from salcr.ops.backends.eager import cluster_memory as _eager
from salcr.ops.backends.reference import cluster_memory as _formula
from salcr.ops.backends.triton import cluster_memory as _triton
from salcr.ops.cluster_memory import check_contrast


def cluster_contrast_sum(
    features: torch.Tensor,
    memories: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    *,
    temperature: float = TEMPERATURE,
    precision: str = "auto",
    impl: str = "auto",
) -> torch.Tensor:
    """Contrast of every feature with the rows of several cluster memories, as one operator.

    Equivalent eager expression::

        sum(cluster_contrast(features, m, t, temperature=temperature) for m, t in zip(memories, targets))

    Args:
        features: ``[B, D]`` or ``[P, B, D]``, float; need not be normalised.
        memories: each ``[K, D]`` or ``[P, K, D]``, of any ``K``; as in :func:`cluster_contrast`.
        targets: as many, each ``[B]`` or ``[P, B]``, int64 in ``[0, K)`` of its memory; rows with -1 are ignored.
        temperature: divides the cosine; 0.05 in the paper.
        precision: as there.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: as :func:`cluster_contrast`; also no memory, or a number of targets other
            than that of memories.

    Example:
        >>> features, one, other = torch.eye(2), torch.eye(2), torch.eye(2)[:1]  # one of two clusters, one of one
        >>> targets = torch.tensor([0, 1]), torch.tensor([0, -1])
        >>> round(ops.cluster_contrast_sum(features, (one, other), targets, temperature=1.0).item(), 4)
        0.3133

    Source: docs/method.md, "DAGI" and "FGSAL".
    """
    options = dict(temperature=temperature, precision=precision, impl=impl)
    return cluster_contrast_sums([features], [memories], [targets], **options)[0]


def cluster_contrast_sums(
    features: Sequence[torch.Tensor],
    memories: Sequence[Sequence[torch.Tensor]],
    targets: Sequence[Sequence[torch.Tensor]],
    *,
    temperature: float = TEMPERATURE,
    precision: str = "auto",
    impl: str = "auto",
) -> tuple[torch.Tensor, ...]:
    """Equivalent to :func:`salcr.ops.cluster_contrast_sum` of each of ``features``; on a GPU in the launches of one.

    Args:
        features: of one dtype, width and device.
        memories, targets: of each of the features equally many, as the single sum takes them.
        temperature, precision, impl: as there.

    Returns:
        A scalar for each of the features.

    Raises:
        TypeError, ValueError: as the single sum; features that differ in dtype, width or device, or in the number of
            their memories.
    """
    for name, groups in (("memories", memories), ("targets", targets)):
        for group in groups:
            if isinstance(group, torch.Tensor) or not isinstance(group, Sequence):
                raise TypeError(f"{name} must be a sequence of tensors, got {type(group).__name__}")
    banks = [[followed(memory, x) for memory in group] for x, group in zip(features, memories, strict=True)]
    for x, group, labels in zip(features, banks, targets, strict=True):
        if not group or len(group) != len(labels):
            raise ValueError(f"targets must be as many as memories, one at least: got {len(labels)} and {len(group)}")
        for memory, of_memory in zip(group, labels, strict=True):
            check_contrast(x, memory, of_memory, temperature, impl)
    check_alike(features, banks)
    precision = check_precision(precision, features[0])
    tensors = *features, *multiplied(precision, *by_memory(banks)), *by_memory(targets)
    options = temperature, precision, check_impl(impl)
    return apply(_ClusterContrastSums, *options, len(features), *tensors)[: len(features)]


class _ClusterContrastSums(Differentiable):
    """Loss of each of the features, and the LSE of all logits."""

    @staticmethod
    def forward(temperature, precision, impl, groups, *tensors):
        losses, lse = torch.ops.salcr.cluster_contrast_sum(*_terms(tensors, groups), temperature, precision, impl)
        return *losses, lse

    @staticmethod
    def setup_context(ctx, inputs, output):
        *ctx.options, ctx.groups = inputs[:4]
        ctx.save_for_backward(*inputs[4:], output[-1])
        ctx.mark_non_differentiable(output[-1])

    @staticmethod
    def backward(ctx, *gradients):
        *tensors, lse = ctx.saved_tensors
        arguments = list(gradients[:-1]), *_terms(tensors, ctx.groups), lse, *ctx.options
        found = first_derivative("cluster_contrast_sum", _formula.contrast_sums_backward, arguments)
        return *[None] * 4, *found, *[None] * (len(tensors) - ctx.groups)


def _terms(tensors: Sequence[torch.Tensor], groups: int) -> tuple[list[torch.Tensor], ...]:
    """Features, memories and targets."""
    middle = (len(tensors) + groups) // 2
    return list(tensors[:groups]), list(tensors[groups:middle]), list(tensors[middle:])


def _contrast_sums(features, memories, targets, temperature, precision, impl):
    for memory, labels in zip(memories, targets, strict=True):
        check_targets(labels, memory.shape[-2])
    contrast = pick("cluster_contrast_sum", impl, features[0])
    losses, lse = contrast(features, memories, targets, temperature, precision)
    return list(losses), lse


def _one_by_one(contrast, features, memories, targets, temperature):
    losses, lses = [], []
    for terms in of_features(features, memories, targets):
        found = [contrast(*term, temperature, "mean", None, None) for term in terms]
        losses.append(functools.reduce(torch.add, (loss for loss, _ in found)))
        lses.append(torch.stack([lse.flatten() for _, lse in found]))
    return losses, torch.cat(lses, dim=1)


def _backward_one_by_one(backward, gradients, features, memories, targets, lse, temperature):
    found = []
    for n, terms in enumerate(of_features(features, memories, targets, split_rows(lse, features))):
        _, banks, labels, lses = zip(*terms, strict=True)
        found.append(backward(gradients[n], features[n], banks, labels, lses, temperature, "mean"))
    return found


def _fake_contrast_sums(features, memories, *_):
    rows = sum(x.shape[:-1].numel() for x in features)
    lse = features[0].new_empty(len(memories) // len(features), rows, dtype=wide_dtype(features[0]))
    return [x.new_empty(()) for x in features], lse


for _name, _module, _dtypes in (
    ("cpp", _cpp, SINGLE_AND_DOUBLE),
    ("triton", _triton, HALF_TO_SINGLE),
    ("eager", _eager, None),
    ("reference", _formula, None),
):
    _sums = _triton.contrast_sums if _name == "triton" else functools.partial(_one_by_one, _module.contrast)
    if _name in ("triton", "reference"):
        _sums_backward = _module.contrast_sums_backward
    else:
        _sums_backward = functools.partial(_backward_one_by_one, _module.contrast_sum_backward)
    if _name != "triton":
        _sums, _sums_backward = in_float32(_sums), in_float32(_sums_backward, 1)
    add_backend("cluster_contrast_sum", _name, _sums, dtypes=_dtypes)
    add_backend("cluster_contrast_sum_backward", _name, _sums_backward, dtypes=_dtypes)
_MEMORIES = "Tensor[] features, Tensor[] memories, Tensor[] targets"
register(
    "cluster_contrast_sum",
    f"({_MEMORIES}, float temperature, str precision, str impl) -> (Tensor[], Tensor)",
    _contrast_sums,
    _fake_contrast_sums,
)
register_backward(
    "cluster_contrast_sum",
    f"(Tensor[] gradients, {_MEMORIES}, Tensor lse, float temperature, str precision, str impl) -> Tensor[]",
)
