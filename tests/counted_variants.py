"""A pytest plugin: which kernel variants the cuda-marked tests compile on a GPU, without one and without computing.

Tensors on the pretended GPU have shapes and no contents. Operators go to their kernels' launchers, whose launches are
recorded; asserting nothing, every body runs to its end. What is read back of a tensor is 3 or true, and false where
``any`` made it: nothing is found wrong. A variant is a kernel with its constants, its arguments' types, which of them
16 divides, and its warps and stages, as Triton specialises it. See tests/kernel_variants.py.

It is an error if an operator returns other shapes, strides, dtypes or devices there than its fake: Inductor computes
with what the fake says.
"""

import contextlib
import importlib.machinery
import math
import sys
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

READ_BACK = 3
NOT_COUNTED = (
    *("agreement", "assignment", "matching", "propagat", "votes"),  # CUDA C++, plain PyTorch
    "norm_over_processes",  # PyTorch's kernels
    *("ranking", "rerank"),  # numbers on the host
    "test_it_compiles_whole",  # launches what the CUDA graph of the same step does
)
OPERATORS, FAKES, VARIANTS, RECORDING = {}, {}, set(), [True]


class UnknownSize(Exception):
    """Only contents would tell how many results there are."""


class WithoutAssertions(importlib.machinery.SourceFileLoader):
    """Loads a module of tests as ``python -O`` would, and without the functions that judge results."""

    def get_code(self, fullname):
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True, optimize=1)

    def exec_module(self, module):
        super().exec_module(module)
        for name in [name for name in vars(module) if name.startswith("assert_") or name in STAND_INS]:
            setattr(module, name, STAND_INS.get(name, lambda *_, **__: None))


class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        spec = super().find_spec(fullname, path, target) if fullname.startswith("tests.") else None
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = WithoutAssertions(fullname, spec.origin)
        return spec


STAND_INS = {
    "assert_compiles": lambda function, *examples: [function(*arguments) for arguments in examples],
    "assert_operator_contract": lambda operator, *examples: [operator(*arguments) for arguments in examples],
    "exact_distances": lambda features, *_: torch.zeros(len(features), len(features)),
    "scikit_learn": lambda distances, *_: torch.zeros(len(distances), dtype=torch.int64),
    "times": lambda *_: 1,
}


def remember(name, kind, function):
    OPERATORS[name] = function
    implement(name, kind, function)


def remember_fake(name, fake):
    FAKES[name] = fake
    promise(name, fake)


sys.meta_path.insert(0, Finder)
implement, promise = torch.library.impl, torch.library.register_fake
with (
    mock.patch.object(torch.library, "impl", remember),
    mock.patch.object(torch.library, "register_fake", remember_fake),
):
    from salcr import ops, reference
from tests.kernels.lanes import specialised  # noqa: E402
from tests.on_gpu import GPU, OnGpu, Pretending  # noqa: E402

OF_CONTENTS_AND_ADDRESSES = (
    ("centroids", "_check_members"),
    ("dbscan", "_check_distances"),
    ("cluster_memory_update", "check_written"),
    ("cluster_memory_update", "_check_apart"),
)
for module, check in OF_CONTENTS_AND_ADDRESSES:
    setattr(sys.modules[f"salcr.ops.{module}"], check, lambda *_: None)


class Shaped(OnGpu):
    """Holds a tensor of the meta device. ``wrong``: a bool that is read back as false."""

    @staticmethod
    def __new__(cls, held, wrong=False):
        self = OnGpu.__new__(cls, held)
        self.wrong = wrong
        return self

    def data_ptr(self):
        return self.storage_offset() * self.element_size()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        schema, name, kwargs = function._schema, function.overloadpacket.__name__, dict(kwargs or {})
        if schema.name in OPERATORS:
            args = (*args, *(kwargs.get(x.name, x.default_value) for x in schema.arguments[len(args) :]))
            with Shaping():
                found = OPERATORS[schema.name](*args)
            compare_with_fake(schema.name, args, found)
            return found
        if name in ("_local_scalar_dense", "item", "is_nonzero"):
            x = args[0]
            return not x.wrong if x.dtype == torch.bool else float(READ_BACK) if x.is_floating_point() else READ_BACK
        if name == "equal":
            return True
        if name == "nonzero":
            return Shaped(torch.empty(0, args[0].dim(), dtype=torch.int64, device="meta"))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        to = kwargs.pop("device", None)
        args, kwargs = tree_map(on_meta, (args, kwargs | ({} if to is None else dict(device="meta"))))
        result = function(*args, **kwargs)
        if to is not None and torch.device(to).type == "cpu":
            return torch.zeros(result.shape, dtype=result.dtype)
        wrong = name == "any" or any(getattr(x, "wrong", False) for x in given)
        known = {id(x.held): x for x in given if isinstance(x, Shaped)}
        return tree_map(lambda x: known.get(id(x), Shaped(x, wrong)) if isinstance(x, torch.Tensor) else x, result)

    def __repr__(self):
        return f"Shaped({tuple(self.shape)}, {self.dtype})"


