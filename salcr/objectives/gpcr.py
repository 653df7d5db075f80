"""GPCR, global-part collaborative refinement (docs/method.md, "GPCR"): neighbours that views agree on come closer."""

from collections.abc import Sequence

import torch
from torch import nn

from salcr import ops
from salcr.defaults import NEIGHBORS, TEMPERATURE
from salcr.nn.memory import InstanceMemory, contrast_memories, search_memories


class RefinementObjective(nn.Module):
    """``L_gi + L_pi`` over one modality's instance memories; the total is the sum over both modalities.

    Args:
        f: ``[N, D]``: features of the modality's images that are in a cluster.
        parts: ``[P, N, D]``: their part features.
        k: neighbours a row; 30.
        temperature: divides the cosine.
        precision: as in :class:`salcr.nn.InstanceMemory`: sets are the same with any.

    Raises:
        ValueError: ``parts`` of another number of images than ``f``.
    """

    def __init__(
        self,
        f: torch.Tensor,
        parts: torch.Tensor,
        *,
        k: int = NEIGHBORS,
        temperature: float = TEMPERATURE,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        if f.shape[:1] != parts.shape[1:2]:
            raise ValueError(f"parts {tuple(parts.shape)} must be of the images of f {tuple(f.shape)}")
        options = dict(k=k, temperature=temperature, precision=precision)
        self.whole, self.parts = InstanceMemory(f, **options), InstanceMemory(parts, **options)

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
    """:meth:`RefinementObjective.loss` summed over ``sides`` of one ``k``, which find their sets side by side.

    A NaN in a feature or a memory makes both losses NaN: what it leaves without neighbours would count as nothing.
    """
    features, samples = (f, parts.flatten(1, 2)), len(f) // 3
    memories = [side.whole for side in sides], [side.parts for side in sides]
    found = search_memories(features, memories)
    top, forms = found.indices  # [sides, 3S, k], [sides, P, 9S, k]
    forms = forms.view(*forms.shape[:2], 3, len(f), -1)  # [sides, P, 3, 3S, k]
    views = top.view(len(top), 3, 1, samples, -1).expand(-1, -1, 3, -1, -1)
    agreed = ops.intersect_sets(*views.unbind(1)).flatten(1, 2)  # [sides, 3S, k]: of each view of a position the same
    circle = torch.cat([forms, forms[:, :, :2]], 2)  # own, pg1, pg2, own, pg1: a form's others are the next two
    others = ops.unite_sets(circle[:, :, 1:4], circle[:, :, 2:5])
    positives = ops.intersect_sets(others, top[:, None, None]).flatten(2, 3)  # [sides, P, 9S, k]
    whole, of_parts = contrast_memories(features, memories, (agreed.unbind(0), positives.unbind(0)), found)
    nothing_or_nan = (found.lse * 0).sum().to(whole.dtype)
    return whole + nothing_or_nan, of_parts + nothing_or_nan
