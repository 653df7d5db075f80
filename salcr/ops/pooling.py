"""Pooling of a feature map: power mean, part prototypes and attention over stripes.

A map ``x`` ``[B, D, H, W]`` comes in either memory format. Its ``H*W`` cells in row-major order are cut into ``P``
stripes of ``H*W // P`` cells; the cells that remain belong to no part.

All five functions are one operator, ``salcr::pool``, asked for different results of one read of the map.
"""

import torch

from salcr.ops._checks import check_positive, check_same, check_tensor, wide_dtype
from salcr.ops._dispatch import add_backend, check_impl, pick, share_backends
from salcr.ops._parts import HALF_TO_SINGLE, SINGLE_AND_DOUBLE, like, pooled_parts
from salcr.ops._register import Differentiable, apply, first_derivative, register
from salcr.ops.backends.cpp import pooling as _cpp
from salcr.ops.backends.reference import pooling as _formula
from salcr.ops.backends.triton import pooling as _triton

VIEWS = 3  # visible, augmented, infrared


def gem_pool(x: torch.Tensor, p: float = 3.0, eps: float = 1e-12, *, impl: str = "auto") -> torch.Tensor:
    """Power mean of every channel over the map.

    Equivalent eager expression::

        ((x ** p).mean((2, 3)) + eps) ** (1 / p)

    Args:
        x: ``[B, D, H, W]``, float, contiguous or channels-last; not negative unless ``p`` is an odd integer.
            A negative mean of powers gives NaN, but with ``p`` 1.
        p: the power; 3 in the paper, fixed.
        eps: added to the mean, so that a channel of zeros has a gradient (of zero); 1e-12 in the paper.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[B, D]`` of the dtype of ``x``.

    Raises:
        TypeError, ValueError: a wrong shape or dtype, ``p`` or ``eps`` not positive.

    Example:
        >>> maps = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
        >>> ops.gem_pool(maps, p=1.0).tolist(), round(ops.gem_pool(maps).item(), 4)
        ([[2.5]], 2.924)

    Source: docs/method.md, "Global feature"; GeM pooling (Radenović et al., 2018).
    """
    check_tensor("x", x, ndim=4)
    check_positive("p", p)
    check_positive("eps", eps)
    means = apply(_Pool, x, None, None, 1, float(p), False, check_impl(impl))[0]
    return _root(means, p, eps, x.dtype)


def part_prototypes(x: torch.Tensor, tokens: torch.Tensor, *, impl: str = "auto") -> torch.Tensor:
    """Mean of the cells of every stripe, weighted by their match with the part's token.

    Equivalent eager expression, for part ``p``::

        cells = x.flatten(2)[:, :, p * T : (p + 1) * T]                  # T = H*W // P
        s = sigmoid((tokens[p][None, :, None] * cells).sum(1, keepdim=True))
        (s * cells).sum(2) / s.sum(2)

    Where all sigmoids of a stripe underflow the result is the limit of that quotient, not NaN.

    Args:
        x: ``[B, D, H, W]``, float, contiguous or channels-last.
        tokens: ``[P, D]`` of the same dtype, one learned token a part; ``P <= H*W``.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[B, P, D]``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or device, more parts than cells.

    Source: docs/method.md, "Semantic-aligned parts".
    """
    _check_parts(x, "tokens", tokens, ndim=2)
    return apply(_Pool, x, tokens, None, 1, None, False, check_impl(impl))[2].to(x.dtype)


def part_attention(queries: torch.Tensor, x: torch.Tensor, *, impl: str = "auto") -> torch.Tensor:
    """Mean of the cells of every stripe, weighted by attention to the part's query.

    Equivalent eager expression, for part ``p``::

        cells = x.flatten(2)[:, :, p * T : (p + 1) * T]                  # T = H*W // P
        weights = softmax((queries[:, p, :, None] * cells).sum(1, keepdim=True) / sqrt(D), dim=2)
        (weights * cells).sum(2)

    Args:
        queries: ``[B, P, D]``, float; ``P <= H*W``. Often :func:`part_prototypes` of another view.
        x: ``[B, D, H, W]`` of the same dtype, contiguous or channels-last: keys and values.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[B, P, D]``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or device, more parts than cells.

    Source: docs/method.md, "Semantic-aligned parts".
    """
    _check_parts(x, "queries", queries, ndim=3)
    if len(queries) != len(x):
        raise ValueError(f"queries {tuple(queries.shape)} do not fit x {tuple(x.shape)}: the batches differ")
    return apply(_Pool, x, None, queries, 1, None, True, check_impl(impl))[4]


