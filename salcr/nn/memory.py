"""Memory banks (docs/method.md, "Memory update" and "GPCR"): rows that follow the features, rows that are frozen."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from salcr import distributed, ops
from salcr.defaults import MOMENTUM, NEIGHBORS, TEMPERATURE
from salcr.ops._checks import check_choice, check_integer, check_share, check_tensor
from salcr.ops._parts import by_features, check_temperature
from salcr.ops._precision import PRECISIONS
from salcr.ops.cluster_memories import cluster_contrast_sums
from salcr.ops.cluster_memory_update import update_cluster_memories_
from salcr.ops.instance_memories import Searches, instance_searches, set_contrasts


class ClusterMemory(nn.Module):
    """A bank of unit rows, one a cluster; all parts of a kind live in one tensor.

    Args:
        rows: ``[K, D]`` or ``[P, K, D]``: starting rows, normalised here.
        momentum: share of the old row that an update keeps.
        temperature: divides the cosine in :meth:`contrast`.
        precision: of the products in :meth:`contrast`; the rows, and their updates, stay in their own.

    Raises:
        TypeError, ValueError: rows of a wrong shape or dtype, a setting that no operator takes.
    """

    rows: torch.Tensor

    def __init__(
        self,
        rows: torch.Tensor,
        *,
        momentum: float = MOMENTUM,
        temperature: float = TEMPERATURE,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        check_tensor("rows", rows, ndim=(2, 3))
        check_settings(temperature, precision, momentum)
        self.register_buffer("rows", unit_rows(rows.detach()))
        self.momentum, self.temperature, self.precision = momentum, temperature, precision

    def contrast(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean contrastive loss of ``features [B, D]`` or ``[P, B, D]``; see :func:`salcr.ops.cluster_contrast`.

        The gradient needs the rows as they are now: autograd raises if :meth:`update_` comes before ``backward``,
        except where a precision of bfloat16 has made a copy of them.
        """
        options = dict(temperature=self.temperature, precision=self.precision)
        return ops.cluster_contrast(features, self.rows, targets, **options)

    def update_(self, features: torch.Tensor, targets: torch.Tensor, order: torch.Tensor | None = None) -> None:
        """Sequential momentum update; call it after ``backward``. See :func:`salcr.ops.update_cluster_memory_`."""
        features = as_rows(features, self.rows)
        ops.update_cluster_memory_(self.rows, features, targets, momentum=self.momentum, order=order)

    def extra_repr(self) -> str:
        return settings_of(self, "momentum", "temperature", "precision")


