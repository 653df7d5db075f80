"""Momentum updates of cluster memories: of one, and of several at once."""

from collections.abc import Sequence
from functools import partial

import torch

from salcr import reference
from salcr.defaults import MOMENTUM
from salcr.ops._checks import check_choice, check_same, check_share, check_tensor, check_written
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import HALF_TO_SINGLE, SINGLE_AND_DOUBLE, check_parts, check_targets, followed, per_row
from salcr.ops._register import register
from salcr.ops.backends.cpp import cluster_memory_update as _cpp
from salcr.ops.backends.eager import cluster_memory_update as _eager
from salcr.ops.backends.triton import cluster_memory_update as _triton

SELECTIONS = ("all", "hardest")
Tensors = Sequence[torch.Tensor]


def update_cluster_memory_(
    memory: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    momentum: float = MOMENTUM,
    order: torch.Tensor | None = None,
    select: str = "all",
    impl: str = "auto",
) -> torch.Tensor:
    """Move the memory rows towards the features of their class, one sample after the other, in place.

    Equivalent eager expression::

        if select == "hardest":  # one sample a class: the first of smallest cosine to the row as it is
            cosines = (normalize(features) * memory[targets]).sum(1)
            classes = [[b for b in order if targets[b] == k] for k in targets.unique()]
            order = [min(members, key=lambda b: cosines[b]) for members in classes]
        for b in order:
            memory[targets[b]] = normalize(momentum * memory[targets[b]] + (1 - momentum) * normalize(features[b]))

    Args:
        memory: ``[K, D]`` or ``[P, K, D]``, float, changed in place.
        features: ``[B, D]`` or ``[P, B, D]`` of the same dtype (under autocast of any); need not be normalised. Read
            without a gradient.
        targets: ``[B]`` or ``[P, B]``, int64 in ``[0, K)``; rows with -1 change nothing.
        momentum: share of the old row that stays, in [0, 1]; 0.1 in the paper.
        order: ``[B]``, int64: a permutation of the samples; by default their own order. All parts share it.
        select: ``"all"``, or ``"hardest"``: of each class, and in each part, only one sample updates its row: that of
            the smallest cosine to it, the first in ``order`` of equals. The cosines are float32 at least; one that is
            NaN counts as the smallest, so that it shows in the memory.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``memory``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device, momentum or select; a memory that shares elements with
            ``features`` or among its own rows; on the CPU also a target outside ``[-1, K)`` or an ``order`` that is not
            a permutation.

    Example:
        >>> memory = torch.eye(2)
        >>> ops.update_cluster_memory_(memory, torch.tensor([[0.0, 2.0]]), torch.tensor([0]), momentum=0.0)
        tensor([[0., 1.],
                [0., 1.]])

    Source: docs/method.md, "Memory update"; the hardest sample: Cluster Contrast (Dai et al., 2021).
    """
    with torch.no_grad():
        features = followed(features, memory)
    _check(memory, features, targets, order, momentum)
    check_choice("select", select, SELECTIONS)
    impl = check_impl(impl)
    with torch.no_grad():
        plain = memory.resolve_neg()  # the same tensor, but for a view behind a negative bit
        torch.ops.salcr.update_cluster_memory_(plain, features, targets, momentum, order, select, impl)
        if plain is not memory:
            memory.copy_(plain)
    return memory


def update_cluster_memories_(
    memories: Tensors,
    features: Tensors,
    targets: Tensors,
    orders: Tensors | None = None,
    *,
    momentum: float,
    impl: str = "auto",
) -> None:
    """Equivalent to :func:`salcr.ops.update_cluster_memory_` for each memory, bit for bit; on a GPU one launch.

    Args:
        memories: of one dtype, width and device; none shares elements with another.
        features, targets, orders: as many, each as the single update takes it for its memory. Orders are given for all
            or for none.
        momentum: share of the old rows that stays.
        impl: backend, see :mod:`salcr.ops`.

    Raises:
        TypeError, ValueError: as the single update; memories that differ in dtype, width or device.
    """
    memories, features, targets, orders = (list(x) for x in (memories, features, targets, orders or ()))
    for memory, rows, labels, order in zip(memories, features, targets, _each(orders, memories), strict=True):
        _check(memory, rows, labels, order, momentum)
    kinds = {(memory.dtype, memory.shape[-1], memory.device) for memory in memories}
    if len(kinds) > 1:
        raise ValueError(f"memories must have one dtype, width and device, got {', '.join(map(str, kinds))}")
    with torch.no_grad():
        torch.ops.salcr.update_cluster_memories_(memories, features, targets, momentum, orders, check_impl(impl))


