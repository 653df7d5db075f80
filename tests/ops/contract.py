"""What operators have to satisfy: the error budget, the torch.library contract, the size of what they hold."""

from collections.abc import Callable, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

UNTRACED_CHECKS = "test_schema", "test_autograd_registration", "test_faketensor"


def assert_within_budget(
    got: torch.Tensor,
    exact: torch.Tensor,
    eager: torch.Tensor,
    *,
    terms: int,
    magnitude: float | torch.Tensor | None = None,
) -> None:
    """``got`` errs against float64 at most twice as much as eager PyTorch at the same precision, plus a floor.

    The error is the largest absolute difference over all elements. The floor is what any correct implementation may
    round, however lucky eager's few numbers are: one rounding of the stored result, ε(dtype) · max|exact|, and those of
    the sum behind it, √terms · ε(float32 at least) · magnitude. For a sum s of n terms t in any order and grouping is
    computed as s + Σ_k δ_k s_k, where s_k are its n partial sums and |δ_k| ≤ ε/2 the rounding of each. No |s_k| is
    above Σ|t|, and roundings are as good as independent and of either sign (Higham and Mary, 2019), so that their sum
    grows as √n: √n · ε/2 · Σ|t| is a standard deviation's bound, and the floor twice that.

    Args:
        got: the result to judge, of any dtype.
        exact: the same from the float64 reference.
        eager: the same from the formula in PyTorch at the precision of ``got``.
        terms: the numbers summed for one element, from the arguments on: a product of rows of width D followed by a sum
            over N of them has D + N.
        magnitude: the largest sum of magnitudes Σ|t|, as a bound or as numbers: 1 / temperature for a product of unit
            rows divided by it. By default max|exact|: strict, as it is right only for terms of one sign.
    """
    assert got.shape == exact.shape and got.dtype == eager.dtype
    assert torch.isfinite(got).all()
    error, allowed = ((x.double() - exact).abs().max().item() for x in (got, eager))
    largest = exact.abs().max().item()
    magnitude = largest if magnitude is None else float(torch.as_tensor(magnitude).abs().max())
    summed = torch.finfo(torch.promote_types(got.dtype, torch.float32)).eps * terms**0.5 * magnitude
    floor = torch.finfo(got.dtype).eps * largest + summed
    assert error <= 2 * allowed + floor, f"error {error:.3g}, eager {allowed:.3g}, floor {floor:.3g}"


def assert_operator_contract(operator: Callable, *examples: Sequence) -> None:
    """``torch.library.opcheck`` of a registered operator on each example's positional arguments, the last ``impl``.

    What is traced in its place knows no backend, and takes most of the time: not again for "cpp", beside "reference".
    """
    for arguments in examples:
        checks = UNTRACED_CHECKS if arguments[-1] == "cpp" else (*UNTRACED_CHECKS, "test_aot_dispatch_dynamic")
        torch.library.opcheck(operator, tuple(arguments), test_utils=checks)


def assert_compiles(function: Callable, *examples: Sequence[torch.Tensor]) -> None:
    """``function`` compiles whole, once for all the examples' shapes, and gives the same results and gradients.

    Of the first example also without gradients, where Dynamo takes another way through an ``autograd.Function``.
    """
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for arguments in examples:
        for x in arguments:
            if isinstance(x, torch.Tensor) and x.is_floating_point() and x.requires_grad:
                x.grad = None
        expected, found = _outputs_and_gradients(function, arguments), _outputs_and_gradients(compiled, arguments)
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    with torch.no_grad():
        expected, found = (_outputs_and_gradients(f, examples[0]) for f in (function, compiled))
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


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(outputs) if isinstance(x, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return outputs
