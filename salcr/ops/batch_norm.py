"""Batch norm, a shortcut and ReLU as one operator: what stands between two convolutions of a residual network."""

import torch

from salcr.ops._checks import check_flag, check_positive, check_same, check_tensor, wide_dtype
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import HALF_TO_SINGLE, SINGLE_AND_DOUBLE, like
from salcr.ops._register import Differentiable, apply, first_derivative, register
from salcr.ops.backends.cpp import batch_norm as _cpp
from salcr.ops.backends.eager import batch_norm as _eager
from salcr.ops.backends.reference import batch_norm as _formula
from salcr.ops.backends.triton import batch_norm as _triton


def batch_norm_relu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    shortcut: torch.Tensor | None = None,
    *,
    mean: torch.Tensor | None = None,
    var: torch.Tensor | None = None,
    twice: bool = False,
    eps: float = 1e-5,
    impl: str = "auto",
) -> tuple[torch.Tensor, ...]:
    """Batch norm of a map over all but its channels, the sum with a shortcut, and ReLU.

    Equivalent eager expression, without statistics given::

        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        y = relu(F.batch_norm(x, mean, var, weight, bias, eps=eps) + shortcut)

    A GPU reads and writes maps 11 times for it and its gradient, where separate operators do so 16 times.

    Args:
        x: ``[B, C, H, W]``, float; channels-last on a GPU, where it is copied otherwise.
        weight: ``[C]``, of the dtype of ``x``, or float32 where that is half precision.
        bias: ``[C]``, of the dtype of ``weight``.
        shortcut: like ``x``; by default there is none.
        mean: ``[C]``, float32, or float64 where ``x`` is: statistics to use, as in evaluation, with ``var``; by default
            those of ``x``.
        var: ``[C]``.
        twice: return ``y`` two times, in the same memory. Two consumers that take one each have their gradients added
            while the gradient of ``x`` is made, and not before.
        eps: added to the variance.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(y, mean, var)``, or ``(y, y, mean, var)``: the result, like ``x``, and the statistics used, float32 (or
        float64), without a gradient. The variance is that of the entries of ``x``: running averages take it times
        ``n / (n - 1)`` with ``n = B * H * W``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or device, only one of ``mean`` and ``var``, either with a gradient,
            statistics of a single entry a channel, ``eps`` not positive.

    Example:
        >>> maps = torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1)
        >>> y, mean, var = ops.batch_norm_relu(maps, torch.ones(1), torch.zeros(1), torch.ones_like(maps))
        >>> [round(entry, 3) for entry in y.flatten().tolist()], mean.item(), round(var.item(), 3)
        ([0.0, 1.0, 2.225], 3.0, 2.667)

    Source: Batch Normalization (Ioffe and Szegedy, 2015); docs/method.md, "Two-stream network".
    """
    _check(x, weight, bias, shortcut, mean, var)
    check_flag("twice", twice)
    check_positive("eps", eps)
    found = apply(_BatchNormReLU, x, weight, bias, shortcut, mean, var, bool(twice), float(eps), check_impl(impl))
    return found if mean is None else (*found[:-2], mean, var)


class _BatchNormReLU(Differentiable):
    """``(y, mean, var)`` or ``(y, y, mean, var)``; the second is a view of the first, so that each has a gradient."""

    @staticmethod
    def forward(x, weight, bias, shortcut, mean, var, twice, eps, impl):
        y, *statistics = torch.ops.salcr.batch_norm_relu(x, weight, bias, shortcut, mean, var, eps, impl)
        return (y, y.view_as(y), *statistics) if twice else (y, *statistics)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, shortcut, mean, var, _, eps, impl = inputs
        y, *_, found_mean, found_var = output
        ctx.mark_non_differentiable(found_mean, found_var)
        statistics = (found_mean, found_var) if mean is None else (mean, var)
        ctx.save_for_backward(x, weight, bias, *statistics, y)
        ctx.options = shortcut is not None, mean is not None, eps, impl
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *gradients):
        given = [g for g in gradients[:-2] if g is not None]
        if not given:
            return (None,) * 9
        arguments = given, *ctx.saved_tensors, *ctx.options
        formula = _formula.batch_norm_relu_backward
        of_x, of_weight, of_bias, of_shortcut = first_derivative("batch_norm_relu", formula, arguments)
        of_shortcut = of_shortcut if ctx.options[0] else None
        return of_x, of_weight, of_bias, of_shortcut, None, None, None, None, None


