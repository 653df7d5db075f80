"""Which implementation of an operator runs: a table of each operator's backends, and the rule that picks one.

An operator's file calls ``add_backend(operator, name, function)`` for each implementation it has, preferred ones first.
Its public function turns ``impl`` into the name to use with :func:`check_impl`, which also looks at
:func:`use_backend`; its registered implementation finds the function with :func:`pick` on real tensors. So a backward
pass runs on the backend of its forward pass, wherever it is called.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import torch

BACKENDS = ("reference", "eager", "cpp", "numba", "triton", "cuda", "faiss")
DEVICES = {"cpp": ("cpu",), "numba": ("cpu",), "cuda": ("cuda",)}
PREFERRED = "?"  # follows a name that use_backend gave: where an operator lacks it, another may run

_preferred = "auto"
_TABLE: dict[str, dict[str, "Backend"]] = {}


class BackendError(RuntimeError, ValueError):
    """A backend that was asked for by name cannot run here, or not on that tensor; the message says why."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Let every operator that is called with ``impl="auto"`` run on backend ``name``, where it has that backend.

    Training, evaluation and the modules of :mod:`salcr.nn` leave ``impl`` at ``"auto"``, so this reaches everything
    inside: ``with salcr.use_backend("reference"): salcr.engine.train(config, out)`` trains without any kernel. The
    environment variable ``SALCR_BACKEND`` sets it for a process, the configuration key ``backend`` for a run. It holds
    for the whole process, not only for the calling thread, and an ``impl`` given by name still counts for more.

    Args:
        name: ``"auto"`` undoes an outer choice. ``"reference"`` leaves out every kernel; ``"eager"`` does so too, and
            takes the reference where an operator has no eager backend. Under a compiled backend's name (``"cpp"``,
            ``"numba"``, ``"triton"``, ``"cuda"``, ``"faiss"``) operators without it run as with ``"auto"``.

    Raises:
        ValueError: ``name`` is no backend's name.
        BackendError: raised by an operator that has this backend, if it cannot run here or on that tensor.
    """
    global _preferred
    _check_name("name", name)
    before, _preferred = _preferred, name
    try:
        yield
    finally:
        _preferred = before


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


def share_backends(public: str, operator: str) -> None:
    """List ``public``, which calls ``operator``, with the backends of that in :func:`table`."""
    _TABLE[public] = _TABLE[operator]


def check_impl(impl: str) -> str:
    """``impl``, or for ``"auto"`` what :func:`use_backend` or ``SALCR_BACKEND`` says; the name for :func:`pick`."""
    _check_name("impl", impl)
    if impl != "auto" or _preferred == "auto":
        return impl
    return _preferred + PREFERRED


def prefers_none() -> bool:
    """Neither :func:`use_backend` nor ``SALCR_BACKEND`` says what ``"auto"`` is."""
    return _preferred == "auto"


def pick(operator: str, impl: str, tensor: torch.Tensor) -> Callable:
    """The implementation of ``operator`` for ``impl`` and for the device and dtype of ``tensor``.

    Raises:
        ValueError: ``impl`` is no backend's name, or this operator has none of that name.
        BackendError: the named backend cannot run here or on this tensor; the message says why.
    """
    backends = _TABLE[operator]
    name = impl.removesuffix(PREFERRED)
    _check_name("impl", name)
    if name not in backends and impl.endswith(PREFERRED):
        name = "reference" if name == "eager" else "auto"
    if name == "auto":
        for backend in backends.values():
            if obstacle(backend, tensor) is None:
                return backend.function
    if name not in backends:
        raise ValueError(f"impl={name!r}: {operator} has the backends {', '.join(backends)}")
    reason = obstacle(backends[name], tensor)
    if reason is not None:
        raise BackendError(f"impl={name!r} of {operator} cannot run: {reason}")
    return backends[name].function


def obstacle(backend: Backend, tensor: torch.Tensor) -> str | None:
    """Why ``backend`` cannot take ``tensor``, or None if it can."""
    if backend.dtypes is not None and tensor.dtype not in backend.dtypes:
        return f"it takes {', '.join(map(str, backend.dtypes))}, got {tensor.dtype}"
    wanted = _triton_devices() if backend.name == "triton" else DEVICES.get(backend.name)
    if wanted is not None and tensor.device.type not in wanted:
        return f"it takes tensors on {' or '.join(wanted)}, got {tensor.device}"
    return backend.needs()


@cache
def missing(name: str) -> str | None:
    """What backend ``name`` lacks on this machine, or None if it can run here."""
    if name == "cpp":
        try:
            import salcr._C  # noqa: F401
        except ImportError as error:
            return f"the extension salcr._C is not built ({error})"
    if name in ("numba", "triton", "faiss"):
        try:
            __import__(name)
        except ImportError as error:
            extra = " (pip install 'salcr[faiss]')" if name == "faiss" else ""
            return f"{name} is not installed{extra}: {error}"
    if name == "triton" and not (torch.cuda.is_available() or _interpreting()):
        return "no CUDA device is visible (TRITON_INTERPRET=1 interprets kernels on the CPU)"
    if name == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is visible"
    return None


def table() -> dict[str, dict[str, str | None]]:
    """For every operator, its backends in order of preference, each with what it lacks here (None: it can run)."""
    return {operator: {b.name: b.needs() for b in backends.values()} for operator, backends in sorted(_TABLE.items())}


def _check_name(argument: str, name: str) -> None:
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"{argument} must be one of auto, {', '.join(BACKENDS)}, got {name!r}")


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _triton_devices() -> tuple[str, ...]:
    return ("cuda", "cpu") if _interpreting() else ("cuda",)


_check_name("SALCR_BACKEND", os.environ.get("SALCR_BACKEND", "auto"))
_preferred = os.environ.get("SALCR_BACKEND", "auto")
