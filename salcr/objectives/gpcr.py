"""GPCR, global-part collaborative refinement (docs/method.md, "GPCR"): neighbours that views agree on come closer."""

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
        top, *whole = self.whole.search(f)
        agreed = ops.intersect_sets(*top.chunk(3))
        loss_whole = self.whole.contrast(f, agreed.repeat(3, 1), *whole)

        rows = parts.flatten(1, 2)
        top_parts, *of_parts = self.parts.search(rows)
        # [P, 9S, k]: the other two forms of a row lie 3S and 6S further.
        others = ops.unite_sets(top_parts.roll(len(f), dims=1), top_parts.roll(2 * len(f), dims=1))
        positives = ops.intersect_sets(others, top.repeat(3, 1))
        return loss_whole, self.parts.contrast(rows, positives, *of_parts)