def _check(
    memory: torch.Tensor, features: torch.Tensor, targets: torch.Tensor, order: torch.Tensor | None, momentum: float
) -> None:
    """Arguments of :func:`update_cluster_memory_`, but for their values."""
    check_parts(features, memory)
    per_row("targets", targets, features, axes=0)
    check_share("momentum", momentum)
    if order is not None:
        check_tensor("order", order, ndim=1, floating=False)
        check_same("order", order, "features", features, dtype=False)
        if len(order) != features.shape[-2]:
            raise ValueError(f"order must name {features.shape[-2]} samples, got {len(order)}")


def _check_values(
    memory: torch.Tensor, features: torch.Tensor, targets: torch.Tensor, order: torch.Tensor | None
) -> None:
    """No element is one in memory with another; on the CPU also targets and the order are right."""
    check_written("memory", memory, "features", features)
    check_targets(targets, memory.shape[-2])
    if order is not None and order.device.type == "cpu" and not torch.equal(order.sort()[0], torch.arange(len(order))):
        raise ValueError("order is not a permutation of the samples")


def _update(memory, features, targets, momentum, order, select, impl):
    _check_values(memory, features, targets, order)
    function = pick("update_cluster_memory_", impl, memory)
    function(memory, features, targets, momentum=momentum, order=order, select=select)
    torch.autograd.graph.increment_version(memory)


def _update_together(memories, features, targets, momentum, orders, impl):
    _check_apart(memories, [*features, *targets])
    for terms in zip(memories, features, targets, _each(orders, memories), strict=True):
        _check_values(*terms)
    update = pick("update_cluster_memories_", impl, memories[0])
    update(memories, features, targets, orders or None, momentum=momentum)
    for memory in memories:
        torch.autograd.graph.increment_version(memory)


def _check_apart(memories, others):
    storages = {x.untyped_storage().data_ptr() for x in memories}
    if len(storages) < len(memories):
        raise ValueError("memories that are changed in place share a storage: pass copies of them")
    if any(x.untyped_storage().data_ptr() in storages for x in others):
        raise ValueError("features or targets share a storage with memories, which are changed in place")


def _each(orders: Tensors | None, memories: Tensors) -> Sequence[torch.Tensor | None]:
    return orders or [None] * len(memories)


def _one_by_one(name, memories, features, targets, orders, *, momentum):
    update = pick("update_cluster_memory_", name, memories[0])
    for memory, rows, labels, order in zip(memories, features, targets, _each(orders, memories), strict=True):
        update(memory, rows, labels, momentum=momentum, order=order)


for _name, _function, _dtypes in (
    ("cpp", _cpp.update, SINGLE_AND_DOUBLE),
    ("triton", _triton.update, HALF_TO_SINGLE),
    ("eager", _eager.update, None),
    ("reference", reference.update_cluster_memory_, None),
):
    add_backend("update_cluster_memory_", _name, _function, dtypes=_dtypes)
    _together = _triton.update_together if _name == "triton" else partial(_one_by_one, _name)
    add_backend("update_cluster_memories_", _name, _together, dtypes=_dtypes)
register(
    "update_cluster_memory_",
    "(Tensor(a!) memory, Tensor features, Tensor targets, float momentum, Tensor? order, str select, str impl) -> ()",
    _update,
    lambda *_: None,
)
register(
    "update_cluster_memories_",
    "(Tensor(a!)[] memories, Tensor[] features, Tensor[] targets, float momentum, Tensor[] orders, str impl) -> ()",
    _update_together,
    lambda *_: None,
)
