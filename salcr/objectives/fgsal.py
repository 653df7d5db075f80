"""FGSAL, fine-grained semantic-aligned learning (docs/method.md, "FGSAL"): part features against part memories."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from salcr.defaults import MOMENTUM, TEMPERATURE
from salcr.nn import ClusterMemory, MemoryContrasts, MemoryUpdate, contrast_sums, update_memories_
from salcr.objectives.dagi import CrossLabels

ROWS = 6, 6, 3, 3  # of each kind of PartQueries.by_kind, for a position of the batch


class PartObjective(nn.Module):
    """``L_p``: part features of either modality's queries against part memories of either modality's clusters.

    ``infrared_to_visible`` is what infrared queries ask of visible clusters, and so on. Each of the four is one
    :class:`salcr.nn.ClusterMemory` with a part axis.

    Args:
        visible: ``[P, K_v, D]``: part centroids of the visible clusters.
        infrared: ``[P, K_r, D]``: part centroids of the infrared clusters.
        momentum, temperature, precision: as in :class:`salcr.nn.ClusterMemory`.
    """

    def __init__(
        self,
        visible: torch.Tensor,
        infrared: torch.Tensor,
        *,
        momentum: float = MOMENTUM,
        temperature: float = TEMPERATURE,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        options = dict(momentum=momentum, temperature=temperature, precision=precision)
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
        banks, samples = len(parts), len(labels.visible)
        visible, infrared = (side.flatten(1, 2) for side in parts.split((2 * samples, samples), dim=2))
        return PartQueries(
            visible,
            infrared,
            (labels.visible.repeat(banks, 6), labels.visible_to_infrared.repeat(banks, 6)),
            (labels.infrared_to_visible.repeat(banks, 3), labels.infrared.repeat(banks, 3)),
        )

    def loss(self, queries: "PartQueries") -> torch.Tensor:
        """The sum of the four contrasts, each a mean over its rows and then over parts."""
        visible, infrared = contrast_sums(self.contrasts(queries))
        return visible + infrared

    def contrasts(self, queries: "PartQueries") -> tuple[MemoryContrasts, MemoryContrasts]:
        """What :meth:`loss` is the sum of: visible queries, infrared queries."""
        return (
            MemoryContrasts(queries.visible, self.memories[:2], queries.visible_targets),
            MemoryContrasts(queries.infrared, self.memories[2:], queries.infrared_targets),
        )

    def updates(self, queries: "PartQueries", orders: Sequence[torch.Tensor]) -> list[MemoryUpdate]:
        """Of the four memories, each with its rows in the order given; how many those are: ``ROWS`` a position."""
        terms = zip(self.memories, queries.by_kind(), orders, strict=True)
        return [MemoryUpdate(memory, rows, targets, order) for memory, (rows, targets), order in terms]

    def update_(self, queries: "PartQueries", orders: Sequence[torch.Tensor]) -> None:
        """Make :meth:`updates`."""
        update_memories_(self.updates(queries, orders))


class PartQueries(NamedTuple):
    """What a batch asks the part memories: rows with their targets in either modality's clusters."""

    visible: torch.Tensor  # [P, 6S, D]: own, pg1, pg2, each visible then augmented
    infrared: torch.Tensor  # [P, 3S, D]: own, pg1, pg2
    visible_targets: tuple[torch.Tensor, torch.Tensor]  # in visible and in infrared clusters, [P, 6S]
    infrared_targets: tuple[torch.Tensor, torch.Tensor]  # likewise, [P, 3S]

    def by_kind(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """(rows, targets): visible to visible, visible to infrared, infrared to visible, infrared to infrared."""
        visible = ((self.visible, targets) for targets in self.visible_targets)
        return *visible, *((self.infrared, targets) for targets in self.infrared_targets)


def random_orders(lengths: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Random orders of so many rows each, drawn on the CPU, one behind the other."""
    return torch.cat([torch.randperm(length, generator=generator, device="cpu") for length in lengths])
