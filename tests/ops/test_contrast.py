"""The kernels of :mod:`salcr.kernels.contrast` on a GPU; the same without one: tests/kernels."""

import pytest
import torch

from salcr import ops
from tests.ops.memories import check, random_sets, unit

pytestmark = pytest.mark.cuda
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [((), 1, 1000, 2048), ((3,), 864, 611, 2048), ((2,), 131, 257, 384), ((6,), 33, 5, 100)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("lead", "rows", "columns", "width"), SHAPES)
def test_cluster_contrast(generator, lead, rows, columns, width, dtype):
    features = torch.randn(*lead, rows, width, generator=generator).to("cuda", dtype)
    memory = unit(generator, *lead, columns, width).to("cuda", dtype)
    targets = torch.randint(-1, columns, (*lead, rows), generator=generator).cuda()
    for reduction in ("mean", "sum", "none"):
        check("triton", "cluster_contrast", features, memory, targets, reduction=reduction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("lead", "rows", "columns", "width"), [((), 40, 9001, 2048), ((3,), 131, 515, 384)])
def test_set_contrast(generator, lead, rows, columns, width, dtype):
    features = torch.randn(*lead, rows, width, generator=generator).to("cuda", dtype)
    memory = unit(generator, *lead, columns, width).to("cuda", dtype)
    positives = random_sets(generator, lead, rows, columns, 30).cuda()
    check("triton", "set_contrast", features, memory, positives)
    _, lse, pull = ops.instance_search(features, memory, 30, impl="triton")
    check("triton", "set_contrast", features, memory, positives, lse=lse, pull=pull)


def test_an_index_beyond_32_bits(generator):
    """1.1 million rows of 2048: row offsets pass 2³¹ elements. 4.5 GB in bfloat16."""
    memory = torch.zeros(1_100_000, 2048, device="cuda", dtype=torch.bfloat16)
    memory[:, 0] = 1
    memory[-1] = torch.eye(2048)[1]
    features = torch.eye(2048, device="cuda", dtype=torch.bfloat16)[1:2].requires_grad_()
    loss = ops.set_contrast(features, memory, torch.tensor([[1_099_999]], device="cuda"), impl="triton")
    loss.backward()
    expected = torch.log1p((torch.tensor(1_099_999.0).log() - 20).exp())
    torch.testing.assert_close(loss.cpu().float(), expected, rtol=0.01, atol=0)
    assert torch.isfinite(features.grad).all() and features.grad[0, 0] > 0


def test_a_cuda_graph_replays(generator):
    features = torch.randn(3, 50, 256, generator=generator).cuda().requires_grad_()
    memory, targets = unit(generator, 3, 70, 256).float().cuda(), torch.arange(50, device="cuda")

    def step():
        indices, lse, pull = ops.instance_search(features, memory, 5)
        loss = ops.cluster_contrast(features, memory, targets)
        return torch.autograd.grad(loss + ops.set_contrast(features, memory, indices, lse=lse, pull=pull), features)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    assert torch.equal(got, expected)
