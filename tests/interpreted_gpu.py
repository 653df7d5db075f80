"""A pretended GPU that computes as a real one is asked to, and says when the host waits for it.

Its tensors hold tensors of the CPU, operators go to their backends for GPUs, and Triton interprets these. The host
waits where it reads a value, where the size of an operation's result depends on values, where it copies to or from the
GPU and does not say otherwise, and where it synchronises. To be imported before anything of salcr.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_iter, tree_map

from tests.on_gpu import OnGpu, Pretending

READING = {"_local_scalar_dense", "item", "is_nonzero", "equal"}
OF_UNKNOWN_SIZE = {"nonzero", "masked_select", "unique_consecutive", "unique_dim", "_unique2", "bincount"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
FROM_NUMBERS = {torch.tensor, torch.as_tensor}
OF_ITS_OWN = {F.embedding_bag, torch.where, torch.Tensor.where, torch.Tensor.__deepcopy__}  # these make tensors inside
OPERATORS, LISTENERS = {}, []


def wait(*_):
    for listener in LISTENERS:
        listener()


class Held(OnGpu):
    """Holds a tensor of the CPU."""

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, dict(kwargs or {})
        if function.namespace == "salcr":
            defaults = (kwargs.get(x.name, x.default_value) for x in function._schema.arguments[len(args) :])
            with Holding():
                return OPERATORS[function._schema.name](*args, *defaults)
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        is_mixed = any(not isinstance(x, OnGpu) for x in given)
        to_host = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
        if name == "copy_":
            waits = is_mixed and not (kwargs.get("non_blocking") or args[2:] == (True,))
        elif name in INDEXING:
            waits = is_mixed or any(map(_is_mask, args[1]))
        else:
            waits = name in READING | OF_UNKNOWN_SIZE or (to_host and not kwargs.get("non_blocking"))
        if waits:
            wait()
        args, kwargs = tree_map(held, (args, kwargs | (dict(device="cpu") if "device" in kwargs else {})))
        result = function(*args, **kwargs)
        known = {id(x.held): x for x in given if isinstance(x, OnGpu)}
        return result if to_host else tree_map(lambda x: known[id(x)] if id(x) in known else wrapped(x), result)

    def __repr__(self):
        return f"Held({self.held})"


class Holding(Pretending):
    kind, behind = Held, "cpu"

    def hold(self, x):
        return held(x)

    def call(self, function, args, kwargs):
        on_gpu = any(isinstance(x, OnGpu) for x in tree_iter((args, kwargs)))
        to_gpu = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        copied = function is torch.Tensor.to and not on_gpu and not kwargs.get("non_blocking")
        if to_gpu and (copied or function in FROM_NUMBERS):
            wait()
        if on_gpu and function is torch.Tensor.tolist:
            wait()
        elif on_gpu and function is torch.Tensor.__setitem__:
            indices, value = [x for x in tree_iter(args[1]) if isinstance(x, torch.Tensor)], args[2]
            has_masks = any(map(_is_mask, indices))
            if indices and (isinstance(value, torch.Tensor) if has_masks else not isinstance(value, OnGpu)):
                wait()  # for the number of places; for a number, of which PyTorch makes a tensor on the host
        elif not (on_gpu and function in OF_ITS_OWN):
            return super().call(function, args, kwargs)
        result = function(*tree_map(held, args), **tree_map(held, kwargs))
        if function is torch.Tensor.__deepcopy__ and isinstance(args[0], torch.nn.Parameter):
            return torch.nn.Parameter(wrapped(result), args[0].requires_grad)
        return wrapped(result)


def held(x):
    return x.held if isinstance(x, OnGpu) else x


def wrapped(x):
    return Held(x) if isinstance(x, torch.Tensor) else x


def _is_mask(x):
    return x is not None and x.dtype == torch.bool


@contextlib.contextmanager
def interpreted_gpu(listener: Callable[[], None]) -> Iterator[None]:
    """Inside, there is a GPU of one processor, and ``listener`` is called where the host waits for it."""
    from triton.runtime.interpreter import GridExecutor

    launch = GridExecutor.__call__
    stand_ins = dict(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_capability=lambda device=None: (8, 0),
        get_device_properties=lambda device=None: SimpleNamespace(multi_processor_count=1),
        mem_get_info=lambda device=None: (80 << 30, 80 << 30),
        memory_reserved=lambda device=None: 0,
        memory_allocated=lambda device=None: 0,
        device_of=lambda x: contextlib.nullcontext(),
        current_stream=lambda device=None: None,
        synchronize=wait,
        Event=lambda: SimpleNamespace(record=lambda *_: None, query=lambda: False, synchronize=wait),
    )
    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        stack.enter_context(mock.patch.object(GridExecutor, "__call__", _on_held(launch)))
        stack.enter_context(mock.patch(f"{__name__}.LISTENERS", [listener]))
        stack.enter_context(Holding())
        yield


def _on_held(launch):
    return lambda self, *args, **kwargs: launch(self, *map(held, args), **tree_map(held, kwargs))


def _remember(name, kind, function):
    OPERATORS[name] = function
    _implement(name, kind, function)


_implement = torch.library.impl
os.environ["TRITON_INTERPRET"] = "1"
with mock.patch.object(torch.library, "impl", _remember):
    import salcr.ops  # noqa: F401
    import tests.kernels.conftest  # noqa: F401  a faster interpreter
