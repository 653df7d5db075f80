"""Second derivatives of every differentiable operator, and :mod:`torch.func`: right or an error that says so."""

import pytest
import torch

from salcr import ops
from salcr.ops._register import reference_gradient
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
    several = [torch.stack([x, 2 * x, x.flip(0)], dim=1) for x in learned]
    for function in (number, torch.func.grad(number)):
        each = torch.stack([function(*(x.select(1, n) for x in several)) for n in range(3)])
        torch.testing.assert_close(torch.func.vmap(function, in_dims=1)(*several), each)
    if impl != "reference":
        with pytest.raises(NotImplementedError, match="has no second derivative"):
            torch.func.grad(penalty)(*learned)
        return
    leaf = learned[0].clone().requires_grad_()
    (first,) = torch.autograd.grad(number(leaf, *learned[1:]), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), leaf)
    torch.testing.assert_close(torch.func.grad(penalty)(*learned), expected)


def test_vmap_calls_an_operator_without_a_derivative_for_each_element(generator):
    queries, database = torch.randn(3, 5, 4, generator=generator), torch.randn(7, 4, generator=generator)
    found = torch.func.vmap(lambda x: ops.knn(x, 2, database=database))(queries)
    for got, expected in zip(
        found, zip(*(ops.knn(x, 2, database=database) for x in queries), strict=True), strict=True
    ):
        assert torch.equal(got, torch.stack(expected))
    sets = torch.rand(3, 5, 4, generator=generator).argsort(-1)[..., :2].sort(-1).values
    found = torch.func.vmap(ops.unite_sets)(sets, sets.flip(0))
    assert torch.equal(found, torch.stack([ops.unite_sets(x, y) for x, y in zip(sets, sets.flip(0), strict=True)]))


def test_vmap_over_what_it_cannot_do_says_what_to_do_instead(generator):
    rows = torch.nn.functional.normalize(torch.randn(3, 5, 4, generator=generator), dim=-1)
    with pytest.raises(NotImplementedError, match=r"changes its memory in place, which torch\.func\.vmap cannot: loop"):
        torch.func.vmap(lambda memory, x: ops.update_cluster_memory_(memory, x, TARGETS))(rows, rows + 1)
    for call in (
        lambda x: ops.cluster(x, eps=0.5),
        lambda x: ops.jaccard_graph(x, max_distance=0.5),
        lambda x: ops.dbscan(x @ x.T, eps=0.5),
        lambda x: ops.rerank_gnn(x, x),
    ):
        with pytest.raises(ValueError, match=r"is batched by torch\.func\.vmap, and this operator has to"):
            torch.func.vmap(call)(rows)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is ")  # PyTorch's, of its own jvp
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
    with torch._dynamo.config.patch(suppress_errors=True):  # PyTorch 2.10 fails at it itself
        torch.testing.assert_close(torch.compile(gradient, backend="eager")(features), gradient(features))


def test_a_gradient_inside_an_implementation_leaves_what_records_gradients_as_it_was():
    """A profiler and opcheck exclude these keys, and go on excluding them."""
    keys = torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView
    excluded, exclude = (
        torch._C._dispatch_tls_is_dispatch_key_excluded,
        torch._C._dispatch_tls_set_dispatch_key_excluded,
    )
    x = torch.tensor([3.0])
    for before in (True, False):
        for key in keys:
            exclude(key, before)
        try:
            (gradient,) = reference_gradient(torch.square, [x], torch.ones(1))
            after = [excluded(key) for key in keys]
        finally:
            for key in keys:
                exclude(key, False)
        assert gradient.tolist() == [6] and after == [before] * 2
