"""Tensors that say they are on a GPU, for plugins that run cuda-marked tests where there is none.

A plugin says in ``__torch_dispatch__`` what an operation on them gives, and enters a :class:`Pretending`.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)


class OnGpu(torch.Tensor):
    """Says that it is on a GPU; holds a tensor of another device."""

    device, is_cuda, is_cpu, is_meta = GPU, True, False, False
    layout = property(lambda self: self.held.layout)

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        like = dict(dtype=held.dtype, device="meta", layout=held.layout, requires_grad=held.requires_grad)
        if held.layout == torch.strided:
            like |= dict(strides=held.stride(), storage_offset=held.storage_offset())
        self = torch.Tensor._make_wrapper_subclass(cls, held.shape, **like)
        self.held = held.detach()
        return self


class Pretending(TorchFunctionMode):
    """``device="cuda"``, ``.to("cuda")`` and ``.cuda()`` give a tensor of ``kind``; nothing is pinned."""

    kind: type[OnGpu]
    behind: str  # the device of what such a tensor holds

    def hold(self, x: Any) -> Any:
        """An argument of a function that makes a tensor, as it is on the device behind."""
        return x

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if getattr(function, "__name__", "") == "cuda":
            function, args = torch.Tensor.to, (args[0], GPU)
        if function is torch.Tensor.to:
            like = [x for x in args[1:] if isinstance(x, OnGpu)]
            if like or any(map(_is_gpu, args[1:])):
                dtypes = [x.dtype for x in like] + [x for x in args[1:] if isinstance(x, torch.dtype)]
                dtype = dtypes[0] if dtypes else kwargs.get("dtype")
                kwargs, args = kwargs | dict(device=GPU, dtype=dtype), args[:1]
        if function is torch.Tensor.pin_memory:
            return args[0]
        kwargs.pop("pin_memory", None)
        return self.call(function, args, kwargs)

    def call(self, function: Any, args: tuple, kwargs: dict) -> Any:
        if not _is_gpu(kwargs.get("device")):
            return function(*args, **kwargs)
        return self.kind(function(*map(self.hold, args), **kwargs | dict(device=self.behind)))


def _is_gpu(x: Any) -> bool:
    return (isinstance(x, torch.device) and x.type == "cuda") or (isinstance(x, str) and x.startswith("cuda"))
