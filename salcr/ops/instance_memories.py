"""Several instance memories at once: the searches of a step together, and its contrasts together."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

from salcr.defaults import NEIGHBORS, TEMPERATURE
from salcr.ops._checks import check_integer, check_same, check_tensor, wide_dtype
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import (
    HALF_TO_SINGLE,
    SINGLE_AND_DOUBLE,
    by_features,
    by_memory,
    check_alike,
    check_parts,
    check_temperature,
    followed,
    of_features,
    per_row,
    split_rows,
)
from salcr.ops._precision import check_precision
from salcr.ops._register import Differentiable, apply, first_derivative, register, register_backward
from salcr.ops.backends.cpp import instance_memory as _cpp
from salcr.ops.backends.eager import instance_memory as _eager
from salcr.ops.backends.reference import instance_memory as _formula
from salcr.ops.backends.triton import instance_memory as _triton
from salcr.ops.instance_memory import MOST_NEIGHBORS, check_positives

Groups = Sequence[Sequence[torch.Tensor]]


class Searches(NamedTuple):
    """What :func:`instance_searches` finds of R rows in all, each with n memories."""

    indices: list[torch.Tensor]
    """Of each of the features ``[n, ..., B, k]``, as :func:`salcr.ops.instance_search` returns them."""
    lse: torch.Tensor
    """``[n, R]``, of all features one after the other."""
    mean_row: torch.Tensor
    """``[n, R, D]``."""


def instance_searches(
    features: Sequence[torch.Tensor],
    memories: Groups,
    k: int = NEIGHBORS,
    *,
    temperature: float = TEMPERATURE,
    precision: str = "auto",
    rounded: Groups | None = None,
    impl: str = "auto",
) -> Searches:
    """Equivalent to :func:`salcr.ops.instance_search` of features and memories; on a GPU in the launches of one.

    Args:
        features: each ``[B, D]`` or ``[P, B, D]``, of one dtype, width and device.
        memories: of each of the features equally many, n, each as the single search takes it.
        k, temperature, precision, impl: as there.
        rounded: the memories in bfloat16, for a precision of that; by default they are rounded at every call.

    Raises:
        TypeError, ValueError: as the single search; features that differ in dtype, width or device, or in the number of
            their memories; ``rounded`` that is not of the shapes and devices of ``memories``, or not in bfloat16.
    """
    banks = _checked(features, memories, temperature)
    check_integer("k", k, 1, MOST_NEIGHBORS)
    with torch.no_grad():
        options = k, temperature, check_precision(precision, features[0]), check_impl(impl)
        terms = list(features), by_memory(banks), by_memory(_checked_rounded(rounded or [], banks))
        indices, lse, mean_row = torch.ops.salcr.instance_searches(*terms, *options)
    return Searches(by_features(indices, features), lse, mean_row)


def set_contrasts(
    features: Sequence[torch.Tensor],
    memories: Groups,
    positives: Groups,
    found: Searches,
    *,
    temperature: float = TEMPERATURE,
    impl: str = "auto",
) -> tuple[torch.Tensor, ...]:
    """For each of ``features`` the sum of :func:`salcr.ops.set_contrast` over its memories; on a GPU few launches.

    Args:
        features, memories: as :func:`instance_searches` got them; gradients flow to ``features``.
        positives: for each memory ``[..., B, m]``, as the single contrast takes them; the memories of one of the
            features have the same m.
        found: what :func:`instance_searches` returned for these features and memories.
        temperature, impl: as there.

    Returns:
        A scalar for each of the features.

    Raises:
        TypeError, ValueError: as the single contrast and as :func:`instance_searches`.
    """
    banks = _checked(features, memories, temperature)
    for x, group in zip(features, positives, strict=True):
        for sets in group:
            per_row("positives", sets, x, axes=1)
    tensors = *features, *by_memory(banks), *by_memory(positives), found.lse, found.mean_row
    return apply(_SetContrasts, temperature, check_impl(impl), len(features), *tensors)


class _SetContrasts(Differentiable):
    """Loss of each of the features."""

    @staticmethod
    def forward(temperature, impl, groups, *tensors):
        *terms, lse, _ = _terms(tensors, groups)
        return tuple(torch.ops.salcr.set_contrasts(*terms, lse, temperature, impl))

    @staticmethod
    def setup_context(ctx, inputs, output):
        temperature, impl, ctx.groups, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.options = temperature, impl

    @staticmethod
    def backward(ctx, *gradients):
        tensors = ctx.saved_tensors
        arguments = list(gradients), *_terms(tensors, ctx.groups), *ctx.options
        found = first_derivative("set_contrasts", _formula.set_contrasts_backward, arguments)
        return None, None, None, *found, *[None] * (len(tensors) - ctx.groups)


def _terms(tensors: Sequence[torch.Tensor], groups: int) -> tuple:
    """Features, memories and positives; log-sum-exp and mean row."""
    *tensors, lse, mean_row = tensors
    middle = (len(tensors) + groups) // 2
    return tensors[:groups], tensors[groups:middle], tensors[middle:], lse, mean_row


def _checked(features: Sequence[torch.Tensor], memories: Groups, temperature: float) -> list[list[torch.Tensor]]:
    """Memories in the dtype of their features."""
    banks = [[followed(memory, x) for memory in group] for x, group in zip(features, memories, strict=True)]
    for x, group in zip(features, banks, strict=True):
        for memory in group:
            check_parts(x, memory)
            if memory.requires_grad:
                raise ValueError("memory requires a gradient, and contrasts give it none: pass memory.detach()")
    check_alike(features, banks)
    check_temperature(temperature)
    return banks


def _checked_rounded(rounded: Groups, banks: Groups) -> Groups:
    """``rounded``, which kernels read by the sizes of ``banks``: shorter ones would be read beyond their end."""
    if len(rounded) == 0:
        return rounded
    if [len(group) for group in rounded] != [len(group) for group in banks]:
        counts = [", ".join(str(len(group)) for group in groups) for groups in (rounded, banks)]
        raise ValueError(f"rounded must be as many as memories, {counts[1]}, got {counts[0]}")
    for group, memories in zip(rounded, banks, strict=True):
        for x, memory in zip(group, memories, strict=True):
            check_tensor("rounded", x, ndim=memory.ndim)
            check_same("rounded", x, "memory", memory, dtype=False)
            if x.dtype != torch.bfloat16:
                raise TypeError(f"rounded must be torch.bfloat16, got {x.dtype}")
            if x.shape != memory.shape:
                raise ValueError(f"rounded {tuple(x.shape)} does not fit memory {tuple(memory.shape)}")
    return rounded


def _searches(features, *arguments):
    *arguments, impl = arguments
    return pick("instance_searches", impl, features[0])(features, *arguments)


def _contrasts(features, memories, positives, lse, temperature, impl):
    for memory, rows in zip(memories, positives, strict=True):
        check_positives(rows, memory)
    return list(pick("set_contrasts", impl, features[0])(features, memories, positives, lse, temperature))


def _search_one_by_one(search, features, memories, rounded, k, temperature, precision):
    """In float32, whatever the precision."""
    found = []
    for terms in of_features(features, memories):
        results = zip(*(search(*term, k, temperature, mean=True) for term in terms), strict=True)
        found.append([torch.stack([x.flatten(0, terms[0][0].ndim - 2) for x in by_term]) for by_term in results])
    return tuple(torch.cat(pieces, dim=1) for pieces in zip(*found, strict=True))


def _contrast_one_by_one(contrast, features, memories, positives, lse, temperature):
    groups = of_features(features, memories, positives, split_rows(lse, features))
    return [functools.reduce(torch.add, (contrast(*term, temperature)[0] for term in terms)) for terms in groups]


def _backward_one_by_one(backward, gradients, features, memories, positives, lse, mean_row, temperature):
    known = split_rows(lse, features), split_rows(mean_row, features)
    groups = zip(gradients, of_features(features, memories, positives, *known), strict=True)
    return [functools.reduce(torch.add, (backward(g, *term, temperature) for term in terms)) for g, terms in groups]


def _fake_searches(features, memories, rounded, k, *_):
    rows, count = sum(x.shape[:-1].numel() for x in features), len(memories) // len(features)
    empty = functools.partial(features[0].new_empty, dtype=wide_dtype(features[0]))
    indices = features[0].new_empty(count, rows, k, dtype=torch.int64)
    return indices, empty(count, rows), empty(count, rows, features[0].shape[-1])


def _fake_contrasts(features, memories, positives, lse, temperature, impl):
    return [x.new_empty(()) for x in features]


for _name, _module, _dtypes in (
    ("cpp", _cpp, SINGLE_AND_DOUBLE),
    ("triton", _triton, HALF_TO_SINGLE),
    ("eager", _eager, None),
    ("reference", _formula, None),
):
    _search = functools.partial(_search_one_by_one, _module.search)
    _contrast = functools.partial(_contrast_one_by_one, _module.set_contrast)
    _backward = functools.partial(_backward_one_by_one, _module.set_contrast_backward)
    if _name == "triton":
        _search, _contrast = _triton.searches, _triton.set_contrasts
    if _name in ("triton", "reference"):
        _backward = _module.set_contrasts_backward
    add_backend("instance_searches", _name, _search, dtypes=_dtypes)
    add_backend("set_contrasts", _name, _contrast, dtypes=_dtypes)
    add_backend("set_contrasts_backward", _name, _backward, dtypes=_dtypes)
register(
    "instance_searches",
    "(Tensor[] features, Tensor[] memories, Tensor[] rounded, SymInt k, float temperature, str precision, str impl) "
    "-> (Tensor, Tensor, Tensor)",
    _searches,
    _fake_searches,
)
_SETS = "Tensor[] features, Tensor[] memories, Tensor[] positives, Tensor lse"
register("set_contrasts", f"({_SETS}, float temperature, str impl) -> Tensor[]", _contrasts, _fake_contrasts)
register_backward(
    "set_contrasts", f"(Tensor[] gradients, {_SETS}, Tensor mean_row, float temperature, str impl) -> Tensor[]"
)
