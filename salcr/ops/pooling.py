"""Pooling of a feature map: power mean, part prototypes and attention over stripes (SPEC 1).

A map ``x`` ``[B, D, H, W]`` comes in either memory format. Its ``H*W`` cells in row-major order are cut into ``P``
stripes of ``H*W // P`` cells; the cells that remain belong to no part.
"""

from collections.abc import Callable

import torch

from salcr import reference
from salcr.ops._checks import check_positive, check_same, check_tensor
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._register import reference_gradient, register
from salcr.ops.backends import _pooling as _pooling_fused

OUTPUTS = {"gem_pool": 1, "part_prototypes": 1, "part_attention": 1, "semantic_parts": 3, "semantic_pool": 4}


def gem_pool(x: torch.Tensor, p: float = 3.0, eps: float = 1e-12, *, impl: str = "auto") -> torch.Tensor:
    """Power mean of every channel over the map.

    Equivalent eager expression::

        ((x ** p).mean((2, 3)) + eps) ** (1 / p)

    Args:
        x: ``[B, D, H, W]``, float, contiguous or channels-last; not negative unless ``p`` is an odd integer.
        p: the power; 3 in the paper, fixed.
        eps: added to the mean, so that a channel of zeros has a gradient (of zero); 1e-12 in the paper.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``[B, D]`` of the dtype of ``x``.

    Raises:
        TypeError, ValueError: a wrong shape or dtype, ``p`` or ``eps`` not positive.

    Source: SPEC 1; GeM pooling (Radenović et al., 2018).
    """
    check_tensor("x", x, ndim=4)
    check_positive("p", p)
    check_positive("eps", eps)
    check_impl(impl)
    return _Pooling.apply("gem_pool", (float(p), float(eps), impl), x)


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

    Source: SPEC 1, SAFL.
    """
    _check_parts(x, "tokens", tokens, ndim=2)
    check_impl(impl)
    return _Pooling.apply("part_prototypes", (impl,), x, tokens)


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

    Source: SPEC 1, SAFL.
    """
    _check_parts(x, "queries", queries, ndim=3)
    if len(queries) != len(x):
        raise ValueError(f"queries {tuple(queries.shape)} do not fit x {tuple(x.shape)}: the batches differ")
    check_impl(impl)
    return _Pooling.apply("part_attention", (impl,), queries, x)


