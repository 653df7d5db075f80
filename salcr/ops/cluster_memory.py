"""Contrast with the rows of cluster memories (SPEC 3 and 4)."""

from collections.abc import Callable, Sequence

import torch

from salcr.ops._checks import check_positive
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import (
    HALF_TO_SINGLE,
    SINGLE_AND_DOUBLE,
    check_banks,
    check_targets,
    lse_dtype,
    per_row,
    with_banks,
)
from salcr.ops._register import register
from salcr.ops.backends.cpp import cluster_memory as _memories_cpu
from salcr.reference.cluster_memory import cluster_contrast_backward, cluster_contrast_forward

REDUCTIONS = ("mean", "sum", "none")


def cluster_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 0.05,
    reduction: str = "mean",
    impl: str = "auto",
) -> torch.Tensor:
    """Contrast of every feature with the rows of a cluster memory.

    Equivalent eager expression::

        logits = normalize(features, dim=-1) @ memory.mT / temperature
        loss = cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=-1)

    With a leading part axis the mean is taken within each part first and then over parts; a part whose targets are all
    ignored counts as 0. Gradients flow to ``features`` only.

    Args:
        features: ``[B, D]`` or ``[P, B, D]``, float; need not be normalised.
        memory: ``[K, D]`` or ``[P, K, D]`` of the same dtype: unit rows, one a cluster. It gets no gradient.
        targets: ``[B]`` or ``[P, B]``, int64 in ``[0, K)``; rows with -1 are ignored.
        temperature: divides the cosine; 0.05 in the paper.
        reduction: ``"mean"`` over rows that are not ignored, ``"sum"``, or ``"none"``.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        A scalar, or ``[B]`` / ``[P, B]`` with zeros at ignored rows for ``reduction="none"``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device, reduction or temperature; on the CPU also a target
            outside ``[-1, K)`` (on a GPU such a row is not read; its loss is undefined).

    Source: SPEC 3; Cluster Contrast (Dai et al., 2021).
    """
    _check_contrast(features, memory, targets, temperature, impl)
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return _ClusterContrast.apply(features, memory, targets, temperature, reduction, impl)


