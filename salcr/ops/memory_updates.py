"""Momentum updates of several cluster memories at once, for :func:`salcr.nn.update_memories_`."""

from collections.abc import Sequence
from functools import partial

import torch

from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import HALF_TO_SINGLE, SINGLE_AND_DOUBLE
from salcr.ops._register import register
from salcr.ops.backends.triton import memory_updates as _triton
from salcr.ops.cluster_memory import check_update, check_update_values

Tensors = Sequence[torch.Tensor]


def update_cluster_memories_(
    memories: Tensors, features: Tensors, targets: Tensors, orders: Tensors, *, momentum: float, impl: str = "auto"
) -> None:
    """Equivalent to :func:`salcr.ops.update_cluster_memory_` for each memory, bit for bit; on a GPU one launch.

    Args:
        memories: of one dtype, width and device; none shares elements with another.
        features, targets, orders: as many, each as the single update takes it for its memory.
        momentum: share of the old rows that stays.
        impl: backend, see :mod:`salcr.ops`.

    Raises:
        TypeError, ValueError: as the single update; memories that differ in dtype, width or device.
    """
    memories, features, targets, orders = (list(x) for x in (memories, features, targets, orders))
    for terms in zip(memories, features, targets, orders, strict=True):
        check_update(*terms, momentum)
    kinds = {(memory.dtype, memory.shape[-1], memory.device) for memory in memories}
    if len(kinds) > 1:
        raise ValueError(f"memories must have one dtype, width and device, got {', '.join(map(str, kinds))}")
    with torch.no_grad():
        torch.ops.salcr.update_cluster_memories_(memories, features, targets, momentum, orders, check_impl(impl))


def _update(memories, features, targets, momentum, orders, impl):
    _check_apart(memories, [*features, *targets])
    for terms in zip(memories, features, targets, orders, strict=True):
        check_update_values(*terms)
    pick("update_cluster_memories_", impl, memories[0])(memories, features, targets, orders, momentum=momentum)
    for memory in memories:
        torch.autograd.graph.increment_version(memory)


def _check_apart(memories, others):
    storages = {x.untyped_storage().data_ptr() for x in memories}
    if len(storages) < len(memories):
        raise ValueError("memories that are changed in place share a storage: pass copies of them")
    if any(x.untyped_storage().data_ptr() in storages for x in others):
        raise ValueError("features or targets share a storage with memories, which are changed in place")


def _one_by_one(name, memories, features, targets, orders, *, momentum):
    update = pick("update_cluster_memory_", name, memories[0])
    for memory, rows, labels, order in zip(memories, features, targets, orders, strict=True):
        update(memory, rows, labels, momentum=momentum, order=order)


for _name, _dtypes in (("cpp", SINGLE_AND_DOUBLE), ("triton", HALF_TO_SINGLE), ("eager", None), ("reference", None)):
    _function = _triton.update if _name == "triton" else partial(_one_by_one, _name)
    add_backend("update_cluster_memories_", _name, _function, dtypes=_dtypes)
register(
    "update_cluster_memories_",
    "(Tensor(a!)[] memories, Tensor[] features, Tensor[] targets, float momentum, Tensor[] orders, str impl) -> ()",
    _update,
    lambda *_: None,
)
