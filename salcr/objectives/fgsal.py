"""FGSAL, fine-grained semantic-aligned learning (SPEC 4): part features against part cluster memories."""

from collections.abc import Sequence

import torch
from torch import nn

from salcr.nn import ClusterMemory
from salcr.objectives.dagi import CrossLabels


class PartObjective(nn.Module):
    """``L_p``: part features against the memories A, B (of visible queries) and C, E (of infrared queries).

    A and C hold visible clusters, B and E infrared ones; each is one :class:`ClusterMemory` of P banks.

    Args:
        visible: ``[P, K_v, D]``: part centroids of the visible clusters.
        infrared: ``[P, K_r, D]``: part centroids of the infrared clusters.
        momentum, temperature: as in :class:`ClusterMemory`.
    """

    def __init__(
        self, visible: torch.Tensor, infrared: torch.Tensor, *, momentum: float = 0.1, temperature: float = 0.05
    ) -> None:
        super().__init__()
        self.a, self.c = (ClusterMemory(visible, momentum=momentum, temperature=temperature) for _ in range(2))
        self.b, self.e = (ClusterMemory(infrared, momentum=momentum, temperature=temperature) for _ in range(2))

    def loss(self, parts: torch.Tensor, labels: CrossLabels) -> torch.Tensor:
        """``parts [P, 3, 3S, D]`` (own, pg1, pg2 of [visible, augmented, infrared]) and the batch's labels."""
        return sum(memory.contrast(rows, targets) for memory, rows, targets in self._queries(parts, labels))

    def update_(self, parts: torch.Tensor, labels: CrossLabels, generator: torch.Generator) -> None:
        """Update all four kinds of memories, each in a random order of its own rows drawn from ``generator`` (CPU)."""
        self.update_in_order_(parts, labels, self.random_orders(labels, generator))

    def update_in_order_(self, parts: torch.Tensor, labels: CrossLabels, orders: Sequence[torch.Tensor]) -> None:
        """The same in given orders of the rows of A, B (``[6S]``), C and E (``[3S]``)."""
        for (memory, rows, targets), order in zip(self._queries(parts.detach(), labels), orders, strict=True):
            memory.update_(rows, targets, order)

    @staticmethod
    def random_orders(labels: CrossLabels, generator: torch.Generator) -> list[torch.Tensor]:
        """Four random orders of the rows of a batch, on its device."""
        samples, device = len(labels.visible), labels.visible.device
        drawn = (torch.randperm(forms * samples, generator=generator) for forms in (6, 6, 3, 3))
        return [order.to(device, non_blocking=True) for order in drawn]

    def _queries(self, parts: torch.Tensor, labels: CrossLabels):
        samples = len(labels.visible)
        visible = parts[:, :, : 2 * samples].flatten(1, 2)  # [P, 6S, D]: own, pg1, pg2, each visible then augmented
        infrared = parts[:, :, 2 * samples :].flatten(1, 2)  # [P, 3S, D]
        return (
            (self.a, visible, labels.visible.repeat(6)),
            (self.b, visible, labels.visible_to_infrared.repeat(6)),
            (self.c, infrared, labels.infrared_to_visible.repeat(3)),
            (self.e, infrared, labels.infrared.repeat(3)),
        )
