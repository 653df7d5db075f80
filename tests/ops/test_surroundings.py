"""Operators do the same whatever a program has set around them: autocast, the default dtype, the default device.

Only products of contrasts and searches follow autocast, see test_precision.py.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from salcr import ops
from salcr.objectives import associate
from salcr.objectives.fgsal import random_orders
from salcr.ops._register import reference_gradient
from tests.ops.label_problems import images
from tests.surroundings import SURROUNDINGS

ROWS, OTHERS = (torch.randn(n, 5, generator=torch.Generator().manual_seed(n)) for n in (8, 9))
DISTANCES = torch.cdist(ROWS, ROWS)
LABELS, OTHER_LABELS = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0]), torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, -1])
IMAGES = torch.randn(54, 5, generator=torch.Generator().manual_seed(2))  # whose labels bfloat16 changes
NUMBERS = torch.arange(30) % 10, torch.arange(24) % 8
PIXELS = torch.arange(2 * 6 * 5 * 3, dtype=torch.uint8).view(2, 6, 5, 3)

CALLS = {
    "affinity_inference": lambda: ops.affinity_inference(ROWS, OTHERS, k2=2),
    "associate": lambda: associate(IMAGES[:30], NUMBERS[0], IMAGES[30:], NUMBERS[1]),
    "augment": lambda: ops.augment(PIXELS),
    "bidirectional_assignment": lambda: ops.bidirectional_assignment(DISTANCES),
    "cluster": lambda: ops.cluster(ROWS, eps=0.7, k1=3, k2=2),
    "cluster_centroids": lambda: ops.cluster_centroids(ROWS, LABELS),
    "dbscan": lambda: ops.dbscan(DISTANCES, eps=2.0, min_samples=2),
    "evaluate_ranking": lambda: torch.from_numpy(ops.evaluate_ranking(DISTANCES, LABELS, LABELS, LABELS, LABELS).cmc),
    "instance_neighbors": lambda: ops.instance_neighbors(ROWS, OTHERS, 2),
    "jaccard_distance": lambda: ops.jaccard_distance(ROWS, k1=3, k2=2),
    "jaccard_graph": lambda: ops.jaccard_graph(ROWS, k1=3, k2=2, max_distance=0.8).to_dense(),
    "knn": lambda: ops.knn(ROWS, 3, database=OTHERS),
    "label_agreement": lambda: ops.label_agreement(LABELS, LABELS.flip(0)),
    "linear_assignment": lambda: ops.linear_assignment(DISTANCES, return_duals=True),
    "pair_votes": lambda: ops.pair_votes(ROWS, LABELS, ROWS, LABELS, 1 - 1e-5),  # of each row one pair, with itself
    "progressive_matching": lambda: ops.progressive_matching(DISTANCES[:3]),
    "propagate_features": lambda: ops.propagate_features(ROWS, OTHERS, k=2),
    "random_orders": lambda: random_orders((3, 4), torch.Generator("cpu").manual_seed(0)),
    "rerank_cross_modality": lambda: ops.rerank_cross_modality(ROWS, OTHERS, k=3),
    "rerank_distances": lambda: ops.rerank_distances(DISTANCES, DISTANCES, DISTANCES, k1=3, k2=2),
    "rerank_gnn": lambda: ops.rerank_gnn(ROWS, OTHERS, k1=3, k2=2),
    "rerank_k_reciprocal": lambda: ops.rerank_k_reciprocal(ROWS, OTHERS, k1=3, k2=2),
    "sinkhorn": lambda: ops.sinkhorn(DISTANCES),
    "unite_sets": lambda: ops.unite_sets(LABELS[:3], LABELS[:3]),
    "update_cluster_memory_": lambda: ops.update_cluster_memory_(ROWS.clone(), OTHERS, OTHER_LABELS),
}


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("name", CALLS)
def test_the_same_within(name, surroundings):
    for backend in ("auto", "eager", "reference"):
        with ops.use_backend(backend):
            expected = CALLS[name]()
            with SURROUNDINGS[surroundings]():
                got = CALLS[name]()
        torch.testing.assert_close(got, expected, rtol=0, atol=0, msg=lambda why, of=backend: f"{of}: {why}")


EXACT = dict(precision="float32", impl="reference")
LOSSES = {
    "cluster_contrast": lambda x: ops.cluster_contrast(x, OTHERS, LABELS, **EXACT),
    "set_contrast": lambda x: ops.set_contrast(x, OTHERS, LABELS[:, None], **EXACT),
    "part_prototypes": lambda x: ops.part_prototypes(x.view(1, 1, 8, 5), torch.ones(2, 1), impl="reference").prod(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_gradient_that_is_recorded_under_autocast_is_not_rounded(name):
    x = ROWS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(LOSSES[name](x), x, create_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (got,) = torch.autograd.grad(LOSSES[name](x), x, create_graph=True)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_a_dispatch_mode_sees_an_operator_that_has_no_gradient():
    """Which otherwise calls its implementation itself."""
    seen = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.name())
            return function(*args, **(kwargs or {}))

    expected = ops.linear_assignment(DISTANCES)
    with Watching():
        got = ops.linear_assignment(DISTANCES)
    assert "salcr::linear_assignment" in seen and all(map(torch.equal, got, expected))


def test_what_a_mode_has_switched_off_is_off_again_after_a_gradient():
    x, key = ROWS.clone(), torch._C.DispatchKey.AutogradFunctionality
    torch._C._dispatch_tls_set_dispatch_key_excluded(key, True)
    try:
        (gradient,) = reference_gradient(lambda leaf: (leaf.square(),), [x], (torch.ones_like(x),))
        assert torch._C._dispatch_tls_is_dispatch_key_excluded(key)
    finally:
        torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
    assert torch.equal(gradient, 2 * x)


def test_in_a_compiled_function_sparse_distances_are_clustered_outside_of_the_graph(generator):
    """Dynamo leaves a function alone that has a sparse matrix, but follows what it calls with a view of one."""
    features = images(generator, "groups", 40)

    def label(features):
        return ops.dbscan(ops.jaccard_graph(features, k1=8, k2=3, max_distance=0.6), eps=0.6)

    assert torch.equal(torch.compile(label, backend="eager")(features), label(features))
