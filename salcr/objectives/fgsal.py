"""FGSAL, fine-grained semantic-aligned learning (docs/method.md, "FGSAL"): part features against part memories."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from salcr.defaults import MOMENTUM, TEMPERATURE
from salcr.nn import ClusterMemory, contrast_sum
from salcr.objectives.dagi import CrossLabels


class PartObjective(nn.Module):
    """``L_p``: part features of either modality's queries against part memories of either modality's clusters.

    ``infrared_to_visible`` is what infrared queries ask of visible clusters, and so on. Each of the four is one
    :class:`salcr.nn.ClusterMemory` with a part axis.

    Args:
        visible: ``[P, K_v, D]``: part centroids of the visible clusters.
        infrared: ``[P, K_r, D]``: part centroids of the infrared clusters.
        momentum, temperature: as in :class:`salcr.nn.ClusterMemory`.
    """

    def __init__(
        self,
        visible: torch.Tensor,
        infrared: torch.Tensor,
        *,
        momentum: float = MOMENTUM,
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__()
        options = dict(momentum=momentum, temperature=temperature)
        self.visible_to_visible = ClusterMemory(visible, **options)
        self.visible_to_infrared = ClusterMemory(infrared, **options)
        self.infrared_to_visible = ClusterMemory(visible, **options)
        self.infrared_to_infrared = ClusterMemory(infrared, **options)

    @property
    def memories(self) -> tuple[ClusterMemory, ClusterMemory, ClusterMemory, ClusterMemory]:
        """In the order of :meth:`PartQueries.by_kind`."""
        visible = self.visible_to_visible, self.visible_to_infrared
        return *visible, self.infrared_to_visible, self.infrared_to_infrared

    def queries(self, parts: torch.Tensor, labels: CrossLabels) -> "PartQueries":
        """Rows and targets of the four kinds, from ``parts [P, 3, 3S, D]`` (own, pg1, pg2 of [v, a, r]) and labels."""
        samples = len(labels.visible)
        visible, infrared = (side.flatten(1, 2) for side in parts.split((2 * samples, samples), dim=2))
        return PartQueries(
            *(visible, infrared),
            (labels.visible.repeat(6), labels.visible_to_infrared.repeat(6)),
            (labels.infrared_to_visible.repeat(3), labels.infrared.repeat(3)),
        )

    def loss(self, queries: "PartQueries") -> torch.Tensor:
        """The sum of the four contrasts, each a mean over its rows and then over parts."""
        visible = contrast_sum(queries.visible, self.memories[:2], queries.visible_targets)
        return visible + contrast_sum(queries.infrared, self.memories[2:], queries.infrared_targets)

    def update_(self, queries: "PartQueries", orders: Sequence[torch.Tensor]) -> None:
        """Update the four memories, each with its rows in the order given; see :meth:`PartQueries.random_orders`."""
        for memory, (rows, targets), order in zip(self.memories, queries.by_kind(), orders, strict=True):
            memory.update_(rows, targets, order)


class PartQueries(NamedTuple):
    """What a batch asks the part memories: rows with their targets in either modality's clusters."""

    visible: torch.Tensor  # [P, 6S, D]: own, pg1, pg2, each visible then augmented
    infrared: torch.Tensor  # [P, 3S, D]: own, pg1, pg2
    visible_targets: tuple[torch.Tensor, torch.Tensor]  # in visible and in infrared clusters, [6S]
    infrared_targets: tuple[torch.Tensor, torch.Tensor]  # likewise, [3S]

    def by_kind(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """(rows, targets): visible to visible, visible to infrared, infrared to visible, infrared to infrared."""
        visible = ((self.visible, targets) for targets in self.visible_targets)
        return *visible, *((self.infrared, targets) for targets in self.infrared_targets)

    def random_orders(self, generator: torch.Generator) -> list[torch.Tensor]:
        """A random order of the rows for each of the four, drawn from ``generator`` (on the CPU)."""
        orders = []
        for _, y in self.by_kind():
            drawn = torch.randperm(len(y), generator=generator, pin_memory=y.is_cuda)
            orders.append(drawn.to(y.device, non_blocking=True))
        return orders
