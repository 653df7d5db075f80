"""Feature propagation as published implementations compute it: a baseline of benchmarks, not for use.

Written from the paper. It holds the four graphs as dense matrices and sorts every row in full.
"""

import torch
import torch.nn.functional as F


def propagate_features(
    visible: torch.Tensor, infrared: torch.Tensor, *, k: int = 30
) -> tuple[torch.Tensor, torch.Tensor]:
    """Same results as :func:`salcr.reference.propagate_features`, with ``(N_v + N_r)²`` entries in memory and sorted.

    An image whose neighbours contribute nothing does not keep its own feature here: its row is zero.
    """
    visible, infrared = F.normalize(visible, dim=-1), F.normalize(infrared, dim=-1)
    visible_visible, visible_infrared = _dense_graph(visible, visible, k), _dense_graph(visible, infrared, k)
    infrared_visible, infrared_infrared = _dense_graph(infrared, visible, k), _dense_graph(infrared, infrared, k)
    return (
        F.normalize(visible_visible @ visible + visible_infrared @ infrared, dim=-1),
        F.normalize(infrared_visible @ visible + infrared_infrared @ infrared, dim=-1),
    )


def _dense_graph(queries: torch.Tensor, database: torch.Tensor, k: int) -> torch.Tensor:
    similarity = queries @ database.T
    descending, _ = similarity.sort(dim=1, descending=True)
    kth = descending[:, min(k, len(database)) - 1].unsqueeze(1)
    weight = torch.where(similarity >= kth, similarity, 0).clamp_min(0)
    total = weight.sum(1, keepdim=True)
    return weight / torch.where(total > 0, total, 1)