def contrast_sum(
    features: torch.Tensor, memories: Sequence[ClusterMemory], targets: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Sum of the losses of several memories; see :func:`salcr.ops.cluster_contrast_sum`.

    Raises:
        ValueError: no memory; memories that differ in temperature or precision.
    """
    return contrast_sums([MemoryContrasts(features, memories, targets)])[0]


class MemoryContrasts(NamedTuple):
    """Features and the memories that they are contrasted with; see :func:`contrast_sum`."""

    features: torch.Tensor
    memories: Sequence[ClusterMemory]
    targets: Sequence[torch.Tensor]


def contrast_sums(contrasts: Sequence[MemoryContrasts]) -> tuple[torch.Tensor, ...]:
    """:func:`contrast_sum` of each of ``contrasts``, on a GPU in the launches of one.

    Raises:
        ValueError: the memories differ in temperature or precision, or the features in dtype, width or the number of
            memories.
    """
    if not contrasts:
        raise ValueError("contrasts is empty")
    features, memories, targets = zip(*contrasts, strict=True)
    options = _common([memory for group in memories for memory in group], "temperature", "precision")
    rows = [[memory.rows for memory in group] for group in memories]
    return cluster_contrast_sums(features, rows, targets, **options)


class MemoryUpdate(NamedTuple):
    """What a memory is updated with; see :meth:`ClusterMemory.update_`."""

    memory: ClusterMemory
    features: torch.Tensor
    targets: torch.Tensor
    order: torch.Tensor | None = None


def update_memories_(updates: Sequence[MemoryUpdate]) -> None:
    """:meth:`ClusterMemory.update_` of several memories of one momentum, on a GPU side by side in one launch.

    Raises:
        ValueError: no update; memories that differ in momentum or width; a memory that is there twice; orders for some
            updates and not for all.
    """
    if not updates:
        raise ValueError("updates is empty")
    memories, features, targets, orders = zip(*updates, strict=True)
    missing = [order is None for order in orders]
    if any(missing) and not all(missing):
        raise ValueError("either all updates have an order or none")
    orders = None if any(missing) else orders
    options = _common(memories, "momentum")
    rows = [memory.rows for memory in memories]
    features = [as_rows(x, y) for x, y in zip(features, rows, strict=True)]
    update_cluster_memories_(rows, features, targets, orders, **options)


class InstanceMemory(nn.Module):
    """Unit features of images, frozen within an epoch.

    Args:
        rows: ``[N, D]`` or ``[P, N, D]``, normalised here.
        k: neighbours that :meth:`neighbors` looks up.
        temperature: divides the cosine.
        precision: of the products, see :func:`salcr.ops.instance_search`. On a GPU ``"bfloat16"`` keeps a copy in
            bfloat16 beside the rows; which rows are neighbours, the rows themselves decide.

    Raises:
        TypeError, ValueError: rows of a wrong shape or dtype, a setting that no operator takes.
    """

    rows: torch.Tensor
    rounded: torch.Tensor | None

    def __init__(
        self,
        rows: torch.Tensor,
        *,
        k: int = NEIGHBORS,
        temperature: float = TEMPERATURE,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        check_tensor("rows", rows, ndim=(2, 3))
        check_settings(temperature, precision)
        check_integer("k", k)
        self.register_buffer("rows", unit_rows(rows.detach()))
        self.register_buffer("rounded", None, persistent=False)
        self.register_load_state_dict_post_hook(_forget_rounded)
        self.k, self.temperature, self.precision = k, temperature, precision

    def extra_repr(self) -> str:
        return settings_of(self, "k", "temperature", "precision")

    def in_bfloat16(self) -> torch.Tensor:
        """The rows in bfloat16: one copy, made at the first call, and again where the module's dtype was changed."""
        if self.rounded is None or self.rounded.dtype != torch.bfloat16:
            self.rounded = self.rows.bfloat16()
        return self.rounded

    def neighbors(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The k nearest rows of each feature and the log-sum-exp over all; see :func:`salcr.ops.instance_neighbors`."""
        return ops.instance_neighbors(features, self.rows, self.k, temperature=self.temperature)

    def search(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same and the mean row under the softmax, for :meth:`contrast`; see :func:`salcr.ops.instance_search`."""
        options = dict(temperature=self.temperature, precision=self.precision)
        return ops.instance_search(features, self.rows, self.k, **options)

    def contrast(
        self, features: torch.Tensor, positives: torch.Tensor, lse: torch.Tensor, mean_row: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pull features towards sets of rows; see :func:`salcr.ops.set_contrast`.

        Of several processes each returns its part of the mean over the rows of all that have a positive: the mean of
        what they return is the loss of the whole batch.
        """
        contrast = functools.partial(ops.set_contrast, temperature=self.temperature, precision=self.precision)
        if distributed.world() == 1:
            return contrast(features, self.rows, positives, lse=lse, mean_row=mean_row)
        positives = positives.expand(*features.shape[:-1], -1)  # all parts may have the same
        counts = (positives[..., 0] >= 0).sum(-1).to(features.dtype)  # of each part
        weights = counts * distributed.world() / distributed.total(counts).clamp_min(1)
        each = []
        for p in range(len(features)) if features.ndim == 3 else [...]:
            mean = None if mean_row is None else mean_row[p]
            each.append(contrast(features[p], self.rows[p], positives[p], lse=lse[p], mean_row=mean))
        return (weights * torch.stack(each)).mean()


def search_memories(features: Sequence[torch.Tensor], memories: Sequence[Sequence[InstanceMemory]]) -> Searches:
    """:meth:`InstanceMemory.search` of each of ``features`` in each of its memories, on a GPU in few launches.

    Raises:
        ValueError: the memories differ in k, temperature or precision, or the features in dtype, width or the number of
            memories.
    """
    options = _common([memory for group in memories for memory in group], "k", "temperature", "precision")
    if options["precision"] == "bfloat16" and features[0].dtype == torch.float32 and features[0].is_cuda:
        options["rounded"] = [[memory.in_bfloat16() for memory in group] for group in memories]
    return instance_searches(features, [[memory.rows for memory in group] for group in memories], **options)


def contrast_memories(
    features: Sequence[torch.Tensor],
    memories: Sequence[Sequence[InstanceMemory]],
    positives: Sequence[Sequence[torch.Tensor]],
    found: Searches,
) -> list[torch.Tensor]:
    """For each of ``features`` the sum of :meth:`InstanceMemory.contrast` over its memories, on a GPU in few launches.

    ``found`` is the result of :func:`search_memories` for the same features and memories.
    """
    options = _common([memory for group in memories for memory in group], "temperature")
    if distributed.world() == 1:
        rows = [[memory.rows for memory in group] for group in memories]
        return list(set_contrasts(features, rows, positives, found, **options))
    known = (by_features(x, features) for x in (found.lse, found.mean_row))
    losses = []
    for x, *terms in zip(features, memories, positives, *known, strict=True):
        each = [memory.contrast(x, *term) for memory, *term in zip(*terms, strict=True)]
        losses.append(functools.reduce(torch.add, each))
    return losses


def as_rows(features: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``features`` without a gradient and in the dtype of ``rows``, which they update."""
    check_tensor("features", features, ndim=rows.ndim)
    return features.detach().to(rows.dtype)


def _forget_rounded(memory: InstanceMemory, _: Any) -> None:
    memory.rounded = None


def _common(memories: Sequence[ClusterMemory | InstanceMemory], *names: str) -> dict[str, Any]:
    """Options that all ``memories`` have to agree in."""
    if not memories:
        raise ValueError("memories is empty")
    found = {}
    for name in names:
        values = [getattr(memory, name) for memory in memories]
        if len(set(values)) > 1:
            raise ValueError(f"memories differ in {name}: {', '.join(map(str, values))}")
        found[name] = values[0]
    return found


def check_settings(temperature: float, precision: str, momentum: float = MOMENTUM) -> None:
    check_share("momentum", momentum)
    check_temperature(temperature)
    check_choice("precision", precision, PRECISIONS)


def settings_of(memory: nn.Module, *names: str) -> str:
    """The shape of its rows and these attributes, as modules print what they are made of."""
    return ", ".join([f"rows={tuple(memory.rows.shape)}", *(f"{name}={getattr(memory, name)!r}" for name in names)])


@torch.inference_mode(False)
def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of a memory. Made in inference mode, as features often are, they can still be trained against.

    A row too long to square becomes NaN: ``normalize`` alone would make it zero.
    """
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return torch.where(length.isfinite(), F.normalize(rows, dim=-1), torch.nan)
