"""The momentum update of cluster memories (SPEC 3)."""

import torch

from salcr import reference
from salcr.ops._checks import check_same, check_tensor
from salcr.ops._dispatch import add_backend, check_impl, pick
from salcr.ops._parts import HALF_TO_SINGLE, SINGLE_AND_DOUBLE, check_banks, check_targets, per_row, with_banks
from salcr.ops._register import register


def update_cluster_memory_(
    memory: torch.Tensor,
    features: torch.Tensor,
    targets: torch.Tensor,
    *,
    momentum: float = 0.1,
    order: torch.Tensor | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """Move the memory rows towards the features of their class, one sample after the other, in place.

    Equivalent eager expression::

        for b in order:
            memory[targets[b]] = normalize(momentum * memory[targets[b]] + (1 - momentum) * normalize(features[b]))

    Args:
        memory: ``[K, D]`` or ``[P, K, D]``, float, changed in place.
        features: ``[B, D]`` or ``[P, B, D]`` of the same dtype; need not be normalised. Read without a gradient.
        targets: ``[B]`` or ``[P, B]``, int64 in ``[0, K)``; rows with -1 change nothing.
        momentum: share of the old row that stays, in [0, 1]; 0.1 in the paper.
        order: ``[B]``, int64: a permutation of the samples; by default their own order. All parts share it.
        impl: backend, see :mod:`salcr.ops`.

    Returns:
        ``memory``.

    Raises:
        TypeError, ValueError: a wrong shape, dtype, device or momentum; on the CPU also a target outside ``[-1, K)``
            or an ``order`` that is not a permutation.

    Source: SPEC 3.
    """
    check_banks(features, memory)
    per_row("targets", targets, features, axes=0)
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {momentum}")
    if order is not None:
        check_tensor("order", order, ndim=1, floating=False)
        check_same("order", order, "features", features, dtype=False)
        if len(order) != features.shape[-2]:
            raise ValueError(f"order must name {features.shape[-2]} samples, got {len(order)}")
    check_impl(impl)
    with torch.no_grad():
        torch.ops.salcr.update_cluster_memory_(memory, features, targets, momentum, order, impl)
    return memory


def _update(memory, features, targets, momentum, order, impl):
    check_targets(targets, memory.shape[-2])
    if order is not None and order.device.type == "cpu" and not torch.equal(order.sort()[0], torch.arange(len(order))):
        raise ValueError("order is not a permutation of the samples")
    function = pick("update_cluster_memory_", impl, memory)
    function(memory, features, targets, momentum=momentum, order=order)
    torch.autograd.graph.increment_version(memory)


def _cpp_update(memory, features, targets, *, momentum, order):
    from salcr import _C

    if not memory.is_contiguous():
        fresh = memory.contiguous()
        _cpp_update(fresh, features, targets, momentum=momentum, order=order)
        memory.copy_(fresh)
        return
    banks = memory.view(-1, *memory.shape[-2:])
    rows = features.contiguous().view(len(banks), -1, memory.shape[-1])
    targets = targets.expand(rows.shape[:-1]).contiguous()
    order = torch.arange(rows.shape[1]) if order is None else order.contiguous()
    _C.update_cluster_memory(
        banks.numpy(), rows.numpy(), targets.numpy(), order.numpy(), momentum, torch.get_num_threads()
    )


def _triton_update(memory, features, targets, *, momentum, order):
    from salcr.kernels.cluster_memory_update import update_cluster_memory

    banks, rows = with_banks(memory, features)
    targets = targets.expand(rows.shape[:-1]).contiguous()
    order = torch.arange(rows.shape[1], device=rows.device) if order is None else order.contiguous()
    update_cluster_memory(banks, rows, targets, order, momentum=momentum)
    if banks.data_ptr() != memory.data_ptr():
        memory.copy_(banks.view(memory.shape))


def _fake_update(memory, features, targets, momentum, order, impl):
    return None


add_backend("update_cluster_memory_", "cpu", _cpp_update, dtypes=SINGLE_AND_DOUBLE)
add_backend("update_cluster_memory_", "triton", _triton_update, dtypes=HALF_TO_SINGLE)
add_backend("update_cluster_memory_", "reference", reference.update_cluster_memory_)
register(
    "update_cluster_memory_",
    "(Tensor(a!) memory, Tensor features, Tensor targets, float momentum, Tensor? order, str impl) -> ()",
    _update,
    _fake_update,
)
