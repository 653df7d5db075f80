"""Second derivatives of every differentiable operator, and :mod:`torch.func`: right or an error that says so."""

import pytest
import torch

from salcr import ops
from tests.ops.differentiable import (
    DIFFERENTIABLE,
    TARGETS,
    backends,
    case,
    check_second_derivative_is_an_error,
    results,
    weighted,
)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_reference_has_second_derivatives(generator, name):
    _, call, tensors, learnable = case(name, generator, torch.float64)
    leaves = [x.requires_grad_(n < learnable) for n, x in enumerate(tensors)]
    assert torch.autograd.gradgradcheck(lambda *xs: call("reference", *xs), leaves, fast_mode=True)


@pytest.mark.parametrize(("name", "impl"), backends(DIFFERENTIABLE))
def test_another_backend_has_none_and_says_so(generator, name, impl):
    check_second_derivative_is_an_error(name, impl, generator, torch.float64)


@pytest.mark.parametrize(
    ("name", "impl"), [*((name, "reference") for name in DIFFERENTIABLE), *backends(DIFFERENTIABLE)]
)
def test_torch_func(generator, name, impl):
    """Gradients by ``torch.func.grad``; where it is nested, the reference is right and any other backend an error."""
    _, call, tensors, learnable = case(name, generator, torch.float64)
    constants = tensors[learnable:]

    def number(*leaves, impl=impl):
        return weighted(call(impl, *leaves, *constants))

    def penalty(*leaves):
        return torch.func.grad(number)(*leaves).square().sum()

    learned = tensors[:learnable]
    expected = tuple(results(call, impl, tensors, learnable)[1])
    value, pull = torch.func.vjp(number, *learned)
    for found in (torch.func.grad(number, argnums=tuple(range(learnable)))(*learned), pull(torch.ones_like(value))):
        torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match="does not have vmap support"):
        torch.func.vmap(number)(*(torch.stack([x, x]) for x in learned))
    if impl != "reference":
        with pytest.raises(NotImplementedError, match="has no second derivative"):
            torch.func.grad(penalty)(*learned)
        return
    leaf = learned[0].clone().requires_grad_()
    (first,) = torch.autograd.grad(number(leaf, *learned[1:]), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), leaf)
    torch.testing.assert_close(torch.func.grad(penalty)(*learned), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's, of its own jvp
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_mode_is_an_error(generator, name):
    """PyTorch's own: with a better one here, torch.compile would refuse the operator."""
    _, call, tensors, learnable = case(name, generator, torch.float64)
    learned, constants = tensors[:learnable], tensors[learnable:]
    with pytest.raises(NotImplementedError, match=r"must implement the jvp function .* to use it with forward mode AD"):
        torch.func.jvp(lambda *xs: call("auto", *xs, *constants), learned, tuple(map(torch.ones_like, learned)))


def test_torch_func_is_not_compiled(generator):
    """PyTorch 2.13 would compile a gradient of zero."""
    _, _, (features, memory), _ = case("cluster_contrast", generator)

    def gradient(x):
        return torch.func.grad(lambda leaf: ops.cluster_contrast(leaf, memory, TARGETS))(x)

    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="leaves out an operator's backward pass"):
        torch.compile(gradient, backend="eager", fullgraph=True)(features)
    torch.testing.assert_close(torch.compile(gradient, backend="eager")(features), gradient(features))
