"""Random batches of the objectives' tests, in float64, and docs/method.md, "Stage two", read row by row."""

import torch
import torch.nn.functional as F

from salcr.objectives import CrossLabels

VIEWS, FORMS = ("v", "a", "r"), ("own", "pg1", "pg2")
TAU = 0.05


def random_batch(generator, *, samples=4, parts=3, width=6, clusters=(4, 3)):
    """``f [3S, D]``, ``parts [P, 3, 3S, D]`` and the batch's labels."""
    f = torch.randn(3 * samples, width, generator=generator, dtype=torch.float64)
    part_rows = torch.randn(parts, 3, 3 * samples, width, generator=generator, dtype=torch.float64)
    labels = CrossLabels(*(torch.randint(0, clusters[side], (samples,), generator=generator) for side in (0, 1, 1, 0)))
    return f, part_rows, labels


def centroids(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def view_rows(rows, view):
    """The rows of one view of ``[..., 3S, D]``."""
    samples = rows.shape[-2] // 3
    start = VIEWS.index(view) * samples
    return rows[..., start : start + samples, :]


def cross_entropy(rows, memory, targets):
    return F.cross_entropy(F.normalize(rows, dim=-1) @ F.normalize(memory, dim=-1).T / TAU, targets)


def own_and_cross(labels, view):
    """(visible cluster, infrared cluster) of the samples of a view."""
    if view == "r":
        return labels.infrared_to_visible, labels.infrared
    return labels.visible, labels.visible_to_infrared


def global_loss(f, labels, visible_memory, infrared_memory):
    """L_g: 3S rows against either memory."""
    rows = torch.cat([view_rows(f, view) for view in VIEWS])
    as_visible, as_infrared = (torch.cat([own_and_cross(labels, view)[side] for view in VIEWS]) for side in (0, 1))
    return cross_entropy(rows, visible_memory, as_visible) + cross_entropy(rows, infrared_memory, as_infrared)


def part_loss(parts, labels, visible_memories, infrared_memories):
    """L_p, where both memories of a kind hold the same rows: four cross entropies a part, then their mean."""
    total = 0
    for part, visible_memory, infrared_memory in zip(parts, visible_memories, infrared_memories, strict=True):
        for views in (("v", "a"), ("r",)):
            rows, as_visible, as_infrared = [], [], []
            for form in FORMS:
                for view in views:
                    rows.append(view_rows(part[FORMS.index(form)], view))
                    as_visible.append(own_and_cross(labels, view)[0])
                    as_infrared.append(own_and_cross(labels, view)[1])
            total = total + cross_entropy(torch.cat(rows), visible_memory, torch.cat(as_visible))
            total = total + cross_entropy(torch.cat(rows), infrared_memory, torch.cat(as_infrared))
    return total / len(parts)


def updated(memory, samples, momentum=0.1):
    """The memory after ``samples``, a list of (row, cluster), one after the other."""
    memory = F.normalize(memory, dim=-1)
    for x, cluster in samples:
        memory[cluster] = F.normalize(momentum * memory[cluster] + (1 - momentum) * F.normalize(x, dim=0), dim=0)
    return memory