def compare_with_fake(name, args, found):
    try:
        with mock.patch.object(torch.library, "get_ctx", side_effect=UnknownSize):
            promised = FAKES[name](*tree_map(behind, args))
    except UnknownSize:
        return
    kinds = [
        [(tuple(x.shape), x.stride(), x.dtype, x.device.type) for x in tree_leaves(tree_map(behind, results))]
        for results in (found, promised)
        if results is not None
    ]
    if any(kind != kinds[0] for kind in kinds):
        raise RuntimeError(f"{name} returns {kinds[0]}, and its fake {kinds[-1]}")


class Shaping(Pretending):
    kind, behind = Shaped, "meta"

    def hold(self, x):
        return on_meta(x)

    def call(self, function, args, kwargs):
        if function is torch.Tensor.tolist and isinstance(args[0], Shaped):
            return nested(args[0].shape)
        if function in (torch.rand, torch.randn) and math.prod(args if isinstance(args[0], int) else args[0]) > 10**6:
            function = torch.zeros
            kwargs.pop("generator", None)
        return super().call(function, args, kwargs)


def nested(shape):
    return [nested(shape[1:]) for _ in range(shape[0])] if shape else READ_BACK


def behind(x):
    return x.held if isinstance(x, Shaped) else x


def on_meta(x):
    return x.to("meta") if isinstance(x, torch.Tensor) and not isinstance(x, Shaped) else behind(x)


def by_the_operator(name, formula):
    """A reference whose results are those of the operator: some walk through their rows in Python."""

    def call(*arguments, **options):
        tensors = [x for x in tree_leaves((arguments, options)) if isinstance(x, torch.Tensor)]
        on_the_host = not any(isinstance(x, Shaped) for x in tensors)
        quick = sum(x.numel() for x in tensors) < 10_000 or any(x.requires_grad for x in tensors)
        if on_the_host and quick:
            return formula(*arguments, **options)
        RECORDING.append(False)
        try:
            arguments, options = tree_map(single, (arguments, options))
            result = getattr(ops, name)(*arguments, **options)
        finally:
            RECORDING.pop()
        return tree_map(lambda x: x.cpu() if isinstance(x, Shaped) else x, result) if on_the_host else result

    return call


def single(x):
    """A tensor on the GPU, no float64, as no kernel takes it."""
    if not isinstance(x, torch.Tensor):
        return x
    x = x.float() if x.dtype == torch.float64 else x
    return x if isinstance(x, Shaped) else x.to(GPU).requires_grad_(x.requires_grad)


def pytest_collection_modifyitems(config, items):
    chosen = [x for x in items if x.get_closest_marker("cuda") and not any(name in x.nodeid for name in NOT_COUNTED)]
    config.hook.pytest_deselected(items=[x for x in items if x not in chosen])
    items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with Shaping():
        return (yield)


def pytest_terminal_summary(terminalreporter):
    for (module, kernel), count in Counter(variant[:2] for variant in VARIANTS).most_common():
        terminalreporter.write_line(f"{count:5} {module.rpartition('.')[2]}.{kernel}")
    terminalreporter.write_line(f"{len(VARIANTS)} kernel variants")


def record(kernel, *args, grid, warmup, **kwargs):
    if RECORDING[-1]:
        VARIANTS.add((kernel.__module__, kernel.__name__, *specialised(kernel, args, kwargs, ())[1:]))


for name in set(ops.__all__) & set(reference.__all__) - {"RankingResult"}:
    setattr(reference, name, by_the_operator(name, getattr(reference, name)))
torch.cuda.is_available = lambda: True
torch.accelerator.current_accelerator = lambda check_available=False: None  # optimisers ask
torch.cuda.is_current_stream_capturing = lambda: False  # and before PyTorch 2.12 this
torch.cuda.get_device_capability = lambda device=None: (9, 0)
torch.cuda.get_device_properties = lambda device=None: SimpleNamespace(multi_processor_count=132)
torch.cuda.mem_get_info = lambda device=None: (80 << 30, 80 << 30)
torch.cuda.memory_reserved = torch.cuda.memory_allocated = lambda device=None: 0
torch.cuda.device_of = lambda x: contextlib.nullcontext()
for name in ("CUDAGraph", "Event", "Stream", "current_stream", "graph", "set_sync_debug_mode", "stream", "synchronize"):
    setattr(torch.cuda, name, mock.MagicMock())
torch.testing.assert_close = lambda *_, **__: None
mock.patch("triton.runtime.jit.JITFunction.run", record).start()
