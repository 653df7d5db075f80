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
    shortcut_weight: torch.Tensor | None = None,
    shortcut_bias: torch.Tensor | None = None,
    shortcut_mean: torch.Tensor | None = None,
    shortcut_var: torch.Tensor | None = None,
    twice: bool = False,
    eps: float = 1e-5,
    impl: str = "auto",
) -> tuple[torch.Tensor, ...]:
    """Batch norm of a map over all but its channels, the sum with a shortcut, which may have a norm too, and ReLU.

    Equivalent eager expression, without statistics given::

        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        y = relu(F.batch_norm(x, mean, var, weight, bias, eps=eps) + shortcut)

    and with a norm of the shortcut, ``F.batch_norm(shortcut, ...)`` of the same kind in its place. A GPU reads and
    writes maps 11 times for it and its gradient, where separate operators do so 16 times; with both norms 13 times
    instead of 24.

    Args:
        x: ``[B, C, H, W]``, float; channels-last on a GPU, where it is copied otherwise.
        weight: ``[C]``, of the dtype of ``x``, or float32 where that is half precision.
        bias: ``[C]``, of the dtype of ``weight``.
        shortcut: like ``x``; by default there is none.
        mean: ``[C]``, float32, or float64 where ``x`` is: statistics to use, as in evaluation, with ``var``; by default
            those of ``x``.
        var: ``[C]``.
        shortcut_weight: like ``weight``, with ``shortcut_bias``: normalise the shortcut, too; by default it is added as
            it is.
        shortcut_bias: ``[C]``, of the dtype of ``shortcut_weight``.
        shortcut_mean: like ``mean``, with ``shortcut_var``: statistics to use for the shortcut's norm, needed where
            ``mean`` is given; by default those of ``shortcut``.
        shortcut_var: ``[C]``.
        twice: return ``y`` two times, in the same memory. Two consumers that take one each have their gradients added
            while the gradient of ``x`` is made, and not before.
        eps: added to every variance.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(y, mean, var)``, or ``(y, y, mean, var)``: the result, like ``x``, and the statistics used, float32 (or
        float64), without a gradient; with a norm of the shortcut ``shortcut_mean`` and ``shortcut_var`` follow. The
        variance is that of the entries of ``x``: running averages take it times ``n / (n - 1)`` with
        ``n = B * H * W``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or device, only one of ``mean`` and ``var``, of ``shortcut_weight``
            and ``shortcut_bias`` or of both norms' statistics, statistics with a gradient or of a single entry a
            channel, a norm of no shortcut, ``eps`` not positive.

    Example:
        >>> maps = torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1)
        >>> y, mean, var = ops.batch_norm_relu(maps, torch.ones(1), torch.zeros(1), torch.ones_like(maps))
        >>> [round(entry, 3) for entry in y.flatten().tolist()], mean.item(), round(var.item(), 3)
        ([0.0, 1.0, 2.225], 3.0, 2.667)

    Source: Batch Normalization (Ioffe and Szegedy, 2015); docs/method.md, "Two-stream network".
    """
    statistics = mean, var, shortcut_mean, shortcut_var
    _check(x, weight, bias, shortcut, shortcut_weight, shortcut_bias, *statistics)
    check_flag("twice", twice)
    check_positive("eps", eps)
    norms = weight, bias, shortcut_weight, shortcut_bias, *statistics
    found = apply(_BatchNormReLU, x, shortcut, *norms, bool(twice), float(eps), check_impl(impl))
    return (*found, *(y for y in statistics if y is not None))


class _BatchNormReLU(Differentiable):
    """``y``, or ``y`` and a view of it, which has a gradient of its own; then the statistics that are not given."""

    @staticmethod
    def forward(x, shortcut, *others):
        *norms, twice, eps, impl = others
        maps, shortcut, parameters, statistics = _normalised(x, shortcut, *norms)
        y, *found = torch.ops.salcr.batch_norm_relu(maps, parameters, shortcut, statistics, eps, impl)
        return (y, y.view_as(y), *found) if twice else (y, *found)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *inputs, twice, eps, impl = inputs
        maps, shortcut, parameters, given = _normalised(*inputs)
        y, found = output[0], output[1 + twice :]
        ctx.mark_non_differentiable(*found)
        ctx.save_for_backward(*maps, *parameters, *(given or found), y)
        ctx.norms, ctx.results, ctx.options = len(maps), 1 + twice, (shortcut is not None, len(given) > 0, eps, impl)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *gradients):
        given = [g for g in gradients[: ctx.results] if g is not None]
        if not given:
            return (None,) * 13
        n, (*saved, y) = ctx.norms, ctx.saved_tensors
        arguments = given, saved[:n], saved[n : 3 * n], saved[3 * n :], y, *ctx.options
        found = first_derivative("batch_norm_relu", _formula.batch_norm_relu_backward, arguments)
        (of_x, *of_normed), of_parameters, of_added = found[:n], found[n : 3 * n], found[3 * n :]
        return of_x, *_padded([*of_normed, *of_added], 1), *_padded(of_parameters, 4), *(None,) * 7


