"""Identity-balanced batches of row numbers for both stages (docs/method.md, "Batches").

All draws come from one CPU generator.
"""

from collections.abc import Iterator

import numpy as np
import torch


def stage_one_batches(
    visible_labels: torch.Tensor,
    infrared_labels: torch.Tensor,
    *,
    iterations: int,
    identities: int,
    images: int,
    generator: torch.Generator,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of stage one: clusters of either modality drawn independently, ``images`` rows of each.

    Args:
        visible_labels: ``[N_v]`` int64 on the CPU; -1 is noise and is never drawn.
        infrared_labels: ``[N_r]``.
        iterations: batches to yield.
        identities: clusters a batch; drawn with replacement where a modality has fewer.
        images: rows a cluster; drawn with replacement where it has no more than that many.
        generator: source of all draws.

    Yields:
        (visible rows, infrared rows), int64 ``[identities * images]`` each.

    Raises:
        ValueError: a modality has no cluster.
    """
    members = _members("visible_labels", visible_labels), _members("infrared_labels", infrared_labels)
    for _ in range(iterations):
        rows = []
        for clusters in members:
            drawn = _draw(list(clusters), identities, generator)
            rows.append(torch.cat([_draw_rows(clusters[c], images, generator) for c in drawn]))
        yield rows[0], rows[1]


def stage_two_batches(
    visible_labels: torch.Tensor,
    infrared_as_visible: torch.Tensor,
    visible_as_infrared: torch.Tensor,
    infrared_labels: torch.Tensor,
    *,
    iterations: int,
    identities: int,
    images: int,
    generator: torch.Generator,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of stage two: position i of both modalities shares an identity.

    Half of the identities (rounded up) are visible clusters that some infrared image maps to: their visible rows come
    by own label, the infrared ones by cross label. The other half are infrared clusters, the other way round. If one
    kind has no eligible cluster the other fills its slots.

    Args:
        visible_labels: ``[N_v]`` own clusters of the visible images, int64 on the CPU; -1 is noise.
        infrared_as_visible: ``[N_r]`` visible clusters of the infrared images.
        visible_as_infrared: ``[N_v]`` infrared clusters of the visible images.
        infrared_labels: ``[N_r]`` own clusters of the infrared images.
        iterations, identities, images, generator: as in :func:`stage_one_batches`.

    Yields:
        (visible rows, infrared rows), int64 ``[identities * images]`` each.

    Raises:
        ValueError: no cluster of either modality has images of both.
    """
    pools = [
        _pairs(_members("visible_labels", visible_labels), _members("infrared_as_visible", infrared_as_visible)),
        _pairs(_members("visible_as_infrared", visible_as_infrared), _members("infrared_labels", infrared_labels)),
    ]
    if not any(pools):
        raise ValueError("no cluster has images of both modalities: stage two has nothing to draw from")
    slots = [identities - identities // 2, identities // 2]
    if not all(pools):
        slots = [identities if pool else 0 for pool in pools]
    for _ in range(iterations):
        drawn = [pair for pool, n in zip(pools, slots, strict=True) for pair in _draw(pool, n, generator)]
        rows = [[_draw_rows(rows, images, generator) for rows in side] for side in zip(*drawn, strict=True)]
        yield torch.cat(rows[0]), torch.cat(rows[1])


def _members(name: str, labels: torch.Tensor) -> dict[int, torch.Tensor]:
    """Rows of each cluster, in the order of the clusters."""
    labels = labels.numpy()
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    groups = np.split(order, starts[1:]) if len(values) else []
    members = {int(v): torch.from_numpy(g) for v, g in zip(values, groups, strict=True) if v >= 0}
    if not members:
        raise ValueError(f"{name} has no cluster: all {len(labels)} images are noise")
    return members


def _pairs(left: dict[int, torch.Tensor], right: dict[int, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(left[c], right[c]) for c in left if c in right]


def _draw(items: list, count: int, generator: torch.Generator) -> list:
    """``count`` items without replacement, or with it where there are fewer."""
    if count <= len(items):
        chosen = torch.randperm(len(items), generator=generator)[:count]
    else:
        chosen = torch.randint(0, len(items), (count,), generator=generator)
    return [items[i] for i in chosen.tolist()]


def _draw_rows(rows: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` of ``rows``, with replacement where there are no more than that."""
    if len(rows) > count:
        return rows[torch.randperm(len(rows), generator=generator)[:count]]
    return rows[torch.randint(0, len(rows), (count,), generator=generator)]
