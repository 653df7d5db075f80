"""Contrast with the rows of cluster memories."""

import torch

from salcr.defaults import TEMPERATURE
from salcr.ops._checks import check_choice, check_tensor, wide_dtype
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import (
    HALF_TO_SINGLE,
    SINGLE_AND_DOUBLE,
    check_parts,
    check_targets,
    check_temperature,
    followed,
    per_row,
)
from salcr.ops._precision import check_precision, in_float32, multiplied
from salcr.ops._register import Differentiable, apply, first_derivative, register, register_backward
from salcr.ops.backends.cpp import cluster_memory as _cpp
from salcr.ops.backends.eager import cluster_memory as _eager
from salcr.ops.backends.reference import cluster_memory as _formula
from salcr.ops.backends.triton import cluster_memory as _triton

REDUCTIONS = ("mean", "sum", "none")


def cluster_contrast(
    features: torch.Tensor,
    memory: torch.Tensor,
    targets: torch.Tensor | None = None,
    *,
    soft_targets: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    temperature: float = TEMPERATURE,
    reduction: str = "mean",
    precision: str = "auto",
    impl: str = "auto",
) -> torch.Tensor:
    """Contrast of every feature with the rows of a cluster memory.

    Equivalent eager expression::

        logits = normalize(features, dim=-1) @ memory.mT / temperature
        loss = cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=-1)

    and with ``soft_targets`` and ``weights``, over the rows that are not ignored::

        losses = -(soft_targets * logits.log_softmax(dim=-1)).sum(-1)
        loss = (weights * losses).mean()

    With a leading part axis the mean is taken within each part first and then over parts; a part whose targets are all
    ignored counts as 0. Gradients flow to ``features`` only.

    Args:
        features: ``[B, D]`` or ``[P, B, D]``, float; need not be normalised.
        memory: ``[K, D]`` or ``[P, K, D]`` of the same dtype (under autocast of any, and the features' is taken): unit
            rows, one a cluster. It gets no gradient.
        targets: ``[B]`` or ``[P, B]``, int64 in ``[0, K)``; rows with -1 are ignored.
        soft_targets: ``[B, K]`` or ``[P, B, K]`` of the same dtype, in place of ``targets``: the probability of each
            cluster (the sum may differ from 1). Rows of zeros are ignored.
        weights: ``[B]`` or ``[P, B]`` of the same dtype: factors of the rows' losses. The mean still divides by the
            number of rows; for a weighted mean pass weights of mean 1.
        temperature: divides the cosine; 0.05 in the paper.
        reduction: ``"mean"`` over rows that are not ignored, ``"sum"``, or ``"none"``.
        precision: of the products of float32 rows. ``"float32"`` is exact, on tensor cores in three products of TF32;
            ``"tf32"`` takes one there; with ``"bfloat16"`` features and memory are rounded to that and all sums, losses
            and gradients stay float32; ``"auto"`` is bfloat16 where autocast computes in that, and else float32.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        A scalar, or ``[B]`` / ``[P, B]`` with zeros at ignored rows for ``reduction="none"``; of the features' dtype,
        under autocast too: half precision features give a loss in that, ``features.float()`` one in float32.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device, reduction, precision or temperature; both or neither of
            ``targets`` and ``soft_targets``; a memory, soft targets or weights that require a gradient; on the CPU also
            a target outside ``[-1, K)`` (on a GPU such a row is not read; its loss is undefined).

    Example:
        >>> memory = torch.eye(2)
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 1.0]], requires_grad=True)
        >>> loss = ops.cluster_contrast(features, memory, torch.tensor([0, 1]))
        >>> loss.backward()
        >>> round(loss.item(), 4), features.grad.shape
        (0.3466, torch.Size([2, 2]))

    Source: docs/method.md, "Cluster contrast"; Cluster Contrast (Dai et al., 2021).
    """
    memory, soft_targets, weights = (followed(x, features) for x in (memory, soft_targets, weights))
    if (targets is None) == (soft_targets is None):
        raise ValueError(f"pass either targets or soft_targets, got {'neither' if targets is None else 'both'}")
    if soft_targets is not None:
        check_parts(features, memory)
        per_row("soft_targets", soft_targets, features, axes=1, floating=True)
        if soft_targets.shape[-1] != memory.shape[-2]:
            raise ValueError(f"soft_targets {tuple(soft_targets.shape)} do not fit memory {tuple(memory.shape)}")
        _check_constant("soft_targets", soft_targets)
        targets = (soft_targets != 0).any(-1).long() - 1
    if weights is not None:
        check_tensor("features", features, ndim=(2, 3))
        per_row("weights", weights, features, axes=0, floating=True)
        _check_constant("weights", weights)
    impl = check_contrast(features, memory, targets, temperature, impl)
    check_choice("reduction", reduction, REDUCTIONS)
    precision = check_precision(precision, features)
    options = temperature, reduction, soft_targets, weights, precision, impl
    return apply(_ClusterContrast, features, *multiplied(precision, memory), targets, *options)[0]


