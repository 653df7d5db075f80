"""A pytest plugin: the bodies of cuda-marked tests on tensors of the CPU that say they are on a GPU.

As on a GPU, such a tensor meets no other that has axes, NumPy does not take it, and ``.cpu()`` brings it back. The
operators compute on the CPU whatever ``impl`` says, so what is tested are the tests, and the operators' Python outside
of their backends. Of each test the smallest case runs. See tests/test_pretended_gpu.py.

With ``SALCR_ARCH`` operators go to the backends that a GPU's tensors go to, all but the solvers in CUDA C++, and all
cases run whose kernels take no minutes: ``python -m tests.kernels.executed_lane --cuda`` executes those as compiled.
"""

import contextlib
import math
import os
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.utils._pytree import tree_iter, tree_map

import salcr.ops._dispatch as _dispatch
from tests.on_gpu import GPU, OnGpu, Pretending

ARCH = os.environ.get("SALCR_ARCH")
LARGEST = 10**8
INSIDE = False  # of an operator, which sees what tensors on the GPU hold
MIXING = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}  # take indices from the CPU
UNFIT = {  # tests that need the device, its memory or its speed
    "test_a_cuda_graph_replays": "CUDA graph",
    "test_a_cuda_graph_replays_it_whole": "CUDA graph",
    "test_a_graph_trains_as_calls_do_on_a_gpu": "CUDA graph",
    "test_auto_decides_on_a_gpu": "CUDA graph",
    "test_on_the_current_stream": "stream",
    "test_it_never_waits_for_the_device": "CUDA",
    "test_kernels_are_within_the_budget": "PyTorch's kernels",
    "test_it_compiles_whole": "compiles for the device",
    "test_triton_contract_and_compile": "compiles for the device",
    "test_both_stages_on_a_gpu": "a device by its number",
    "test_a_gpu_tells_memory_ceilings_and_the_time_of_kernels_alone": "clock",
    "test_an_index_beyond_32_bits": "4.5 GB",
    "test_strides_beyond_31_bits": "8 GB",
    "test_no_wait_for_a_look": "kernel",
    "test_the_device_has_entries_and_memory": "the device",
    "test_few_rows_are_left_to_plain_products": "12,000 images",
    "test_ties_come_by_index_and_self_first_on_a_gpu": "14 s, minutes as compiled",
    "test_triton_at_the_size_of_a_training_step": "9 s, minutes as compiled",
    "test_near_ties": "4 s, minutes as compiled",
}
UNFIT |= (
    {  # kernels of minutes
        "test_labels_of_the_kernels": "3,000 and 1,500 images",
    }
    if ARCH
    else {  # without kernels
        "test_graph_of_the_kernels": "kernels",
        "test_labels_of_the_kernels": "kernels",
        "test_kernels_that_count_first_or_have_little_scratch": "kernels",
        "test_encodings": "kernels",
        "test_any_width": "kernels",
        "test_little_scratch": "kernels",
        "test_infeasible": "the words of the solver",
        "test_triton_takes_other_powers_and_large_maps_or_says_what_it_does_not_take": "the words of the kernels",
        "test_softmax_times_memory_in_chunks": "kernel",
    }
)


class Computed(OnGpu):
    """Holds a tensor of the CPU."""

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, dict(kwargs or {})
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)]
        if name not in MIXING and any(not isinstance(x, OnGpu) and x.dim() and not x.is_meta for x in given):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")
        to = kwargs.get("device")
        args, kwargs = tree_map(_held, (args, kwargs | ({} if to is None else dict(device="cpu"))))
        with mock.patch(f"{__name__}.INSIDE", function.namespace == "salcr"):
            result = function(*args, **kwargs)
        if to is not None and torch.device(to).type == "cpu":
            return result
        known = {id(x.held): x for x in given if isinstance(x, OnGpu)}
        return tree_map(lambda x: known[id(x)] if id(x) in known else _wrapped(x), result)

    def data_ptr(self):
        return self.held.data_ptr()

    def untyped_storage(self):
        return self.held.untyped_storage()

    def __repr__(self):
        return f"Computed({self.held})"


class Computing(Pretending):
    kind, behind = Computed, "cpu"

    def hold(self, x):
        return _held(x)

    def call(self, function, args, kwargs):
        if function is torch.Tensor.tolist and isinstance(args[0], OnGpu):
            return args[0].held.tolist()
        if function is torch.Tensor.numpy and isinstance(args[0], OnGpu) and kwargs.get("force"):
            return args[0].held.numpy()
        if function in (torch.where, torch.Tensor.where):  # its numbers would become tensors of the wrapper's device
            args = [torch.tensor(x) if isinstance(x, int | float) else x for x in args]
        if function is torch.Tensor.__setitem__ and isinstance(args[2], int | float):  # as would this
            args = (*args[:2], torch.tensor(args[2]))
        return super().call(function, args, kwargs)


def _held(x):
    if isinstance(x, torch.Tensor) and not isinstance(x, OnGpu) and x.is_meta:
        return torch.zeros(x.shape, dtype=x.dtype)  # autograd's, in place of a gradient that is none
    return x.held if isinstance(x, OnGpu) else x


def _size(item):
    """Of the numbers a case is made of."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return math.prod(max(1, x) for x in tree_iter(tuple(values)) if isinstance(x, int) and not isinstance(x, bool))


def _wrapped(x):
    return Computed(x) if isinstance(x, torch.Tensor) else x


def pick_for_the_gpu(operator, impl, tensor):
    """In place of :func:`salcr.ops._dispatch.pick`."""
    if not isinstance(tensor, OnGpu) and not INSIDE:
        return pick(operator, impl, tensor)
    if ARCH and "cuda" not in _dispatch._TABLE[operator]:
        function = pick(operator, impl, SimpleNamespace(device=GPU, dtype=tensor.dtype))
    else:
        function = pick(operator, "auto", _held(tensor))
    if INSIDE:
        return function
    return lambda *args, **kwargs: tree_map(_wrapped, function(*tree_map(_held, args), **tree_map(_held, kwargs)))


pick = _dispatch.pick
for module in [module for name, module in sys.modules.items() if name.startswith("salcr.ops")]:
    if getattr(module, "pick", None) is pick:
        module.pick = pick_for_the_gpu
torch.cuda.is_available = lambda: True
torch.Tensor.pin_memory = lambda x: x  # in threads, which are under no mode
if ARCH:
    torch.cuda.get_device_capability = lambda device=None: divmod(int(ARCH), 10)
    torch.cuda.get_device_properties = lambda device=None: SimpleNamespace(multi_processor_count=132)
    torch.cuda.mem_get_info = lambda device=None: (80 << 30, 80 << 30)
    torch.cuda.memory_reserved = torch.cuda.memory_allocated = lambda device=None: 0
    torch.cuda.device_of = lambda x: contextlib.nullcontext()


def pytest_collection_modifyitems(config, items):
    smallest = {}
    for item in sorted(items, key=_size):
        if item.get_closest_marker("cuda") and item.originalname not in UNFIT and not (ARCH and _size(item) > LARGEST):
            smallest.setdefault(item.nodeid if ARCH else (item.path, item.originalname), item)
    config.hook.pytest_deselected(items=[x for x in items if x not in smallest.values()])
    items[:] = smallest.values()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with Computing():
        return (yield)
