import logging
import math
import re

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN

from salcr import ops
from salcr.engine.config import Clustering
from salcr.engine.pseudo_labels import ClusteringError, commonest_identities, label_metrics, pseudo_labels

SETTINGS = Clustering(k1=8, k2=3, eps=0.6, min_samples=4)
STRICT = Clustering(k1=8, k2=1, eps=0.2, min_samples=4)


def groups(generator, sizes, spread=0.02, width=16):
    centres = torch.eye(width)[: len(sizes)]
    return torch.cat(
        [c + spread * torch.randn(n, width, generator=generator) for c, n in zip(centres, sizes, strict=True)]
    )


def single(generator):
    return groups(generator, [9])


def scattered(generator):
    return torch.nn.functional.normalize(torch.randn(40, 64, generator=generator))


def pairs_by_hand(labels, identities):
    """Rand index corrected for chance, over pairs; normalised mutual information, with the mean of the entropies."""
    n = len(labels)
    both = same_l = same_i = 0
    for a in range(n):
        for b in range(a):
            both += labels[a] == labels[b] and identities[a] == identities[b]
            same_l += labels[a] == labels[b]
            same_i += identities[a] == identities[b]
    expected = same_l * same_i / (n * (n - 1) / 2)
    ari = (both - expected) / ((same_l + same_i) / 2 - expected)

    def entropy(values):
        return -sum(values.count(v) / n * math.log(values.count(v) / n) for v in set(values))

    joint = list(zip(labels, identities, strict=True))
    h_l, h_i = entropy(labels), entropy(identities)
    return ari, 2 * (h_l + h_i - entropy(joint)) / (h_l + h_i)


def labels_of(name, features, settings, previous):
    (labels,) = pseudo_labels({name: features}, settings, None if previous is None else [previous])
    return labels


def test_labels_are_dbscan_on_jaccard_distances(generator):
    features = groups(generator, [9, 7, 12, 1, 1])
    expected = DBSCAN(eps=0.6, min_samples=4, metric="precomputed").fit_predict(
        ops.jaccard_distance(features, k1=8, k2=3).double().numpy()
    )
    labels = labels_of("visible", features, SETTINGS, None)
    assert labels.dtype == torch.int64
    assert labels.tolist() == expected.tolist()
    assert labels.max() >= 2
    again = labels_of("visible", features, SETTINGS, torch.zeros(30, dtype=torch.int64))
    assert torch.equal(again, labels)  # what was before does not matter where clustering works


def test_two_clusters_are_enough(generator):
    assert labels_of("visible", groups(generator, [6, 6]), SETTINGS, None).max() == 1


@pytest.mark.parametrize(
    ("make", "settings", "found"),
    [
        (single, SETTINGS, 1),
        (lambda g: torch.ones(9, 16), SETTINGS, 1),
        (scattered, STRICT, 0),
        (single, Clustering(k1=8, k2=3, min_samples=10), 0),
        (lambda g: torch.ones(1, 16), SETTINGS, 0),
        (scattered, Clustering(k1=8, k2=1, eps=0.01), 0),
    ],
    ids=["one", "one of equal images", "noise", "few samples", "one image", "small eps"],
)
def test_too_few_clusters(generator, caplog, make, settings, found):
    features = make(generator)
    with pytest.raises(ClusteringError) as caught:
        labels_of("infrared", features, settings, None)
    message = str(caught.value)
    assert message.startswith(
        f"clusters of at least {settings.min_samples} infrared images at eps {settings.eps}: {found}"
    )
    assert message.endswith("smaller clustering.eps or clustering.k1 makes more" if found else "min_samples makes more")
    levels = re.findall(r"(\d+)%: ([\d.]+)", message)
    assert [int(level) for level, _ in levels] == [5, 25, 50, 75, 95]
    values = [float(value) for _, value in levels]
    assert values == sorted(values) and values[0] >= 0 and values[-1] <= 1
    assert "\n" not in message

    previous = torch.arange(len(features)) % 3 - 1
    with caplog.at_level(logging.WARNING, logger="salcr"):
        kept = labels_of("infrared", features, settings, previous)
    assert torch.equal(kept, previous)
    (record,) = caplog.records
    assert f"infrared clusters at eps {settings.eps:g}: {found}, keeping" in record.getMessage()