def _check(x, weight, bias, shortcut, mean, var):
    check_tensor("x", x, ndim=4)
    if (mean is None) != (var is None):
        raise ValueError("mean and var go together: give both, or neither for those of x")
    _check_channels("weight", weight, x, (x.dtype, wide_dtype(x)))
    _check_channels("bias", bias, x, (weight.dtype,))
    if mean is not None:
        _check_channels("mean", mean, x, (wide_dtype(x),))
        _check_channels("var", var, x, (wide_dtype(x),))
        if mean.requires_grad or var.requires_grad:
            raise ValueError("mean and var have no gradient here: detach them")
    elif x.numel() == x.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} has one entry a channel, which has no variance: give mean and var")
    if shortcut is not None:
        check_tensor("shortcut", shortcut, ndim=4)
        check_same("shortcut", shortcut, "x", x)
        if shortcut.shape != x.shape:
            raise ValueError(f"shortcut {tuple(shortcut.shape)} does not fit x {tuple(x.shape)}")


def _check_channels(name: str, given: torch.Tensor, x: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    check_tensor(name, given, ndim=1)
    check_same(name, given, "x", x, dtype=False)
    if len(given) != x.shape[1]:
        raise ValueError(f"{name} {tuple(given.shape)} does not fit the {x.shape[1]} channels of x {tuple(x.shape)}")
    if given.dtype not in dtypes:
        raise TypeError(f"{name} is {given.dtype}, wanted is {' or '.join(map(str, dict.fromkeys(dtypes)))}")


def _batch_norm_relu(x, weight, bias, shortcut, mean, var, eps, impl):
    """``(y, mean, var)``; the statistics are empty where they are given."""
    y, *found = pick("batch_norm_relu", impl, x)(x, weight, bias, shortcut, mean, var, eps)
    if mean is not None:
        found = [torch.empty_like(mean[:0]) for _ in range(2)]
    return like(x, y), *found


def _batch_norm_relu_backward(gradients, x, weight, bias, mean, var, y, shortcut, given, eps, impl):
    """Gradients of ``x``, ``weight``, ``bias`` and ``shortcut``, the last one empty where there is no shortcut."""
    arguments = gradients, x, weight, bias, mean, var, y, shortcut, given, eps
    *found, of_shortcut = pick("batch_norm_relu_backward", impl, x)(*arguments)
    of_shortcut = like(x, of_shortcut) if shortcut else x.new_empty(0)
    return *(like(a, g) for a, g in zip((x, weight, bias), found, strict=True)), of_shortcut


def _fake_batch_norm_relu(x, weight, bias, shortcut, mean, var, eps, impl):
    statistics = (x.new_empty(x.shape[1] if mean is None else 0, dtype=wide_dtype(x)) for _ in range(2))
    return torch.empty_like(x), *statistics


def _fake_batch_norm_relu_backward(gradients, x, weight, bias, mean, var, y, shortcut, *_):
    return tuple(
        x.new_empty(0) if a is None else torch.empty_like(a) for a in (x, weight, bias, x if shortcut else None)
    )


for _name, _module, _dtypes in (
    ("cpp", _cpp, SINGLE_AND_DOUBLE),
    ("triton", _triton, HALF_TO_SINGLE),
    ("eager", _eager, None),
    ("reference", _formula, None),
):
    add_backend("batch_norm_relu", _name, _module.batch_norm_relu, dtypes=_dtypes)
    add_backend("batch_norm_relu_backward", _name, _module.batch_norm_relu_backward, dtypes=_dtypes)
_INPUTS = "Tensor x, Tensor weight, Tensor bias"
register(
    "batch_norm_relu",
    f"({_INPUTS}, Tensor? shortcut, Tensor? mean, Tensor? var, float eps, str impl) "
    "-> (Tensor y, Tensor mean, Tensor var)",
    _batch_norm_relu,
    _fake_batch_norm_relu,
)
register(
    "batch_norm_relu_backward",
    f"(Tensor[] gradients, {_INPUTS}, Tensor mean, Tensor var, Tensor y, bool shortcut, bool given, float eps, "
    "str impl) -> (Tensor, Tensor, Tensor, Tensor)",
    _batch_norm_relu_backward,
    _fake_batch_norm_relu_backward,
)