def semantic_parts(
    x: torch.Tensor, tokens: torch.Tensor, *, impl: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Semantic-aligned features: the part prototypes of every view look at three maps of their batch position.

    Equivalent eager expression::

        v, a, r = x.chunk(3)
        queries = part_prototypes(x, tokens)
        own = part_attention(queries, cat([v, a, r]))
        pg1 = part_attention(queries, cat([r, r, v]))
        pg2 = part_attention(queries, cat([a, v, a]))

    Args:
        x: ``[3S, D, H, W]``, float, contiguous or channels-last: the visible, augmented and infrared maps of the same
            ``S`` batch positions, one view after the other.
        tokens: ``[P, D]`` of the same dtype, one learned token a part; ``P <= H*W``.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(own, pg1, pg2)``, each ``[3S, P, D]``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or device, more parts than cells, a batch of no three views.

    Source: docs/method.md, "Semantic-aligned parts".
    """
    _check_parts(x, "tokens", tokens, ndim=2)
    _check_views(x)
    return apply(_Pool, x, tokens, None, VIEWS, None, True, check_impl(impl))[4:]


def semantic_pool(
    x: torch.Tensor,
    tokens: torch.Tensor,
    *,
    p: float = 3.0,
    eps: float = 1e-12,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Everything a training step pools from its maps, in as few reads of them as the backend needs.

    Equivalent eager expression::

        gem_pool(x, p, eps), *semantic_parts(x, tokens)

    Args:
        x: ``[3S, D, H, W]``, as of :func:`semantic_parts`.
        tokens: ``[P, D]``, as of :func:`semantic_parts`.
        p: the power, see :func:`gem_pool`.
        eps: see :func:`gem_pool`.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(pooled, own, pg1, pg2)``: ``[3S, D]`` and three of ``[3S, P, D]``.

    Raises:
        TypeError, ValueError: as :func:`gem_pool` and :func:`semantic_parts`.

    Example:
        >>> maps = torch.rand(3 * 4, 64, 18, 9)  # three views of 4 batch positions
        >>> pooled, own, pg1, pg2 = ops.semantic_pool(maps, tokens=torch.rand(6, 64))
        >>> pooled.shape, own.shape
        (torch.Size([12, 64]), torch.Size([12, 6, 64]))

    Source: docs/method.md, "Global feature" and "Semantic-aligned parts".
    """
    _check_parts(x, "tokens", tokens, ndim=2)
    _check_views(x)
    check_positive("p", p)
    check_positive("eps", eps)
    means, _, _, _, *forms = apply(_Pool, x, tokens, None, VIEWS, float(p), True, check_impl(impl))
    return _root(means, p, eps, x.dtype), *forms


class _Pool(Differentiable):
    """``(means, scores, prototypes, weights, *forms)``, see :func:`_pool`."""

    @staticmethod
    def forward(x, tokens, queries, views, power, attend, impl):
        *others, forms = torch.ops.salcr.pool(x, tokens, queries, views, power, attend, impl)
        return *others, *forms

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, tokens, queries, views, power, _, impl = inputs
        _, scores, prototypes, weights, *_ = output
        ctx.save_for_backward(x, tokens, queries, scores, prototypes, weights)
        ctx.mark_non_differentiable(scores, weights)
        ctx.options = views, power, impl
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, mean_gradient, _, prototype_gradient, __, *form_gradients):
        x, tokens, queries, *saved = ctx.saved_tensors
        known = next((g for g in form_gradients if g is not None), None)
        forms = [] if known is None else [torch.zeros_like(known) if g is None else g for g in form_gradients]
        arguments = x, tokens, queries, *saved, mean_gradient, prototype_gradient, forms, *ctx.options
        of_x, of_tokens, of_queries = first_derivative("pool", _formula.pool_backward, arguments)
        of_tokens, of_queries = None if tokens is None else of_tokens, None if queries is None else of_queries
        return of_x, of_tokens, of_queries, None, None, None, None


def _check_parts(x: torch.Tensor, name: str, rows: torch.Tensor, ndim: int) -> None:
    check_tensor("x", x, ndim=4)
    check_tensor(name, rows, ndim=ndim)
    check_same(name, rows, "x", x)
    if rows.shape[-1] != x.shape[1]:
        raise ValueError(f"{name} {tuple(rows.shape)} do not fit x {tuple(x.shape)}: the widths differ")
    if rows.shape[-2] > x.shape[2] * x.shape[3]:
        raise ValueError(f"{name} ask for {rows.shape[-2]} parts of the {x.shape[2] * x.shape[3]} cells of x")