def _normalised(x, shortcut, weight, bias, shortcut_weight, shortcut_bias, *statistics):
    """The maps that have a norm, what is added as it is, and the norms' parameters and given statistics."""
    statistics = [y for y in statistics if y is not None]
    if shortcut_weight is None:
        return [x], shortcut, [weight, bias], statistics
    return [x, shortcut], None, [weight, bias, shortcut_weight, shortcut_bias], statistics


def _padded(gradients, length):
    return *gradients, *(None,) * (length - len(gradients))


def _check(x, weight, bias, shortcut, shortcut_weight, shortcut_bias, mean, var, shortcut_mean, shortcut_var):
    check_tensor("x", x, ndim=4)
    _check_norm("", x, weight, bias, mean, var)
    if mean is None and x.numel() == x.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} has one entry a channel, which has no variance: give mean and var")
    if shortcut is not None:
        check_tensor("shortcut", shortcut, ndim=4)
        check_same("shortcut", shortcut, "x", x)
        if shortcut.shape != x.shape:
            raise ValueError(f"shortcut {tuple(shortcut.shape)} does not fit x {tuple(x.shape)}")
    norm = shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var
    if all(y is None for y in norm):
        return
    if shortcut is None or shortcut_weight is None or shortcut_bias is None:
        raise ValueError("a norm of the shortcut needs shortcut, shortcut_weight and shortcut_bias")
    _check_norm("shortcut_", x, *norm)
    if (mean is None) != (shortcut_mean is None):
        raise ValueError("mean and shortcut_mean go together: give statistics of both norms, or of neither")


def _check_norm(prefix: str, x, weight, bias, mean, var) -> None:
    """Parameters and statistics of the norm whose arguments begin with ``prefix``."""
    if (mean is None) != (var is None):
        raise ValueError(f"{prefix}mean and {prefix}var go together: give both, or neither")
    _check_channels(f"{prefix}weight", weight, x, (x.dtype, wide_dtype(x)))
    _check_channels(f"{prefix}bias", bias, x, (weight.dtype,))
    if mean is not None:
        _check_channels(f"{prefix}mean", mean, x, (wide_dtype(x),))
        _check_channels(f"{prefix}var", var, x, (wide_dtype(x),))
        if mean.requires_grad or var.requires_grad:
            raise ValueError(f"{prefix}mean and {prefix}var have no gradient here: detach them")


def _check_channels(name: str, given: torch.Tensor, x: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    check_tensor(name, given, ndim=1)
    check_same(name, given, "x", x, dtype=False)
    if len(given) != x.shape[1]:
        raise ValueError(f"{name} {tuple(given.shape)} does not fit the {x.shape[1]} channels of x {tuple(x.shape)}")
    if given.dtype not in dtypes:
        raise TypeError(f"{name} is {given.dtype}, wanted is {' or '.join(map(str, dict.fromkeys(dtypes)))}")


def _batch_norm_relu(maps, parameters, shortcut, statistics, eps, impl):
    """``y`` and the statistics that are not given."""
    y, *found = pick("batch_norm_relu", impl, maps[0])(maps, parameters, shortcut, statistics, eps)
    return [like(maps[0], y), *([] if statistics else found)]


def _batch_norm_relu_backward(gradients, maps, parameters, statistics, y, shortcut, given, eps, impl):
    """Gradients of ``maps`` and ``parameters``, and of the shortcut where there is one that has no norm."""
    arguments = gradients, maps, parameters, statistics, y, shortcut, given, eps
    found = pick("batch_norm_relu_backward", impl, maps[0])(*arguments)
    return [like(a, g) for a, g in zip(_with_gradient(maps, parameters, shortcut), found, strict=True)]


def _with_gradient(maps, parameters, shortcut):
    """What the gradients are of, or what is like it: a shortcut is like the map that it is added to."""
    return [*maps, *parameters, *maps[: int(shortcut)]]


def _fake_batch_norm_relu(maps, parameters, shortcut, statistics, eps, impl):
    x, missing = maps[0], 0 if statistics else 2 * len(maps)
    return [torch.empty_like(x), *(x.new_empty(x.shape[1], dtype=wide_dtype(x)) for _ in range(missing))]


def _fake_batch_norm_relu_backward(gradients, maps, parameters, statistics, y, shortcut, *_):
    return [torch.empty_like(a) for a in _with_gradient(maps, parameters, shortcut)]


for _name, _module, _dtypes in (
    ("cpp", _cpp, SINGLE_AND_DOUBLE),
    ("triton", _triton, HALF_TO_SINGLE),
    ("eager", _eager, None),
    ("reference", _formula, None),
):
    add_backend("batch_norm_relu", _name, _module.batch_norm_relu, dtypes=_dtypes)
    add_backend("batch_norm_relu_backward", _name, _module.batch_norm_relu_backward, dtypes=_dtypes)
register(
    "batch_norm_relu",
    "(Tensor[] maps, Tensor[] parameters, Tensor? shortcut, Tensor[] statistics, float eps, str impl) -> Tensor[]",
    _batch_norm_relu,
    _fake_batch_norm_relu,
)
register(
    "batch_norm_relu_backward",
    "(Tensor[] gradients, Tensor[] maps, Tensor[] parameters, Tensor[] statistics, Tensor y, bool shortcut, "
    "bool given, float eps, str impl) -> Tensor[]",
    _batch_norm_relu_backward,
    _fake_batch_norm_relu_backward,
)
