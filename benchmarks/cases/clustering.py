"""Pseudo labels: the Jaccard graph, everything after the kNN search, and the whole way from features."""

from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case, same_graph, same_labels
from benchmarks.features import clustered, pedestrians
from salcr import ops
from salcr.reference.published import clustering, jaccard

EPS, K1, K2, MIN_SAMPLES = 0.6, 30, 6, 4
HUBS = dict(spread=2.0, hubs=0.01)  # of pedestrians: more than half of the images are noise


def searched(count: int, options: dict, device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Unit features of ``count`` images, and inner products and indices of their neighbours."""
    features = F.normalize(pedestrians(*((200, 64) if quick else (count, 2048)), **options), dim=1)
    return tuple(x.to(device) for x in (features, *ops.knn(features, K1)))


def published(features: torch.Tensor, products: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    return clustering.labels_of_neighbours(features, ranks, k2=K2, eps=EPS, min_samples=MIN_SAMPLES)


def _published_cluster(features: torch.Tensor) -> torch.Tensor:
    return clustering.pseudo_labels(features, eps=EPS, min_samples=MIN_SAMPLES, k1=K1, k2=K2)


def cluster(impl: str, features: torch.Tensor, *neighbors: torch.Tensor) -> torch.Tensor:
    """Labels by the backend ``impl``; given ``neighbors``, everything after their search."""
    options = dict(eps=EPS, min_samples=MIN_SAMPLES, k1=K1, k2=K2, impl=impl)
    return ops.cluster(features, neighbors=neighbors or None, **options)


def _people(device: str, quick: bool) -> tuple[torch.Tensor]:
    return (pedestrians(*((200, 64) if quick else (22258, 2048))).to(device),)


def _one_modality(device: str, quick: bool) -> tuple[torch.Tensor]:
    return (clustered(*((150, 25, 64) if quick else (2000, 25, 2048)), device, seed=1),)


def _labels_case(name: str, count: int, options: dict, what: str) -> Case:
    note = f"{count} features of 2048, {what}: from neighbours (k1 30, k2 6) to labels (eps 0.6, min_samples 4)"
    variants = {"published": published} | {impl: partial(cluster, impl) for impl in ("cpp", "triton")}
    return Case(name, note, partial(searched, count, options), variants, same_labels)


def _labellings(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """The second moves a twentieth of the images to other clusters."""
    count, clusters = (400, 30) if quick else (5000, 350)
    generator = torch.Generator().manual_seed(0)
    labels, drawn = (torch.randint(clusters, (count,), generator=generator) for _ in range(2))
    moved, noise, other_noise = (torch.rand(count, generator=generator) < share for share in (0.05, 0.1, 0.1))
    other = torch.where(moved, drawn, labels).masked_fill(other_noise, -1)
    return labels.masked_fill(noise, -1).to(device), other.to(device)


def _two_cameras(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Images of the same people, half as many in the second, every tenth of either noise."""
    count, width = (300, 64) if quick else (6000, 2048)
    x, labels = clustered(count, 25, width, device, seed=1), torch.arange(count, device=device) // 25
    labels[::10] = -1
    return x, labels, x.flip(0)[::2].contiguous(), labels.flip(0)[::2].contiguous()


CASES = (
    Case(
        "jaccard_graph",
        "2,000 features of 2048 in clusters of 25, k1 30, k2 6, distances up to 0.6 (published: all)",
        _one_modality,
        {
            "reference": partial(ops.jaccard_graph, max_distance=EPS, impl="reference"),
            "published": jaccard.jaccard_distance,
            "cpp": partial(ops.jaccard_graph, max_distance=EPS, impl="cpp"),
            "triton": partial(ops.jaccard_graph, max_distance=EPS, impl="triton"),
        },
        partial(same_graph, max_distance=EPS),
        floor_bytes=lambda x: x.nbytes,
        floor_flops=lambda x: 2 * len(x) * x.numel(),
    ),
    _labels_case("labels-visible", 22258, {}, "clusters and 5 to 10 % noise"),
    _labels_case("labels-infrared", 11909, {}, "clusters and 5 to 10 % noise"),
    _labels_case("labels-hubs", 22258, HUBS, "hubs, more than half noise"),
    Case(
        "label_agreement",
        "5,000 images in two labellings of 350 clusters with a tenth of noise; reference counts all pairs",
        _labellings,
        {impl: partial(ops.label_agreement, impl=impl) for impl in ("reference", "eager")},
        same_labels,
        floor_bytes=lambda labels, other: 2 * labels.nbytes,
    ),
    Case(
        "pair_votes",
        "6,000 and 3,000 images of 2048 in 240 clusters, pairs of cosine 0.3 and more",
        _two_cameras,
        {impl: partial(ops.pair_votes, threshold=0.3, impl=impl) for impl in ("reference", "eager")},
        same_labels,
        floor_flops=lambda x, _, y, __: 2 * len(x) * y.numel(),
    ),
    Case(
        "cluster-visible",
        "22,258 features of 2048, clusters and 5 to 10 % noise: from features (k1 30, k2 6) to labels (eps 0.6, "
        "min_samples 4); the floor is the product of all pairs",
        _people,
        {"published": _published_cluster} | {impl: partial(cluster, impl) for impl in ("cpp", "triton")},
        same_labels,
        floor_bytes=lambda x: x.nbytes,
        floor_flops=lambda x: 2 * len(x) * x.numel(),
    ),
)
