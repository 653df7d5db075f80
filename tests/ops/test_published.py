"""The published forms compute what the operators compute: else they would be no baseline."""

import numpy as np
import pytest
import torch

from benchmarks.features import clustered
from salcr import ops, reference
from salcr.objectives import associate
from salcr.reference.published import association, clustering, pooling, ranking


def test_published_clustering_gives_the_operators_labels_and_centroids():
    modalities = [clustered(120, 20, 64, "cpu", seed) for seed in (1, 2)]
    for features, (labels, centroids) in zip(
        modalities, clustering.clustering_phase(modalities, eps=0.6, k1=15), strict=True
    ):
        expected = ops.cluster(features, eps=0.6, k1=15)
        assert torch.equal(labels, expected) and labels.max() >= 1
        means = ops.cluster_centroids(features, expected)
        torch.testing.assert_close(centroids, torch.nn.functional.normalize(means))


def test_published_association_gives_the_same_cross_labels():
    visible, infrared = (clustered(count, 20, 256, "cpu", seed) for seed, count in ((1, 140), (2, 100)))
    arguments = visible, torch.arange(140) // 20, infrared, torch.arange(100) // 20
    for found, expected in zip(association.associate(*arguments, k=8), associate(*arguments, k=8), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("parts", [1, 3])
def test_published_pooling_gives_the_same_features(generator, parts):
    x = torch.rand(6, 16, 7, 4, generator=generator, dtype=torch.float64)
    tokens = torch.randn(parts, 16, generator=generator, dtype=torch.float64)
    for found, expected in zip(pooling.semantic_pool(x, tokens), reference.semantic_pool(x, tokens), strict=True):
        torch.testing.assert_close(found, expected)


def test_published_evaluation_averages_trials(rng):
    features, ids, cams = rng.normal(size=(40, 8)), np.arange(40) % 5, 1 + np.arange(40) % 6
    trials = [(np.arange(10), np.arange(10, 25)), (np.arange(10), np.arange(25, 40))]
    cmc, precision, penalty = ranking.evaluate_trials(features, ids, cams, trials, protocol="sysu")
    single = [ranking.evaluate_trials(features, ids, cams, [trial], protocol="sysu") for trial in trials]
    np.testing.assert_allclose(cmc, (single[0][0] + single[1][0]) / 2)
    assert precision == pytest.approx((single[0][1] + single[1][1]) / 2)
    assert penalty == pytest.approx((single[0][2] + single[1][2]) / 2)
