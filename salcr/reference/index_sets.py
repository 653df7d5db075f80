"""Intersection and union of index sets held as padded rows, in plain PyTorch."""

import torch

_NONE = torch.iinfo(torch.int64).max  # stands for -1 while sorting, so that padding comes last


def intersect_sets(*sets: torch.Tensor) -> torch.Tensor:
    """Indices that are in every set; see :func:`salcr.ops.intersect_sets`.

    A set holds an index once, so an index of all sets makes a run of as many entries as there are sets.
    """
    entries = _sorted_entries(sets)
    last = len(sets) - 1
    first = entries[..., : entries.shape[-1] - last]
    width = min(rows.shape[-1] for rows in sets)
    return _padded(first, first == entries[..., last:])[..., :width].contiguous()


def unite_sets(*sets: torch.Tensor) -> torch.Tensor:
    """Indices that are in any set; see :func:`salcr.ops.unite_sets`."""
    entries = _sorted_entries(sets)
    fresh = torch.ones_like(entries, dtype=torch.bool)
    fresh[..., 1:] = entries[..., 1:] != entries[..., :-1]
    return _padded(entries, fresh)


def _sorted_entries(sets: tuple[torch.Tensor, ...]) -> torch.Tensor:
    lead = torch.broadcast_shapes(*(rows.shape[:-1] for rows in sets))
    entries = torch.cat([rows.expand(*lead, -1) for rows in sets], dim=-1)
    return torch.where(entries < 0, _NONE, entries).sort(-1).values


def _padded(entries: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The entries to keep, in their order, moved to the front; -1 behind them."""
    entries = torch.where(keep, entries, _NONE).sort(-1).values
    return torch.where(entries == _NONE, -1, entries)
