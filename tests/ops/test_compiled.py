"""Every public operator inside torch.compile: one opaque node of the graph, but for two that end it."""

import pytest
import torch

from salcr import ops
from tests.ops.contract import assert_compiles, assert_operator_contract
from tests.ops.test_cuda import OPERATORS, TABLE, evaluate, make

END_THE_GRAPH = {
    "evaluate_ranking": "Attempted to call function marked as skipped",
    "jaccard_graph": "PyTorch compiles and exports no sparse matrix",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_it_compiles_whole_or_ends_the_graph(generator, name):
    row = TABLE[name][0]
    made = make(row, generator)
    operator, whole = getattr(ops, name), name not in END_THE_GRAPH
    expected = evaluate(operator, row, *made, "cpu", torch.float32)
    torch._dynamo.reset()
    if not whole:
        with pytest.raises(torch._dynamo.exc.Unsupported, match=END_THE_GRAPH[name]):
            evaluate(torch.compile(operator, fullgraph=True, backend="eager"), row, *made, "cpu", torch.float32)
        torch._dynamo.reset()
    found = evaluate(torch.compile(operator, fullgraph=whole, backend="eager"), row, *made, "cpu", torch.float32)
    assert all(map(torch.equal, found, expected)) and len(found) == len(expected)


def labels_of(x, count=4):
    return torch.arange(len(x)) % (count + 1) - 1


def costs(x):
    return x.square() @ x.square().mT[:, :7]


REGISTERED = {  # the function and, for opcheck, the operator's own arguments
    "affinity_inference": (lambda x: ops.affinity_inference(x[:5], x), lambda x: (x[:5], x, 4, 1)),
    "bidirectional_assignment": (lambda x: ops.bidirectional_assignment(costs(x)), lambda x: (costs(x),)),
    "cluster_centroids": (
        lambda x: ops.cluster_centroids(x, labels_of(x)),
        lambda x: (x, labels_of(x), None),
    ),
    "dbscan": (lambda x: ops.dbscan(torch.cdist(x, x), eps=2.0), lambda x: (torch.cdist(x, x), 2.0, 4)),
    "label_agreement": (
        lambda x: ops.label_agreement(labels_of(x), labels_of(x, 3)),
        lambda x: (labels_of(x), labels_of(x, 3)),
    ),
    "pair_votes": (
        lambda x: ops.pair_votes(x, labels_of(x), x[:7], labels_of(x[:7], 3), 0.5),
        lambda x: (x, labels_of(x), x[:7], labels_of(x[:7], 3), 0.5),
    ),
    "progressive_matching": (lambda x: ops.progressive_matching(costs(x)), lambda x: (costs(x),)),
    "rerank_cross_modality": (lambda x: ops.rerank_cross_modality(x[:5], x, k=6), lambda x: (x[:5], x, 6, 0.1)),
    "rerank_distances": (
        lambda x: ops.rerank_distances(torch.cdist(x[:5], x), torch.cdist(x[:5], x[:5]), torch.cdist(x, x), k1=6),
        lambda x: (torch.cdist(x[:5], x), torch.cdist(x[:5], x[:5]), torch.cdist(x, x), 6, 3, 0.3, 2.0),
    ),
    "rerank_gnn": (lambda x: ops.rerank_gnn(x[:5], x, k1=8, k2=3), lambda x: (x[:5], x, 8, 3, 2.0)),
    "rerank_k_reciprocal": (
        lambda x: ops.rerank_k_reciprocal(x[:5].half(), x.half(), k1=6),
        lambda x: (x[:5].half(), x.half(), 6, 3, 0.3, 2.0),
    ),
}


@pytest.mark.parametrize("name", REGISTERED)
def test_one_graph_serves_any_number_of_rows(generator, name):
    function, arguments = REGISTERED[name]
    examples = [torch.randn(count, 6, generator=generator) for count in (20, 27)]
    assert_compiles(function, *([x] for x in examples))
    assert_operator_contract(getattr(torch.ops.salcr, name).default, (*arguments(examples[0]), "auto"))
