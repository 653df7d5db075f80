"""Which implementation of an operator runs: a table of backends an operator, and the rule that picks one.

An operator's file calls ``add_backend(operator, name, function)`` for each implementation it has, preferred ones
first, and ``pick(operator, impl, tensor)`` on real tensors, inside the registered implementation. ``impl="auto"`` takes
the first that exists for the tensor's device and dtype; a name that cannot run raises and says what is missing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch

IMPLEMENTATIONS = ("auto", "reference", "cpu", "triton", "cuda")


@dataclass(frozen=True)
class Backend:
    name: str
    function: Callable
    dtypes: tuple[torch.dtype, ...] | None  # None: every dtype
    needs: Callable[[], str | None]


def add_backend(
    operator: str,
    name: str,
    function: Callable,
    *,
    dtypes: tuple[torch.dtype, ...] | None = None,
    needs: Callable[[], str | None] | None = None,
) -> None:
    """Enter ``function`` as backend ``name`` of ``operator``; the order of calls is the order of preference.

    ``needs`` returns what the backend lacks on this machine, or None; by default that is :func:`missing` of its name.
    """
    _TABLE.setdefault(operator, {})[name] = Backend(name, function, dtypes, needs or partial(missing, name))


def pick(operator: str, impl: str, tensor: torch.Tensor) -> Callable:
    """The implementation of ``operator`` for ``impl`` and for the device and dtype of ``tensor``.

    Raises:
        ValueError: ``impl`` is no backend's name, or this operator has none of that name.
        RuntimeError: the named backend cannot run here or on this tensor; the message says why.
    """
    backends = _TABLE[operator]
    if impl == "auto":
        return next(b.function for b in backends.values() if obstacle(b, tensor) is None)
    check_impl(impl)
    if impl not in backends:
        raise ValueError(f"impl={impl!r}: {operator} has the backends {', '.join(backends)}")
    reason = obstacle(backends[impl], tensor)
    if reason is not None:
        raise RuntimeError(f"impl={impl!r} of {operator} cannot run: {reason}")
    return backends[impl].function


def check_impl(impl: str) -> None:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")


def obstacle(backend: Backend, tensor: torch.Tensor) -> str | None:
    """Why ``backend`` cannot take ``tensor``, or None if it can."""
    if backend.dtypes is not None and tensor.dtype not in backend.dtypes:
        return f"it takes {', '.join(map(str, backend.dtypes))}, got {tensor.dtype}"
    wanted = {"cpu": ("cpu",), "triton": _triton_devices(), "cuda": ("cuda",)}.get(backend.name)
    if wanted is not None and tensor.device.type not in wanted:
        return f"it takes tensors on {' or '.join(wanted)}, got {tensor.device}"
    return backend.needs()


@cache
def missing(name: str) -> str | None:
    """What backend ``name`` lacks on this machine, or None if it can run here."""
    if name == "cpu":
        try:
            import salcr._C  # noqa: F401
        except ImportError as error:
            return f"the extension salcr._C is not built ({error})"
    if name == "triton":
        try:
            import triton  # noqa: F401
        except ImportError as error:
            return f"triton is not installed ({error})"
        if not (torch.cuda.is_available() or _interpreting()):
            return "no CUDA device is visible (TRITON_INTERPRET=1 interprets kernels on the CPU)"
    if name == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is visible"
    return None


def table() -> dict[str, dict[str, str | None]]:
    """For every operator, its backends in order of preference, each with what it lacks here (None: it can run)."""
    return {operator: {b.name: b.needs() for b in backends.values()} for operator, backends in sorted(_TABLE.items())}


_TABLE: dict[str, dict[str, Backend]] = {}


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton_devices() -> tuple[str, ...]:
    return ("cuda", "cpu") if _interpreting() else ("cuda",)
