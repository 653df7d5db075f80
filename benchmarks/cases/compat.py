"""What :mod:`salcr.compat` replaces, called as published code calls it, beside straightforward published forms."""

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from benchmarks.features import clustered
from salcr import compat
from salcr.reference.published import jaccard, reranking
from salcr.reference.published.cluster_memory import cluster_memory_loss

EPS, MIN_SAMPLES, K1, K2 = 0.6, 4, 20, 6


def _people(device: str, quick: bool) -> tuple[torch.Tensor]:
    return (F.normalize(clustered(*((150, 15, 64) if quick else (5000, 25, 2048)), device, seed=1), dim=1),)


def _published_labels(features: torch.Tensor) -> np.ndarray:
    from sklearn import cluster

    distances = jaccard.jaccard_distance(features, k1=K1, k2=K2).cpu().numpy()
    return cluster.DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed", n_jobs=-1).fit_predict(distances)


def _labels(max_distance: float | None):
    def run(features: torch.Tensor) -> np.ndarray:
        distances = compat.compute_jaccard_distance(features, k1=K1, k2=K2, max_distance=max_distance)
        return compat.DBSCAN(EPS, MIN_SAMPLES, metric="precomputed", n_jobs=-1).fit_predict(distances)

    return run


def _same_labels(outputs: np.ndarray, expected: np.ndarray) -> None:
    assert np.array_equal(outputs, expected), f"{(outputs != expected).sum()} labels differ"


def _distances(device: str, quick: bool) -> tuple[np.ndarray, ...]:
    """Euclidean, of queries and gallery, among either."""
    x = F.normalize(clustered(*((120, 12, 64) if quick else (4000, 40, 512)), "cpu", seed=2), dim=1)
    queries = len(x) // 4
    distances = torch.cdist(x, x).numpy()
    return distances[:queries, queries:], distances[:queries, :queries], distances[queries:, queries:]


def _same_distances(outputs: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def _memory_batch(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    batch, clusters, width = (16, 10, 32) if quick else (256, 700, 2048)
    generator = torch.Generator().manual_seed(0)
    inputs, rows = (torch.randn(n, width, generator=generator) for n in (batch, clusters))
    targets = torch.randint(0, clusters // 10, (batch,), generator=generator)
    return tuple(x.to(device) for x in (inputs, F.normalize(rows, dim=1), targets))


def _memory_step(inputs: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    memory = compat.ClusterMemory(rows.shape[1], len(rows))
    memory.features = rows
    return _step(memory, inputs, targets), rows


def _published_step(inputs: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return _step(lambda x, y: cluster_memory_loss(rows, x, y), inputs, targets), rows


def _step(loss, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The gradient of the inputs; the rows have moved then."""
    inputs.requires_grad_()
    return torch.autograd.grad(loss(inputs, targets), inputs)[0]


CASES = (
    Case(
        "compat-pseudo_labels",
        "5,000 features of 2048: compute_jaccard_distance (k1 20, k2 6) and DBSCAN (eps 0.6, min_samples 4)",
        _people,
        {"published": _published_labels, "dense": _labels(None), "sparse": _labels(EPS)},
        _same_labels,
    ),
    Case(
        "compat-re_ranking",
        "1,000 queries against 3,000 gallery images, from their distances (k1 20, k2 6)",
        _distances,
        {"published": reranking.rerank_distances, "reference": compat.re_ranking},
        _same_distances,
    ),
    Case(
        "compat-cluster_memory",
        "256 features of 2048 against 700 rows, 70 classes: loss, gradient and update of the memory",
        _memory_batch,
        {"published": _published_step, "auto": _memory_step},
        close,
    ),
)
