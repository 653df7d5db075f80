"""Registration of operators with torch.library, and the gradient that a reference implementation has for free."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps

import torch


def register(name: str, schema: str, implementation: Callable, fake: Callable) -> None:
    """Define ``salcr::name`` with ``schema``, which starts at the opening parenthesis.

    One implementation serves all devices (it picks its backend on the real tensors); the fake allocates outputs of the
    same shape and layout.
    """
    qualified = f"salcr::{name}"
    torch.library.define(qualified, schema)
    torch.library.impl(qualified, "default", _without_autocast(implementation))
    torch.library.register_fake(qualified, fake)


def reference_gradient(
    function: Callable[..., torch.Tensor | Sequence[torch.Tensor]],
    inputs: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, ...]:
    """Gradients of ``function(*inputs)`` with respect to ``inputs`` by running it again under autograd."""
    with _autograd_again(), torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        outputs = function(*leaves)
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
        found = torch.autograd.grad(outputs, leaves, gradients, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True))


def _without_autocast(implementation: Callable) -> Callable:
    """Precision is the operator's own business: inside it, autocast would change dtypes that its fake has promised."""

    @wraps(implementation)
    def call(*arguments):
        active = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
        with ExitStack() as stack:
            for device in active:
                stack.enter_context(torch.autocast(device, enabled=False))
            return implementation(*arguments)

    return call


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
