"""Index sets on the CPU, merged row by row in C++."""

import torch


def intersect_sets(*sets: torch.Tensor) -> torch.Tensor:
    """See :func:`salcr.ops.intersect_sets`."""
    from salcr import _C

    return _merged(_C.intersect_sets, sets, min(rows.shape[-1] for rows in sets))


def unite_sets(*sets: torch.Tensor) -> torch.Tensor:
    """See :func:`salcr.ops.unite_sets`."""
    from salcr import _C

    return _merged(_C.unite_sets, sets, sum(rows.shape[-1] for rows in sets))


def _merged(merge, sets: tuple[torch.Tensor, ...], width: int) -> torch.Tensor:
    lead = torch.broadcast_shapes(*(rows.shape[:-1] for rows in sets))
    out = sets[0].new_empty(*lead, width)
    flat = [rows.expand(*lead, -1).reshape(-1, rows.shape[-1]).contiguous().resolve_neg().numpy() for rows in sets]
    merge(flat, out.view(-1, width).numpy(), torch.get_num_threads())
    return out