class _ClusterContrast(Differentiable):
    """Loss and LSE."""

    @staticmethod
    def forward(*arguments):
        return torch.ops.salcr.cluster_contrast(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        features, memory, targets, temperature, reduction, soft_targets, weights, *ctx.backend = inputs
        ctx.options = temperature, reduction
        ctx.save_for_backward(features, memory, targets, output[1], soft_targets, weights)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, gradient, _):
        if gradient is None:
            return (None,) * 9
        *tensors, soft_targets, weights = ctx.saved_tensors
        arguments = gradient, *tensors, *ctx.options, soft_targets, weights, *ctx.backend
        return first_derivative("cluster_contrast", _formula.contrast_backward, arguments), *[None] * 8


def check_contrast(
    features: torch.Tensor, memory: torch.Tensor, targets: torch.Tensor, temperature: float, impl: str
) -> str:
    check_parts(features, memory)
    per_row("targets", targets, features, axes=0)
    check_temperature(temperature)
    _check_constant("memory", memory)
    return check_impl(impl)


def _check_constant(name: str, x: torch.Tensor) -> None:
    if x.requires_grad:
        raise ValueError(f"{name} requires a gradient, and cluster_contrast gives it none: pass {name}.detach()")


def _contrast(features, memory, targets, *arguments):
    check_targets(targets, memory.shape[-2])
    *arguments, impl = arguments
    return pick("cluster_contrast", impl, features)(features, memory, targets, *arguments)


def _fake_contrast(features, memory, targets, temperature, reduction, *_):
    loss = features.new_empty(features.shape[:-1] if reduction == "none" else ())
    return loss, features.new_empty(features.shape[:-1], dtype=wide_dtype(features))


for _name, _module, _dtypes in (
    ("cpp", _cpp, SINGLE_AND_DOUBLE),
    ("triton", _triton, HALF_TO_SINGLE),
    ("eager", _eager, None),
    ("reference", _formula, None),
):
    _forward, _backward = _module.contrast, _module.contrast_backward
    if _name != "triton":
        _forward, _backward = in_float32(_forward), in_float32(_backward, 1)
    add_backend("cluster_contrast", _name, _forward, dtypes=_dtypes)
    add_backend("cluster_contrast_backward", _name, _backward, dtypes=_dtypes)
_TENSORS = "Tensor features, Tensor memory, Tensor targets"
_OPTIONS = "float temperature, str reduction, Tensor? soft_targets, Tensor? weights, str precision, str impl"
register("cluster_contrast", f"({_TENSORS}, {_OPTIONS}) -> (Tensor, Tensor)", _contrast, _fake_contrast)
register_backward("cluster_contrast", f"(Tensor gradient, {_TENSORS}, Tensor lse, {_OPTIONS}) -> Tensor")
