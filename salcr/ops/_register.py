"""Registration of operators with torch.library, and their derivatives: the first, and what becomes of a second."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from salcr.ops._dispatch import pick
from salcr.ops._precision import Function, without_autocast


def register(name: str, schema: str, implementation: Callable, fake: Callable) -> None:
    """Define ``salcr::name`` with ``schema``, which starts at the opening parenthesis.

    One implementation serves all devices (it picks its backend on the real tensors); the fake allocates outputs of the
    same shape and layout. Under :func:`torch.func.vmap` there is one call for each element.
    """
    qualified = f"salcr::{name}"
    torch.library.define(qualified, schema)
    torch.library.impl(qualified, "default", _by_itself(implementation))
    torch.library.register_fake(qualified, fake)
    torch.library.register_vmap(qualified, partial(_each_alone, getattr(torch.ops.salcr, name).default))


def register_backward(operator: str, schema: str) -> None:
    """Define ``salcr::<operator>_backward``: gradients of its second argument, the features, one tensor or a list."""
    name = f"{operator}_backward"

    def backward(gradients, features, *arguments):
        *arguments, impl = arguments
        if isinstance(features, torch.Tensor):
            return pick(name, impl, features)(gradients, features, *arguments).contiguous()
        return [x.contiguous() for x in pick(name, impl, features[0])(gradients, features, *arguments)]

    def fake(gradients, features, *arguments):
        if isinstance(features, torch.Tensor):
            return features.new_empty(features.shape)
        return [x.new_empty(x.shape) for x in features]

    register(name, schema, backward, fake)


class Differentiable(torch.autograd.Function):
    """What an operator's ``autograd.Function`` derives from: under :func:`torch.func.vmap` it is applied one by one."""

    @classmethod
    def vmap(cls, info, in_dims, *arguments):
        return _each_alone(partial(apply, cls), info, in_dims, *arguments)


def untraced(function: Function) -> Function:
    """``function``, which ends the graph of a compiled caller: Dynamo traces neither it nor what it calls."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return torch.compiler.disable(call)(*arguments, **options)
        return function(*arguments, **options)

    return call  # type: ignore[return-value]


def is_plain(x: torch.Tensor) -> bool:
    """Whether nothing watches what is done to ``x``: no compiler, no transform of :mod:`torch.func`, no dispatch mode.

    Then an operator without a gradient may call its implementation itself; PyTorch's dispatcher, and a list of results
    through it, take longer than a small problem.
    """
    return (
        type(x) is torch.Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """``function.apply(*arguments)`` without the binding of defaults, which takes longer than a small operator.

    Raises:
        NotImplementedError: in a compiled ``torch.func.grad``, where PyTorch would leave ``backward`` out and give a
            gradient of zero. Without ``fullgraph`` that call then runs uncompiled.
    """
    compiling, transformed = torch.compiler.is_compiling(), torch._C._are_functorch_transforms_active()
    if compiling and transformed:
        raise NotImplementedError(
            "torch.compile leaves out an operator's backward pass under torch.func: compile less, or without fullgraph"
        )
    if compiling and not (torch.is_grad_enabled() and any(_requires_grad(x) for x in arguments)):
        return function.forward(*arguments)  # Dynamo would put a context before the arguments of a variadic forward
    if compiling:
        return function.apply(*_each_once(arguments))
    if transformed:
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)


def first_derivative(operator: str, formula: Callable, arguments: Sequence) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """``salcr::<operator>_backward(*arguments)``, to be called in the backward pass of an ``autograd.Function``.

    Where that pass is itself recorded (``create_graph=True``, :mod:`torch.func`), the reference runs as ``formula``,
    which has derivatives of every order. The gradient of any other backend is returned as it is, and a derivative of it
    is an error.
    """
    backward = getattr(torch.ops.salcr, f"{operator}_backward")
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return backward(*arguments)
    tensors = [x for x in tree_leaves(arguments) if isinstance(x, torch.Tensor)]
    picked = pick(f"{operator}_backward", arguments[-1], tensors[0])
    if getattr(picked, "__wrapped__", picked) is formula:
        return without_autocast(picked)(*arguments[:-1], create_graph=True)
    with torch.no_grad():
        found = backward(*arguments)
    several = isinstance(found, (list, tuple))
    results = apply(_NoSecond, operator, len(found) if several else 1, *(found if several else [found]), *tensors)
    return results if several else results[0]


def reference_gradient(
    function: Callable[..., tuple[torch.Tensor, ...]],
    inputs: Sequence[torch.Tensor],
    gradients: tuple[torch.Tensor, ...],
    *,
    create_graph: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Gradients of ``function(*inputs)`` with respect to ``inputs`` by running it again under autograd."""
    if create_graph:
        return torch.func.vjp(function, *inputs)[1](gradients)
    with _autograd_again(), torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        found = torch.autograd.grad(function(*leaves), leaves, gradients, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True))


def _each_once(arguments: Sequence) -> list:
    """``arguments``, with a view in place of a tensor that was there before: Dynamo takes no tensor twice."""
    given: list[Any] = []
    for x in arguments:
        again = isinstance(x, torch.Tensor) and any(x is y for y in given)
        given.append(x.view_as(x) if again else x)
    return given


def _requires_grad(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad


def _each_alone(function: Callable, info: Any, in_dims: Sequence, *arguments: Any) -> tuple[Any, Any]:
    """``function`` of each element of the batch, the results stacked; a rule for :func:`torch.library.register_vmap`.

    Raises:
        NotImplementedError: the operator changes an argument in place.
    """
    schema = getattr(function, "_schema", None)
    if schema is not None and schema.is_mutable:
        raise NotImplementedError(
            f"{schema.name} changes its memory in place, which torch.func.vmap cannot: loop instead"
        )
    dims = tree_leaves(in_dims)
    leaves, structure = tree_flatten(arguments)
    results = []
    for n in range(info.batch_size):
        one = [x if dim is None else x.select(dim, n) for x, dim in zip(leaves, dims, strict=True)]
        results.append(function(*tree_unflatten(one, structure)))
    stacked = tree_map(lambda *elements: torch.stack(elements), *results)
    return stacked, tree_map(lambda _: 0, stacked)


class _NoSecond(torch.autograd.Function):
    """The first ``count`` of ``tensors``, which to autograd depend on the others; a derivative of them is an error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(operator, count, *tensors):
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.operator = inputs[0]

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(
            f'salcr::{ctx.operator} has no second derivative on this backend; impl="reference" has those of every order'
        )


def _by_itself(implementation: Callable) -> Callable:
    """``implementation`` without autocast, which would change the dtypes that the operator's fake has promised.

    Dynamo does not trace it either, as it would where a compiled function calls an operator outside of a graph.
    """
    return untraced(without_autocast(implementation))


@contextmanager
def _autograd_again() -> Iterator[None]:
    """Record gradients inside an implementation also where a dispatch mode (a profiler, opcheck) switched that off."""
    keys = torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView
    before = [torch._C._dispatch_tls_is_dispatch_key_excluded(key) for key in keys]
    for key in keys:
        torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
    try:
        yield
    finally:
        for key, excluded in zip(keys, before, strict=True):
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, excluded)