def test_the_quantiles_are_those_of_the_distances(generator):
    features = scattered(generator)
    distances = ops.jaccard_distance(features, k1=8, k2=1).numpy()
    near = distances[(distances > 0) & (distances <= 0.999)]
    with pytest.raises(ClusteringError) as caught:
        labels_of("visible", features, STRICT, None)
    for level, value in re.findall(r"(\d+)%: ([\d.]+)", str(caught.value)):
        assert float(value) == pytest.approx(np.quantile(near, int(level) / 100), abs=1e-3)


def test_each_modality_has_its_own(generator, caplog):
    """What is too few in one leaves the other's alone."""
    enough, few = groups(generator, [6, 9]), single(generator)
    before = torch.arange(15) % 3 - 1, torch.arange(9) % 3 - 1
    visible, infrared = pseudo_labels({"visible": enough, "infrared": few}, SETTINGS, before)
    assert torch.equal(visible, labels_of("visible", enough, SETTINGS, None)) and torch.equal(infrared, before[1])
    with pytest.raises(ClusteringError, match=r"clusters of at least 4 infrared images at eps 0\.6: 1, "):
        pseudo_labels({"visible": enough, "infrared": few}, SETTINGS, None)


def test_label_metrics_by_hand():
    labels, identities = [0, 0, 1, 1, 1, -1, 2, -1], np.array([5, 5, 5, 9, 9, 9, 7, 5])
    kept = [0, 1, 2, 3, 4, 6]
    ari, nmi = pairs_by_hand([labels[i] for i in kept], identities[kept].tolist())
    metrics = label_metrics(torch.tensor(labels), identities)
    assert metrics == {"clusters": 3, "noise": 0.25, "ari": round(ari, 4), "nmi": round(nmi, 4)}
    # Six images kept: 4 pairs share a cluster, 4 an identity, 2 both, of 15.
    assert metrics["ari"] == round((2 - 16 / 15) / (4 - 16 / 15), 4)


def test_label_metrics_do_not_care_for_numbers():
    identities = np.array([30, 30, 10, 10, 20])
    assert label_metrics(torch.tensor([1, 1, 2, 2, 0]), identities) == {
        "clusters": 3,
        "noise": 0.0,
        "ari": 1.0,
        "nmi": 1.0,
    }
    one = label_metrics(torch.zeros(5, dtype=torch.int64), identities)
    assert (one["clusters"], one["ari"], one["nmi"]) == (1, 0.0, 0.0)


def test_unknown_identities_are_in_no_comparison():
    labels, identities = [0, 0, 1, 1, 1, -1, 2, -1, 2, 0], np.array([5, 5, 5, 9, 9, 9, 7, 5, -1, -1])
    metrics = label_metrics(torch.tensor(labels), identities)
    assert metrics == label_metrics(torch.tensor(labels[:8]), identities[:8]) | {"noise": 0.2}
    assert label_metrics(torch.tensor(labels), np.full(10, -1)) == {"clusters": 3, "noise": 0.2}
    only_noise = np.where(np.array(labels) < 0, identities, -1)
    assert label_metrics(torch.tensor(labels), only_noise) == {"clusters": 3, "noise": 0.2}
    assert commonest_identities(np.array([0, 0, 0, 1, 1, -1]), np.array([-1, -1, 6, -1, -1, 4])).tolist() == [6, -1]


def test_commonest_identities_by_hand():
    labels = np.array([0, 0, 0, 2, 2, -1, -1, -1, 3, 3, 3])
    identities = np.array([4, 8, 8, 9, 3, 7, 7, 7, 1, 1, 2])
    assert commonest_identities(labels, identities).tolist() == [8, -1, 3, 1]  # a tie: the smaller; 1 has no image
