"""GPCR as published implementations compute it: a baseline of benchmarks, not for use. Written from the paper.

One call a view, part and form; of each the softmax over the whole memory, a full sort of its rows and a dense 0/1 mask
are kept until the backward pass.
"""

import torch
import torch.nn.functional as F


def refinement_losses(
    features: torch.Tensor,
    parts: torch.Tensor,
    memory: torch.Tensor,
    part_memory: torch.Tensor,
    *,
    k: int = 30,
    temperature: float = 0.05,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(L_gi, L_pi)`` of one modality's memories, equal to those of :class:`salcr.objectives.RefinementObjective`.

    Args:
        features: ``[3S, D]``: global features of the views visible, augmented, infrared.
        parts: ``[P, 3, 3S, D]``: part features in the forms own, pg1, pg2.
        memory: ``[N, D]``: unit rows, more than ``k``.
        part_memory: ``[P, N, D]``: unit rows.
        k: neighbours a row.
        temperature: divides the cosine.
    """
    views = [_probabilities(view, memory, temperature) for view in features.chunk(3)]
    tops = [_top_mask(view, k) for view in views]
    agreed = tops[0] * tops[1] * tops[2]
    loss_whole = _mean_loss([(view, agreed) for view in views], features)

    losses = []
    for part, rows in zip(parts, part_memory, strict=True):
        pairs = []
        for view, whole_top in enumerate(tops):
            forms = [_probabilities(form.chunk(3)[view], rows, temperature) for form in part]
            own, pg1, pg2 = (_top_mask(form, k) for form in forms)
            for form, others in zip(forms, (pg1 + pg2, own + pg2, own + pg1), strict=True):
                pairs.append((form, (others > 0).to(form.dtype) * whole_top))
        losses.append(_mean_loss(pairs, parts))
    return loss_whole, torch.stack(losses).mean()


def _probabilities(features: torch.Tensor, memory: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.softmax(F.normalize(features, dim=1) @ memory.T / temperature, dim=1)


def _top_mask(probabilities: torch.Tensor, k: int) -> torch.Tensor:
    ordered = probabilities.detach().sort(dim=1, descending=True).values
    return (probabilities.detach() > ordered[:, k : k + 1]).to(probabilities.dtype)


def _mean_loss(pairs: list[tuple[torch.Tensor, torch.Tensor]], features: torch.Tensor) -> torch.Tensor:
    """Mean of ``-log(probability of the masked entries)`` over the rows of all pairs whose mask is not empty."""
    losses = []
    for probabilities, mask in pairs:
        filled = mask.sum(dim=1) > 0
        losses.append(-torch.log((probabilities[filled] * mask[filled]).sum(dim=1)))
    found = torch.cat(losses)
    return found.mean() if len(found) else features.sum() * 0
