"""Re-ranking of a gallery by the graph of neighbours."""

from functools import partial

import torch

from benchmarks.case import Case
from benchmarks.features import pedestrians
from salcr import ops
from salcr.reference.published import reranking


def _sides(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and gallery images of the same people, unit rows; a fifth are queries."""
    features = pedestrians(*((150, 64) if quick else (6000, 2048))).to(device)
    return tuple(features.tensor_split([len(features) // 5]))


def _published(query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(reranking.rerank_gnn(query.cpu().numpy(), gallery.cpu().numpy()))


def _same_distances(outputs: torch.Tensor, expected: torch.Tensor) -> None:
    """But for few: of two images that are as near to a third but for a rounding, either may be its last neighbour."""
    others = (outputs.cpu() - expected).abs() > 1e-5
    assert others.float().mean() < 0.02, f"{int(others.sum())} of {others.numel()} distances differ"


CASES = (
    Case(
        "rerank_gnn",
        "1,200 queries against 4,800 gallery images, features of 2048 (k1 26, k2 7)",
        _sides,
        {"published": _published}
        | {impl: partial(ops.rerank_gnn, impl=impl) for impl in ("reference", "eager", "cpp")},
        _same_distances,
    ),
)