def _check_views(x: torch.Tensor) -> None:
    if len(x) % VIEWS:
        raise ValueError(f"x must hold three views of the same size, got a batch of {len(x)}")


def _root(means: torch.Tensor, p: float, eps: float, dtype: torch.dtype) -> torch.Tensor:
    return (means + eps).pow(1 / p).to(dtype)


def _pool(x, tokens, queries, views, power, attend, impl):
    """What is asked for of the results; the others are empty. ``views`` of 3: ``x`` is [v; a; r].

    - ``power``: ``means [B, D]`` of ``x ** power``
    - ``tokens [P, D]``: ``scores [B, P, T]`` of the T cells of each stripe, and ``prototypes [B, P, D]``
    - ``attend``: ``weights [B, views, P, T]``, attention of the prototypes (or of ``queries [B, P, D]``) of each view
      to the map's cells, and ``views`` forms ``[B, P, D]``: own, pg1, pg2

    Forms are of the dtype of ``x``, all else is float32 at least.
    """
    *others, forms = pick("pool", impl, x)(x, tokens, queries, views, power, attend)
    nothing = x.new_empty(0, dtype=wide_dtype(x))
    return *(nothing.clone() if y is None else y for y in others), forms


def _pool_backward(x, tokens, queries, *arguments):
    """Gradients of ``x``, ``tokens`` and ``queries``, given those of ``means``, ``prototypes`` and ``forms``."""
    *saved, mean_gradient, prototype_gradient, form_gradients, views, power, impl = arguments
    saved = [_unless_empty(y) for y in saved]
    gradients = _unless_empty(mean_gradient), _unless_empty(prototype_gradient), form_gradients
    given = [tokens, queries]
    if gradients[1] is None and not form_gradients:  # of the means alone, which depend on neither tokens nor queries
        given, saved = [None, None], [None, None, None]
    found = pick("pool_backward", impl, x)(x, *given, *saved, *gradients, views, power)
    return tuple(x.new_empty(0) if y is None else like(y, g) for y, g in zip((x, tokens, queries), found, strict=True))


def _unless_empty(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None or x.numel() == 0 else x


def _fake_pool(x, tokens, queries, views, power, attend, impl):
    batch, width, cells = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    parts = pooled_parts(tokens, queries)
    stripe = cells // parts if parts else 0

    def wide(wanted, *shape):
        return x.new_empty(shape if wanted else (0,), dtype=wide_dtype(x))

    return (
        wide(power is not None, batch, width),
        wide(tokens is not None, batch, parts, stripe),
        wide(tokens is not None, batch, parts, width),
        wide(attend, batch, views, parts, stripe),
        [x.new_empty(batch, parts, width) for _ in range(views if attend else 0)],
    )


def _fake_pool_backward(x, tokens, queries, *others):
    return tuple(x.new_empty(0) if y is None else torch.empty_like(y) for y in (x, tokens, queries))


for _name, _module, _dtypes in (
    ("cpp", _cpp, SINGLE_AND_DOUBLE),
    ("triton", _triton, HALF_TO_SINGLE),
    ("reference", _formula, None),
):
    add_backend("pool", _name, _module.pool, dtypes=_dtypes)
    add_backend("pool_backward", _name, _module.pool_backward, dtypes=_dtypes)
for _public in ("gem_pool", "part_prototypes", "part_attention", "semantic_parts", "semantic_pool"):
    share_backends(_public, "pool")
_INPUTS, _OPTIONS = "Tensor x, Tensor? tokens, Tensor? queries", "int views, float? power"
register(
    "pool",
    f"({_INPUTS}, {_OPTIONS}, bool attend, str impl) -> "
    "(Tensor means, Tensor scores, Tensor prototypes, Tensor weights, Tensor[] forms)",
    _pool,
    _fake_pool,
)
register(
    "pool_backward",
    f"({_INPUTS}, Tensor scores, Tensor prototypes, Tensor weights, Tensor? mean_gradient, Tensor? prototype_gradient, "
    f"Tensor[] form_gradients, {_OPTIONS}, str impl) -> (Tensor, Tensor, Tensor)",
    _pool_backward,
    _fake_pool_backward,
)