def cluster_contrast_sum(
    features: torch.Tensor,
    memories: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    *,
    temperature: float = 0.05,
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
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: as :func:`cluster_contrast`; also no memory, or a number of targets other
            than that of memories.

    Source: SPEC 4, the losses L_g and L_p.
    """
    memories, targets = list(memories), list(targets)
    if not memories or len(memories) != len(targets):
        raise ValueError(f"memories and targets must be as many, and some: got {len(memories)} and {len(targets)}")
    for memory, rows in zip(memories, targets, strict=True):
        _check_contrast(features, memory, rows, temperature, impl)
    return _ClusterContrastSum.apply(features, temperature, impl, len(memories), *memories, *targets)


class _ClusterContrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, memory, targets, *options):
        loss, lse = torch.ops.salcr.cluster_contrast(features, memory, targets, *options)
        ctx.save_for_backward(features, memory, targets, lse)
        ctx.options = options
        return loss

    @staticmethod
    def backward(ctx, gradient):
        gradient = torch.ops.salcr.cluster_contrast_backward(gradient, *ctx.saved_tensors, *ctx.options)
        return gradient, None, None, None, None, None


class _ClusterContrastSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, temperature, impl, count, *banks):
        memories, targets = list(banks[:count]), list(banks[count:])
        loss, lses = torch.ops.salcr.cluster_contrast_sum(features, memories, targets, temperature, impl)
        ctx.save_for_backward(features, *banks, *lses)
        ctx.options = temperature, impl
        return loss

    @staticmethod
    def backward(ctx, gradient):
        features, *rest = ctx.saved_tensors
        count = len(rest) // 3
        banks = rest[:count], rest[count : 2 * count], rest[2 * count :]
        gradient = torch.ops.salcr.cluster_contrast_sum_backward(gradient, features, *banks, *ctx.options)
        return gradient, *([None] * (3 + 2 * count))


def _check_contrast(
    features: torch.Tensor, memory: torch.Tensor, targets: torch.Tensor, temperature: float, impl: str
) -> None:
    check_banks(features, memory)
    per_row("targets", targets, features, axes=0)
    check_positive("temperature", temperature)
    check_impl(impl)
    if memory.requires_grad:
        raise ValueError("memory requires a gradient, and cluster_contrast gives it none: pass memory.detach()")


def _contrast(features, memory, targets, temperature, reduction, impl):
    check_targets(targets, memory.shape[-2])
    return pick("cluster_contrast", impl, features)(features, memory, targets, temperature, reduction)


def _contrast_backward(gradient, features, memory, targets, lse, temperature, reduction, impl):
    backward = pick("cluster_contrast_backward", impl, features)
    return backward(gradient, features, memory, targets, lse, temperature, reduction).contiguous()


def _contrast_sum(features, memories, targets, temperature, impl):
    found = [_contrast(features, m, t, temperature, "mean", impl) for m, t in zip(memories, targets, strict=True)]
    return torch.stack([loss for loss, _ in found]).sum(), [lse for _, lse in found]


def _contrast_sum_backward(gradient, features, memories, targets, lses, temperature, impl):
    backward = pick("cluster_contrast_sum_backward", impl, features)
    return backward(gradient, features, memories, targets, lses, temperature, "mean").contiguous()


def _one_by_one(backward: Callable) -> Callable:
    """The gradient of a sum of contrasts from that of one."""

    def summed(gradient, features, memories, targets, lses, temperature, reduction):
        total = None
        for banks in zip(memories, targets, lses, strict=True):
            one = backward(gradient, features, *banks, temperature, reduction)
            total = one if total is None else total.add_(one)
        return total

    return summed


def _cpp_contrast_sum_backward(gradient, features, memories, targets, lses, temperature, reduction):
    return _memories_cpu.contrast_backward(gradient, features, memories, targets, temperature, reduction)


def _cpp_contrast_backward(gradient, features, memory, targets, lse, temperature, reduction):
    return _memories_cpu.contrast_backward(gradient, features, [memory], [targets], temperature, reduction)


def _triton_contrast(features, memory, targets, temperature, reduction):
    from salcr.kernels.cluster_memory import contrast_forward

    rows, banks = with_banks(features, memory)
    positives = targets.expand(rows.shape[:-1]).contiguous().unsqueeze(-1)
    loss, lse = contrast_forward(rows, banks, positives, temperature=temperature, reduction=reduction)
    return loss.view(features.shape[:-1] if reduction == "none" else ()), lse.view(features.shape[:-1])


def _triton_contrast_backward(gradient, features, memory, targets, lse, temperature, reduction):
    from salcr.kernels.cluster_memory import contrast_backward

    rows, banks = with_banks(features, memory)
    positives = targets.expand(rows.shape[:-1]).contiguous().unsqueeze(-1)
    return contrast_backward(
        gradient, rows, banks, positives, lse.contiguous(), temperature=temperature, reduction=reduction
    ).view(features.shape)


def _fake_contrast(features, memory, targets, temperature, reduction, impl):
    loss = features.new_empty(features.shape[:-1] if reduction == "none" else ())
    return loss, features.new_empty(features.shape[:-1], dtype=lse_dtype(features))


def _fake_contrast_backward(gradient, features, memory, targets, lse, temperature, reduction, impl):
    return features.new_empty(features.shape)


def _fake_contrast_sum(features, memories, targets, temperature, impl):
    lses = [features.new_empty(features.shape[:-1], dtype=lse_dtype(features)) for _ in memories]
    return features.new_empty(()), lses


def _fake_contrast_sum_backward(gradient, features, memories, targets, lses, temperature, impl):
    return features.new_empty(features.shape)


for _operator in ("cluster_contrast", "cluster_contrast_sum"):
    add_backend(_operator, "cpu", _memories_cpu.contrast, dtypes=SINGLE_AND_DOUBLE)
    add_backend(_operator, "triton", _triton_contrast, dtypes=HALF_TO_SINGLE)
    add_backend(_operator, "reference", cluster_contrast_forward)
add_backend("cluster_contrast_backward", "cpu", _cpp_contrast_backward, dtypes=SINGLE_AND_DOUBLE)
add_backend("cluster_contrast_backward", "triton", _triton_contrast_backward, dtypes=HALF_TO_SINGLE)
add_backend("cluster_contrast_backward", "reference", cluster_contrast_backward)
_SUM = "cluster_contrast_sum_backward"
add_backend(_SUM, "cpu", _cpp_contrast_sum_backward, dtypes=SINGLE_AND_DOUBLE)
add_backend(_SUM, "triton", _one_by_one(_triton_contrast_backward), dtypes=HALF_TO_SINGLE)
add_backend(_SUM, "reference", _one_by_one(cluster_contrast_backward))
_BANKS, _OPTIONS = "Tensor features, Tensor memory, Tensor targets", "float temperature, str reduction, str impl"
register("cluster_contrast", f"({_BANKS}, {_OPTIONS}) -> (Tensor, Tensor)", _contrast, _fake_contrast)
register(
    "cluster_contrast_backward",
    f"(Tensor gradient, {_BANKS}, Tensor lse, {_OPTIONS}) -> Tensor",
    _contrast_backward,
    _fake_contrast_backward,
)
_MEMORIES = "Tensor features, Tensor[] memories, Tensor[] targets"
register(
    "cluster_contrast_sum",
    f"({_MEMORIES}, float temperature, str impl) -> (Tensor, Tensor[])",
    _contrast_sum,
    _fake_contrast_sum,
)
register(
    "cluster_contrast_sum_backward",
    f"(Tensor gradient, {_MEMORIES}, Tensor[] lses, float temperature, str impl) -> Tensor",
    _contrast_sum_backward,
    _fake_contrast_sum_backward,
)
