"""What DESIGN asks of every operator, as assertions: the error budget and the torch.library contract."""

from collections.abc import Callable, Sequence

import torch


def assert_within_budget(got: torch.Tensor, exact: torch.Tensor, eager: torch.Tensor) -> None:
    """``got`` errs against float64 at most twice as much as eager PyTorch at the same precision, plus one epsilon.

    The error is the largest absolute difference, over all elements; epsilon is that of ``got``'s dtype, scaled by the
    largest magnitude of the result.
    """
    assert got.shape == exact.shape and got.dtype == eager.dtype
    assert torch.isfinite(got).all()
    error, allowed = ((x.double() - exact).abs().max().item() for x in (got, eager))
    epsilon = torch.finfo(got.dtype).eps * exact.abs().max().item()
    assert error <= 2 * allowed + epsilon, f"error {error:.3g}, eager {allowed:.3g}, epsilon {epsilon:.3g}"


def assert_operator_contract(operator: Callable, *examples: Sequence) -> None:
    """``torch.library.opcheck`` of a registered operator on each example's positional arguments."""
    for arguments in examples:
        torch.library.opcheck(operator, tuple(arguments))


def assert_compiles(function: Callable, *examples: Sequence[torch.Tensor]) -> None:
    """``function`` compiles whole, once for all the examples' shapes, and gives the same results and gradients."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for arguments in examples:
        for x in arguments:
            if isinstance(x, torch.Tensor) and x.is_floating_point() and x.requires_grad:
                x.grad = None
        expected, found = _outputs_and_gradients(function, arguments), _outputs_and_gradients(compiled, arguments)
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)


def _outputs_and_gradients(function: Callable, arguments: Sequence) -> list[torch.Tensor]:
    leaves = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    copies = [x.clone() if isinstance(x, torch.Tensor) and not x.requires_grad else x for x in arguments]
    outputs = function(*copies)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else [x for x in outputs if isinstance(x, torch.Tensor)]
    smooth = [x for x in outputs if x.requires_grad]
    weights = [torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device).view_as(x) for x in smooth]
    gradients = torch.autograd.grad(smooth, leaves, weights) if smooth else ()
    return [x.detach() for x in outputs] + list(gradients)
