"""Feature propagation in plain PyTorch, on any device: blocks of products, torch.topk, sums over k rows.

A block of cross products serves both cross graphs: its rows' largest are final, its columns' largest are merged with
those of the blocks before. One more than k entries are looked for; where the last two are equal and positive, more may
tie, and that image is computed from whole rows. Which images these are is all that the host learns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from salcr.defaults import NEIGHBORS
from salcr.reference.propagation import neighbour_weights

BLOCK_ENTRIES = 1 << 26  # similarities held at a time


class Largest(NamedTuple):
    """The largest products of some images, in descending order, and their columns."""

    values: torch.Tensor
    columns: torch.Tensor


def propagate_features(
    visible: torch.Tensor, infrared: torch.Tensor, *, k: int = NEIGHBORS
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.propagate_features`."""
    sides = F.normalize(visible, dim=1), F.normalize(infrared, dim=1)
    return means_of_neighbours(sides, [_within(side, k) for side in sides], _across(*sides, k), k)


def means_of_neighbours(
    sides: tuple[torch.Tensor, torch.Tensor],
    within: Sequence[Largest],
    across: Sequence[Largest],
    k: int,
    left_out: Sequence[torch.Tensor] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """New features of both ``sides``, unit rows, from the ``k + 1`` largest products ``within`` and ``across`` them.

    ``left_out``, ``[N]`` bool of each side, says which images have no products: their columns are any valid indices.
    """
    means = []
    for own, other, near, far in zip(sides, reversed(sides), within, across, strict=True):
        total = _weighted(near, own, k) + _weighted(far, other, k)
        means.append(F.normalize(torch.where(total.any(1, keepdim=True), total, own), dim=1))
    given_up = torch.cat([_tied(near, k) | _tied(far, k) for near, far in zip(within, across, strict=True)])
    if left_out:
        given_up |= torch.cat(left_out)
    rows, count = given_up.nonzero()[:, 0], len(sides[0])  # of both sides: the host waits once
    if len(rows):
        of_each = rows[rows < count], rows[rows >= count] - count
        for own, other, mean, images in zip(sides, reversed(sides), means, of_each, strict=True):
            if len(images):
                mean[images] = propagate_rows(own[images], own, other, k)
    return means[0], means[1]


def propagate_rows(rows: torch.Tensor, own: torch.Tensor, other: torch.Tensor, k: int) -> torch.Tensor:
    """New features of ``rows``, which are some of a modality's unit features ``own``, from whole rows of products."""
    size = max(1, BLOCK_ENTRIES // max(len(own), len(other)))
    return torch.cat([_from_whole_rows(block, own, other, k) for block in rows.split(size)])


def _within(x: torch.Tensor, k: int) -> Largest:
    rows = max(1, BLOCK_ENTRIES // len(x))
    return _stacked([_largest(block @ x.mT, k) for block in x.split(rows)])


def _across(visible: torch.Tensor, infrared: torch.Tensor, k: int) -> tuple[Largest, Largest]:
    rows = max(1, BLOCK_ENTRIES // len(infrared))
    by_row, by_column = [], None
    for n, block in enumerate(visible.split(rows)):
        products = block @ infrared.mT
        by_row.append(_largest(products, k))
        found = _largest(products.mT, k)
        found = Largest(found.values, found.columns + n * rows)
        by_column = found if by_column is None else _merged(by_column, found, k)
    return _stacked(by_row), by_column


def _largest(products: torch.Tensor, k: int) -> Largest:
    return Largest(*products.topk(min(k + 1, products.shape[1])))


def _merged(one: Largest, other: Largest, k: int) -> Largest:
    values, columns = (torch.cat(pair, dim=1) for pair in zip(one, other, strict=True))
    values, chosen = _largest(values, k)
    return Largest(values, columns.gather(1, chosen))


def _stacked(blocks: list[Largest]) -> Largest:
    return Largest(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def _weighted(graph: Largest, features: torch.Tensor, k: int) -> torch.Tensor:
    """The mean of the features of the first ``k`` columns, added up by column so that equal values keep an order."""
    columns, order = graph.columns[:, :k].sort(dim=1)
    weights = graph.values[:, :k].gather(1, order).clamp_min(0)
    sums = weights.sum(1, keepdim=True)
    weights = weights / torch.where(sums > 0, sums, 1)
    return F.embedding_bag(columns, features, mode="sum", per_sample_weights=weights)


def _tied(graph: Largest, k: int) -> torch.Tensor:
    """Whether the k-th and the next product are equal and count."""
    values = graph.values
    if values.shape[1] <= k:
        return values.new_zeros(len(values), dtype=torch.bool)
    return (values[:, k] == values[:, k - 1]) & (values[:, k] > 0)


def _from_whole_rows(block: torch.Tensor, own: torch.Tensor, other: torch.Tensor, k: int) -> torch.Tensor:
    total = sum(_sparse_sum(neighbour_weights(block @ x.T, k), x) for x in (own, other))
    return F.normalize(torch.where(total.any(1, keepdim=True), total, block), dim=1)


def _sparse_sum(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    row, column = weights.nonzero(as_tuple=True)
    start = torch.searchsorted(row, torch.arange(len(weights), device=row.device))
    return F.embedding_bag(column, features, start, mode="sum", per_sample_weights=weights[row, column])
