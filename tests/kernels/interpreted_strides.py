"""Arguments whose elements lie in another order, under the interpreter; run by test_interpreter.py.

Kernels walk contiguous arrays: whoever calls them copies what is none.
"""

import pytest
import torch

from salcr import ops
from tests.kernels.interpreted_races import ROWS
from tests.ops.test_cuda import TABLE, evaluate, flatten, make


def turned(x):
    """The same numbers, of which the first axis is the innermost in memory."""
    if isinstance(x, tuple):
        return tuple(map(turned, x))
    return x.mT.contiguous().mT if isinstance(x, torch.Tensor) and x.layout == torch.strided and x.ndim > 1 else x


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_arguments_may_be_transposed(generator, monkeypatch, name, row):
    arguments, options = make(TABLE[name][row], generator)
    monkeypatch.setattr("tests.ops.test_cuda.move", lambda x, *_: x)
    run = lambda *given, **named: getattr(ops, name)(*given, impl="triton", **named)  # noqa: E731
    copies = [[x.clone() if isinstance(x, torch.Tensor) else x for x in arguments] for _ in range(2)]
    expected = evaluate(run, TABLE[name][row], copies[0], options, "cpu", torch.float32)
    others = [turned(x) for x in copies[1]], {key: turned(x) for key, x in options.items()}
    for x, y in zip(evaluate(run, TABLE[name][row], *others, "cpu", torch.float32), expected, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, row in ROWS if TABLE[name][row].gradients])
def test_gradients_may_be_transposed(generator, name, row):
    """As of a product with the result's transpose."""
    arguments, options = make(TABLE[name][row], generator)
    leaves = [arguments[n].requires_grad_() for n in TABLE[name][row].gradients]
    results = [x for x in flatten(getattr(ops, name)(*arguments, **options, impl="triton")) if x.requires_grad]
    gradients = [torch.randn(x.shape, generator=generator) for x in results]
    expected = torch.autograd.grad(results, leaves, gradients, retain_graph=True)
    for x, y in zip(torch.autograd.grad(results, leaves, list(map(turned, gradients))), expected, strict=True):
        assert torch.equal(x, y)


def test_neighbours_may_be_transposed(generator):
    features = TABLE["jaccard_distance"][0].arguments[0](generator)
    options = dict(k1=10, k2=3, impl="triton")
    found = ops.knn(features, 10)
    expected = ops.jaccard_distance(features, **options, neighbors=found)
    assert torch.equal(ops.jaccard_distance(features, **options, neighbors=turned(found)), expected)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.parametrize("strided", range(3))
def test_parts_of_a_sparse_matrix_may_be_strided(generator, strided):
    graph = TABLE["dbscan"][1].arguments[0](generator)
    parts = [graph.crow_indices(), graph.col_indices(), graph.values()]
    parts[strided] = torch.stack([parts[strided], 0 * parts[strided]], 1)[:, 0]
    same = torch.sparse_csr_tensor(*parts, size=graph.shape, check_invariants=False)
    assert torch.equal(ops.dbscan(same, eps=0.5, impl="triton"), ops.dbscan(graph, eps=0.5, impl="triton"))
