"""What is measured: a case is one operator or one group of calls at sizes of real runs, with its variants.

Sizes come from SPEC 5 and 6; ``quick`` sizes only show that a case works. A variant is named ``reference`` (eager
PyTorch, the one the others have to match), ``published`` (:mod:`salcr.reference.published`), or like the backend that
it asks for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from salcr import ops
from salcr.reference.published import propagation


@dataclass(frozen=True)
class Case:
    """One row of the registry.

    Args:
        name: unique; ``--only`` matches it.
        note: the sizes, in words.
        make_inputs: ``(device, quick) -> inputs``, the same at every call. Every variant gets a copy of its own, which
            it may change in place.
        variants: name → function of the inputs. ``"reference"`` must be one of them.
        check: ``(outputs, reference_outputs) -> None``, raises where they do not match.
    """

    name: str
    note: str
    make_inputs: Callable[[str, bool], Sequence]
    variants: dict[str, Callable]
    check: Callable[[object, object], None]


def close(outputs: object, expected: object) -> None:
    """Tensors, or sequences of them, agree within PyTorch's default tolerances of their dtype."""
    torch.testing.assert_close(outputs, expected)


def same_ranking(outputs: ops.RankingResult, expected: ops.RankingResult) -> None:
    """Equal counts; the means agree to the rounding of a float64 sum."""
    assert outputs.valid_queries == expected.valid_queries
    for name in ("cmc", "mAP", "mINP"):
        np.testing.assert_allclose(getattr(outputs, name), getattr(expected, name), rtol=1e-12, err_msg=name)


def _ranking_case(name: str, protocol: str, queries: int, gallery: int, identities: int) -> Case:
    def make_inputs(device, quick):
        q, g, ids = (queries // 50, gallery // 10, identities // 10) if quick else (queries, gallery, identities)
        generator = torch.Generator().manual_seed(0)
        query_ids, gallery_ids = torch.arange(q) % ids, torch.arange(g) % ids
        distances = torch.rand(q, g, generator=generator) - 0.3 * (query_ids[:, None] == gallery_ids)
        cameras = (torch.randint(low, high, (n,), generator=generator) for low, high, n in ((1, 7, q), (1, 7, g)))
        return tuple(x.to(device) for x in (distances, query_ids, gallery_ids, *cameras))

    def variant(impl):
        return lambda *inputs: ops.evaluate_ranking(*inputs, protocol=protocol, impl=impl)

    note = f"{queries} queries, {gallery} gallery images, {identities} identities, {protocol} protocol"
    return Case(name, note, make_inputs, {impl: variant(impl) for impl in ("reference", "cpu")}, same_ranking)


def _memory_step(device: str, quick: bool) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Memory, features and targets of the 14 memories of a stage-two step: four groups of parts, two global ones."""
    ids, images, width, clusters = (3, 4, 32, (9, 7)) if quick else (12, 12, 2048, (600, 500))
    generator = torch.Generator().manual_seed(0)

    def bank(parts, num_clusters, views):
        lead = () if parts is None else (parts,)
        chosen = torch.randperm(num_clusters, generator=generator)[:ids].repeat_interleave(images)
        memory = F.normalize(torch.randn(*lead, num_clusters, width, generator=generator), dim=-1)
        features = torch.randn(*lead, views * ids * images, width, generator=generator)
        return tuple(x.to(device) for x in (memory, features, chosen.repeat(views)))

    sizes = [(None, clusters[0], 3), (None, clusters[1], 3)]
    sizes += [(3, num_clusters, views) for views in (6, 3) for num_clusters in clusters]
    return [bank(*size) for size in sizes]


def _update_all(impl: str) -> Callable:
    def update(*banks):
        return [ops.update_cluster_memory_(*bank, impl=impl) for bank in banks]

    return update


def clustered(count: int, clusters: int, width: int, device: str, seed: int, spread: float = 1.2) -> torch.Tensor:
    """Unit features ``[count, width]`` of which every cluster's share the same centre; no image is an outlier."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(clusters, width, generator=generator), dim=-1)
    noise = F.normalize(torch.randn(count, width, generator=generator), dim=-1)
    return F.normalize(centres[torch.arange(count) % clusters] + spread * noise, dim=-1).to(device)


def _two_modalities(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    visible, infrared, width = (50, 40, 32) if quick else (1000, 800, 2048)
    clusters = visible // 10
    return clustered(visible, clusters, width, device, seed=0), clustered(infrared, clusters, width, device, seed=0)


CASES = (
    _ranking_case("evaluate_ranking-sysu", "sysu", 3803, 301, 96),
    _ranking_case("evaluate_ranking-regdb", "regdb", 2060, 2060, 206),
    Case(
        "update_cluster_memory_-step",
        "14 memories of 600 or 500 rows of 2048, 8,640 sequential updates, 12 identities x 12 images",
        _memory_step,
        {"reference": _update_all("reference"), "cpu": _update_all("cpu")},
        close,
    ),
    Case(
        "propagate_features",
        "1,000 visible and 800 infrared features of 2048, k 30",
        _two_modalities,
        {
            "reference": lambda *x: ops.propagate_features(*x, impl="reference"),
            "published": propagation.propagate_features,
        },
        close,
    ),
)
