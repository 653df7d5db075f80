"""GPCR, global-part collaborative refinement (docs/method.md, "GPCR"): neighbours that views agree on come closer."""

import functools
from collections.abc import Sequence

import torch
from torch import nn

from salcr import ops
from salcr.defaults import NEIGHBORS, TEMPERATURE
from salcr.nn import InstanceMemory


class RefinementObjective(nn.Module):
    """``L_gi + L_pi`` over one modality's instance memories; the total is the sum over both modalities.

    Args:
        f: ``[N, D]``: features of the modality's images that are in a cluster.
        parts: ``[P, N, D]``: their part features.
        k: neighbours a row; 30.
        temperature: divides the cosine.
    """

    def __init__(
        self, f: torch.Tensor, parts: torch.Tensor, *, k: int = NEIGHBORS, temperature: float = TEMPERATURE
    ) -> None:
        super().__init__()
        self.whole = InstanceMemory(f, k=k, temperature=temperature)
        self.parts = InstanceMemory(parts, k=k, temperature=temperature)

    def loss(self, f: torch.Tensor, parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``f [3S, D]`` and ``parts [P, 3, 3S, D]`` of a batch [visible, augmented, infrared]: (``L_gi``, ``L_pi``).

        Global: the three views of a position share the neighbours that all three have. Parts: each form of a row (own,
        pg1, pg2 belong to three different semantic groups) takes the neighbours of the row's two other forms that are
        also neighbours of its global feature.
        """
        return refinement_losses([self], f, parts)


def refinement_losses(
    sides: Sequence[RefinementObjective], f: torch.Tensor, parts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """:meth:`RefinementObjective.loss` summed over ``sides`` of one ``k``, which find their sets side by side."""
    rows = parts.flatten(1, 2)
    searches = [side.whole.search(f) for side in sides]
    part_searches = [side.parts.search(rows) for side in sides]
    top, top_parts = (torch.stack([found[0] for found in of_sides]) for of_sides in (searches, part_searches))
    agreed = ops.intersect_sets(*top.chunk(3, dim=1)).repeat(1, 3, 1)  # [sides, 3S, k]
    # [sides, P, 9S, k]: the other two forms of a row lie 3S and 6S before it, in a circle.
    circle = torch.cat([top_parts, top_parts], 2)
    others = ops.unite_sets(*(circle[:, :, n * len(f) :][:, :, : 3 * len(f)] for n in (1, 2)))
    positives = ops.intersect_sets(others, top.repeat(1, 3, 1).unsqueeze(1))
    losses = [
        (
            side.whole.contrast(f, agreed[n], *searches[n][1:]),
            side.parts.contrast(rows, positives[n], *part_searches[n][1:]),
        )
        for n, side in enumerate(sides)
    ]
    return tuple(functools.reduce(torch.add, terms) for terms in zip(*losses, strict=True))
