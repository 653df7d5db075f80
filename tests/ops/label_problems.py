"""Images for the kernels from neighbours to labels, and what has to hold: small in the interpreter, large on a GPU."""

import numpy as np
import torch

from salcr import ops, reference
from salcr.ops.backends.triton import jaccard as _triton
from salcr.reference import _reciprocal
from salcr.reference.jaccard import pair_distances, unit_rows
from tests.ops.contract import assert_within_budget

KINDS = ("groups", "duplicates", "equal", "hubs", "noise", "half")


def images(generator, kind, rows, width=16):
    """Groups of about eight; doubled, all equal, with some that are near to all, without groups, or in float16."""
    centres = torch.randn(max(1, rows // 8), width, generator=generator)
    features = centres[torch.randint(0, len(centres), (rows,), generator=generator)]
    features = features + 0.6 * torch.randn(rows, width, generator=generator)
    if kind == "duplicates":
        features[: rows // 2] = features[rows // 2 : 2 * (rows // 2)]
    if kind == "equal":
        features = torch.ones(rows, width)
    if kind == "hubs":
        features[::3] = 1 + 0.3 * torch.randn(len(features[::3]), width, generator=generator)
        features += 1
    if kind == "noise":
        features = torch.randn(rows, width, generator=generator)
    return features.half() if kind == "half" else features


def searched(features, k1):
    """Unit features, and the products and ranks of the reference's search."""
    features = unit_rows(features).contiguous()
    return features, *reference.knn(features, min(k1, len(features)))


def sizes(found, k2):
    """What a backend is told beside the neighbours."""
    k1 = found[2].shape[1]
    return dict(half=min(_reciprocal.half(k1) + 1, k1), k2=min(k2, k1))


def exact_encodings(features, ranks, k2, dtype=torch.float64):
    """The reference's sparse encodings of these ranks."""
    k1, features = ranks.shape[1], features.cpu().to(dtype)
    halved = min(_reciprocal.half(k1) + 1, k1)
    ranks = ranks.cpu().numpy().astype(np.int64)
    return _reciprocal.encode(ranks, k1, halved, lambda i, j: pair_distances(features, features, i, j), min(k2, k1))


def exact_distances(features, ranks, k2, dtype=torch.float64):
    encodings = exact_encodings(features, ranks, k2, dtype)
    distances = torch.from_numpy(_reciprocal.jaccard_distances(encodings, encodings))
    return distances.fill_diagonal_(0).to(dtype)


def check_encodings(features, k1, k2):
    """Rows of the reference's columns and weights, rarest column first; on a GPU the same bits twice."""
    from salcr.kernels.jaccard_encodings import encode

    found = searched(features, k1)
    got, *more = (encode(found[0], found[2].int(), found[1], **sizes(found, k2)) for _ in range(times(features)))
    for again in more:
        assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))
    assert_encodings(got, found, k2)


def times(features):
    """How often the same is asked for: the interpreter runs programs one after the other, always in the same order."""
    return 2 if features.is_cuda else 1


def assert_encodings(got, found, k2):
    exact, eager = (
        exact_encodings(found[0], found[2], k2, dtype).toarray() for dtype in (torch.float64, torch.float32)
    )
    pointers, columns, values, uses = (x.cpu() for x in got)
    rows = torch.arange(len(uses)).repeat_interleave(pointers.diff())
    dense = torch.zeros(exact.shape)
    dense[rows, columns.long()] = values
    assert torch.equal(dense > 0, torch.from_numpy(exact > 0)) and len(values) == (dense > 0).sum()
    assert torch.equal(uses.long(), (dense > 0).sum(0))
    keys = (rows * len(uses) + uses[columns.long()]) * len(uses) + columns
    assert (keys.diff() > 0).all()
    exact, eager = torch.from_numpy(exact), torch.from_numpy(eager).float()
    assert_within_budget(dense, exact, eager, terms=sum(found[0].shape))


def check_graph(features, k1, k2, max_distance):
    """The distances are within the budget of eager PyTorch, the graph is what is near of them, bit for bit.

    Returns the graph.
    """
    found = searched(features, k1)
    distances = _triton.jaccard_distance(*found, **sizes(found, k2))
    assert_distances(distances, found, k2)
    assert torch.equal(distances, distances.T) and not distances.diagonal().any()
    near = distances <= torch.tensor(max_distance)
    for _ in range(times(features)):
        graph = _triton.jaccard_graph(*found, **sizes(found, k2), max_distance=float(np.float32(max_distance)))
        assert graph.layout == torch.sparse_csr and graph.device == features.device
        assert torch.equal(graph.crow_indices().diff(), near.sum(1))
        assert torch.equal(graph.col_indices(), near.nonzero()[:, 1])
        assert torch.equal(graph.values(), distances[near])
    return graph


def assert_distances(got, found, k2):
    exact, eager = (exact_distances(found[0], found[2], k2, dtype) for dtype in (torch.float64, torch.float32))
    assert_within_budget(got.cpu(), exact, eager, terms=sum(found[0].shape))


def check_labels(features, k1, k2, eps=0.6, min_samples=4):
    """From neighbours to labels: scikit-learn's on the reference's dense distances. Returns them."""
    found = searched(features, k1)
    distances = exact_distances(found[0], found[2], k2, torch.float32)
    while ((distances - eps).abs() <= 1e-5).any():  # a pair on the edge may fall on either side
        eps += 3e-5
    graph = _triton.jaccard_graph(*found, **sizes(found, k2), max_distance=float(np.float32(eps)))
    expected = scikit_learn(distances, eps, min_samples)
    for same in (graph, distances.to(features.device)):
        got = ops.dbscan(same, eps=eps, min_samples=min_samples, impl="triton")
        assert got.device == features.device and torch.equal(got.cpu(), expected)
    return expected


def scikit_learn(distances, eps, min_samples=4):
    """Its labels on dense distances, compared in float32 as ours are."""
    from sklearn.cluster import DBSCAN

    model = DBSCAN(eps=np.float32(eps), min_samples=min_samples, metric="precomputed")
    return torch.from_numpy(model.fit_predict(distances.numpy()))