def semantic_parts(
    x: torch.Tensor, tokens: torch.Tensor, *, authors_pg1: bool = False, impl: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Semantic-aligned features: the part prototypes of every view look at three maps of their batch position.

    Equivalent eager expression::

        v, a, r = x.chunk(3)
        queries = part_prototypes(x, tokens)
        own = part_attention(queries, cat([v, a, r]))
        pg1 = part_attention(queries, cat([r, r, v]))     # authors_pg1: cat([r, v, v])
        pg2 = part_attention(queries, cat([a, v, a]))

    Args:
        x: ``[3S, D, H, W]``, float, contiguous or channels-last: the visible, augmented and infrared maps of the same
            ``S`` batch positions, one view after the other.
        tokens: ``[P, D]`` of the same dtype, one learned token a part; ``P <= H*W``.
        authors_pg1: take the augmented view's ``pg1`` from its ``pg2``, as the authors' code does.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(own, pg1, pg2)``, each ``[3S, P, D]``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype or device, more parts than cells, a batch of no three views.

    Source: SPEC 1, SAFL.
    """
    _check_parts(x, "tokens", tokens, ndim=2)
    _check_views(x)
    check_impl(impl)
    return _Pooling.apply("semantic_parts", (authors_pg1, impl), x, tokens)


def semantic_pool(
    x: torch.Tensor,
    tokens: torch.Tensor,
    *,
    p: float = 3.0,
    eps: float = 1e-12,
    authors_pg1: bool = False,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Everything a training step pools from its maps, in as few reads of them as the backend needs.

    Equivalent eager expression::

        gem_pool(x, p, eps), *semantic_parts(x, tokens, authors_pg1=authors_pg1)

    Args:
        x: ``[3S, D, H, W]``, as of :func:`semantic_parts`.
        tokens: ``[P, D]``, as of :func:`semantic_parts`.
        p: the power, see :func:`gem_pool`.
        eps: see :func:`gem_pool`.
        authors_pg1: see :func:`semantic_parts`.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``(pooled, own, pg1, pg2)``: ``[3S, D]`` and three of ``[3S, P, D]``.

    Raises:
        TypeError, ValueError: as :func:`gem_pool` and :func:`semantic_parts`.

    Source: SPEC 1.
    """
    _check_parts(x, "tokens", tokens, ndim=2)
    _check_views(x)
    check_positive("p", p)
    check_positive("eps", eps)
    check_impl(impl)
    return _Pooling.apply("semantic_pool", (float(p), float(eps), authors_pg1, impl), x, tokens)


class _Pooling(torch.autograd.Function):
    """Any operator of this file: its name, its options, then its tensors. One output comes bare."""

    @staticmethod
    def forward(ctx, name, options, *tensors):
        found = getattr(torch.ops.salcr, name)(*tensors, *options)
        outputs, saved = found[: OUTPUTS[name]], found[OUTPUTS[name] :]
        ctx.save_for_backward(*tensors, *saved)
        ctx.name, ctx.options, ctx.inputs = name, options, len(tensors)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    @staticmethod
    def backward(ctx, *gradients):
        backward = getattr(torch.ops.salcr, f"{ctx.name}_backward")
        inputs, saved = ctx.saved_tensors[: ctx.inputs], ctx.saved_tensors[ctx.inputs :]
        return None, None, *backward(gradients, inputs, saved, *ctx.options)


def _check_parts(x: torch.Tensor, name: str, rows: torch.Tensor, ndim: int) -> None:
    check_tensor("x", x, ndim=4)
    check_tensor(name, rows, ndim=ndim)
    check_same(name, rows, "x", x)
    if rows.shape[-1] != x.shape[1]:
        raise ValueError(f"{name} {tuple(rows.shape)} do not fit x {tuple(x.shape)}: the widths differ")
    if rows.shape[-2] > x.shape[2] * x.shape[3]:
        raise ValueError(f"{name} ask for {rows.shape[-2]} parts of the {x.shape[2] * x.shape[3]} cells of x")


def _check_views(x: torch.Tensor) -> None:
    if len(x) % 3:
        raise ValueError(f"x must hold three views of the same size, got a batch of {len(x)}")


def _add(name: str, tensors: str, options: str, shapes: Callable, function: Callable) -> None:
    """Register an operator of this file and its backward: the fused ones, and ``function`` of the reference.

    ``shapes(*inputs)`` are those of its outputs, of the dtype of the inputs, and of what it saves for its backward, of
    at least float32. The reference saves nothing: there these tensors are zeros.
    """
    inputs = tensors.count("Tensor")

    def allocate(arguments, kind):
        first, (outputs, saved) = arguments[0], shapes(*arguments[:inputs])
        wide = torch.promote_types(first.dtype, torch.float32)
        return [kind(shape, dtype=first.dtype, device=first.device) for shape in outputs], [
            kind(shape, dtype=wide, device=first.device) for shape in saved
        ]

    def forward(*arguments):
        *arguments, impl = arguments
        outputs, saved = pick(name, impl, arguments[0])(*arguments)
        return [*outputs, *saved]

    def backward(gradients, inputs, saved, *arguments):
        *arguments, impl = arguments
        found = pick(f"{name}_backward", impl, inputs[0])(gradients, inputs, saved, *arguments)
        return [
            g if g.stride() == x.stride() else torch.empty_like(x).copy_(g) for g, x in zip(found, inputs, strict=True)
        ]

    def reference_forward(*arguments):
        outputs = function(*arguments)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
        return outputs, allocate(arguments, torch.zeros)[1]

    def reference_backward(gradients, inputs, saved, *options):
        return reference_gradient(lambda *x: function(*x, *options), inputs, gradients)

    def fake(*arguments):
        outputs, saved = allocate(arguments, torch.empty)
        return [*outputs, *saved]

    for backend, operators, dtypes in _FUSED:
        add_backend(name, backend, operators[name].forward, dtypes=dtypes)
        add_backend(f"{name}_backward", backend, operators[name].backward, dtypes=dtypes)
    add_backend(name, "reference", reference_forward)
    add_backend(f"{name}_backward", "reference", reference_backward)
    register(name, f"({tensors}, {options}) -> Tensor[]", forward, fake)
    register(
        f"{name}_backward",
        f"(Tensor[] gradients, Tensor[] inputs, Tensor[] saved, {options}) -> Tensor[]",
        backward,
        lambda gradients, inputs, *others: [torch.empty_like(x) for x in inputs],
    )


def _stripe(x: torch.Tensor, parts: int) -> int:
    return x.shape[2] * x.shape[3] // parts


def _gem_shapes(x):
    return [x.shape[:2]], [x.shape[:2]]


def _prototypes_shapes(x, tokens):
    return [(len(x), *tokens.shape)], [(len(x), len(tokens), _stripe(x, len(tokens)))]


def _attention_shapes(queries, x):
    parts = queries.shape[1]
    return [queries.shape], [(len(x), 1, parts, _stripe(x, parts))]


def _parts_shapes(x, tokens):
    (forms,), (scores,) = _prototypes_shapes(x, tokens)
    return [forms] * 3, [scores, forms, (len(x), 3, *scores[1:])]  # scores, prototypes, attention to every map


def _pool_shapes(x, tokens):
    (forms, saved), pooled = _parts_shapes(x, tokens), x.shape[:2]
    return [pooled, *forms], [*saved, pooled]


def _semantic_parts(x, tokens, authors_pg1):
    return reference.semantic_parts(x, tokens, authors_pg1=authors_pg1)


def _semantic_pool(x, tokens, p, eps, authors_pg1):
    return reference.semantic_pool(x, tokens, p=p, eps=eps, authors_pg1=authors_pg1)


def _load_cpu():
    from salcr.ops.backends.cpp import pooling as _pooling_cpu

    return _pooling_fused.Engine(_pooling_cpu.pool_forward, _pooling_cpu.pool_backward)


def _load_triton():
    from salcr.kernels import pooling, pooling_backward

    return _pooling_fused.Engine(pooling.pool_forward, pooling_backward.pool_backward)


_FUSED = (
    ("cpu", _pooling_fused.fused_operators(_load_cpu), (torch.float32, torch.float64)),
    ("triton", _pooling_fused.fused_operators(_load_triton), (torch.float32, torch.bfloat16, torch.float16)),
)
_PARTS = "Tensor x, Tensor tokens"
_add("gem_pool", "Tensor x", "float p, float eps, str impl", _gem_shapes, reference.gem_pool)
_add("part_prototypes", _PARTS, "str impl", _prototypes_shapes, reference.part_prototypes)
_add("part_attention", "Tensor queries, Tensor x", "str impl", _attention_shapes, reference.part_attention)
_add("semantic_parts", _PARTS, "bool authors_pg1, str impl", _parts_shapes, _semantic_parts)
_add("semantic_pool", _PARTS, "float p, float eps, bool authors_pg1, str impl", _pool_shapes, _semantic_pool)
