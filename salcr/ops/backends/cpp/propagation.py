"""Feature propagation on the CPU: matrix products of PyTorch tile by tile, the graphs' rows in C++ behind them.

Inner products within a modality are symmetric: only tiles on and above the diagonal are computed, and each is shown to
its rows and to its columns. A tile of cross products likewise serves both cross graphs. One tile, and the rows of the
graphs, are all that is in memory beside the features.
"""

import torch
import torch.nn.functional as F

from salcr.defaults import NEIGHBORS
from salcr.ops.backends.cpp._tiles import tiles
from salcr.ops.backends.eager.propagation import propagate_rows


def propagate_features(
    visible: torch.Tensor, infrared: torch.Tensor, *, k: int = NEIGHBORS
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`salcr.ops.propagate_features`."""
    from salcr import _C

    threads = torch.get_num_threads()
    rows = _C.GraphRowsFloat64 if visible.dtype == torch.float64 else _C.GraphRowsFloat32
    sides = visible, infrared = [F.normalize(x, dim=1).contiguous() for x in (visible, infrared)]
    within = [rows(len(x), len(x), k) for x in sides]
    for x, graph in zip(sides, within, strict=True):
        for tile, top, left in tiles(x, x, symmetric=True):
            graph.add_rows(tile.numpy(), top, left, threads)
            graph.add_columns(tile.numpy(), top, left, max(left, top + len(tile)), threads)
    across = rows(len(visible), len(infrared), k), rows(len(infrared), len(visible), k)
    for tile, top, left in tiles(visible, infrared, symmetric=False):
        across[0].add_rows(tile.numpy(), top, left, threads)
        across[1].add_columns(tile.numpy(), top, left, left, threads)
    results = []
    for own, other, *graphs in zip(sides, sides[::-1], within, across, strict=True):
        for graph in graphs:
            graph.finish(threads)
        out = torch.empty_like(own)
        given_up = _C.propagate(own.numpy(), other.numpy(), *graphs, out.numpy(), threads)
        given_up = torch.from_numpy(given_up)  # too many ties for a sparse row
        if len(given_up):
            out[given_up] = propagate_rows(own[given_up], own, other, k)
        results.append(out)
    return tuple(results)
