import pytest
import torch

from salcr import ops, reference
from tests.ops.contract import assert_compiles, assert_operator_contract, assert_within_budget
from tests.ops.memories import CPU_BACKENDS, check, contrast_problem, largest_lse, random_sets, unit


def contrast_by_hand(features, memory, targets, temperature):
    """Sample by sample, as the formula reads."""
    losses = []
    for x, t in zip(features, targets, strict=True):
        p = torch.exp(memory @ (x / x.norm()) / temperature)
        losses.append(-torch.log(p[t] / p.sum()) if t >= 0 else torch.zeros((), dtype=x.dtype))
    return torch.stack(losses)


@pytest.mark.parametrize("impl", ["eager", *CPU_BACKENDS])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_contrast_is_the_formula(generator, temperature, impl):
    features, memory, targets = contrast_problem(generator, dtype=torch.float64)
    expected = contrast_by_hand(features, memory, targets, temperature)
    losses = ops.cluster_contrast(features, memory, targets, temperature=temperature, reduction="none", impl=impl)
    torch.testing.assert_close(losses, expected)
    mean = ops.cluster_contrast(features, memory, targets, temperature=temperature, impl=impl)
    torch.testing.assert_close(mean, expected.sum() / (targets >= 0).sum())
    total = ops.cluster_contrast(features, memory, targets, temperature=temperature, reduction="sum", impl=impl)
    torch.testing.assert_close(total, expected.sum())


@pytest.mark.parametrize("impl", ["eager", *CPU_BACKENDS])
def test_contrast_of_parts_is_the_mean_over_parts(generator, impl):
    features, memory, targets = contrast_problem(generator, banks=3)
    targets[1] = -1
    parts = [ops.cluster_contrast(features[p], memory[p], targets[p], impl=impl) for p in range(3)]
    assert parts[1] == 0
    together = ops.cluster_contrast(features, memory, targets, impl=impl)
    torch.testing.assert_close(together, torch.stack(parts).mean())
    shared = ops.cluster_contrast(features, memory, targets[0], impl=impl)
    torch.testing.assert_close(shared, ops.cluster_contrast(features, memory, targets[0].expand(3, -1), impl=impl))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_contrast_error_budget(generator, dtype):
    features, memory, targets = contrast_problem(generator, banks=2, samples=37, classes=50, width=64, dtype=dtype)
    eager = reference.cluster_contrast(features, memory, targets, reduction="none")
    got = ops.cluster_contrast(features, memory, targets, reduction="none")
    exact = reference.cluster_contrast(features.double(), memory.double(), targets, reduction="none")
    assert_within_budget(got, exact, eager, terms=64 + 50, magnitude=2 * largest_lse(50))


@pytest.mark.parametrize("banks", [None, 3])
def test_sum_of_contrasts(generator, banks):
    features, memory, targets = contrast_problem(generator, banks=banks, dtype=torch.float64)
    other, other_targets = contrast_problem(generator, banks=banks, classes=3, dtype=torch.float64)[1:]
    features.requires_grad_()
    together = ops.cluster_contrast_sum(features, (memory, other), (targets, other_targets), temperature=0.1)
    alone = [
        ops.cluster_contrast(features, m, t, temperature=0.1) for m, t in ((memory, targets), (other, other_targets))
    ]
    torch.testing.assert_close(together, alone[0] + alone[1])
    found, expected = (torch.autograd.grad(x, features)[0] for x in (together, alone[0] + alone[1]))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="must be as many"):
        ops.cluster_contrast_sum(features, (memory,), ())
    with pytest.raises(ValueError, match="memory"):
        ops.cluster_contrast_sum(features, (memory, other[..., 1:]), (targets, other_targets))


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_contrast_gradcheck(generator, impl):
    features, memory, targets = contrast_problem(generator, banks=2, samples=4, classes=3, width=5, dtype=torch.float64)
    features.requires_grad_()
    for reduction in ("mean", "sum", "none"):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: ops.cluster_contrast(x, memory, targets, temperature=0.5, reduction=r, impl=impl),
            features,
        )


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_contract(generator, impl):
    features, memory, targets = contrast_problem(generator, banks=2)
    loss, lse = torch.ones(()), torch.full(features.shape[:-1], 20.0)
    assert_operator_contract(
        torch.ops.salcr.cluster_contrast,
        (features, memory, targets, 0.05, "mean", None, None, "float32", impl),
        (features, memory.bfloat16(), targets, 0.05, "mean", None, None, "bfloat16", impl),
        (features[0], memory[0], targets[0], 0.05, "none", None, None, "float32", impl),
    )
    assert_operator_contract(
        torch.ops.salcr.cluster_contrast_backward,
        (loss, features, memory, targets, lse, 0.05, "mean", None, None, "float32", impl),
        (loss, features, memory.bfloat16(), targets, lse, 0.05, "mean", None, None, "bfloat16", impl),
    )


def test_compiles(generator):
    examples = [contrast_problem(generator, samples=n, classes=k) for n, k in ((23, 7), (9, 5))]
    for features, _, _ in examples:
        features.requires_grad_()
    assert_compiles(ops.cluster_contrast, *examples)


def test_one_tensor_in_two_places_compiles(generator):
    """Two memories with the targets of one, or a memory twice: Dynamo alone would refuse a tensor that it has had."""
    features, memory, targets = contrast_problem(generator, samples=9, classes=5)
    features.requires_grad_()

    def contrasts(features):
        return ops.cluster_contrast_sum(features, [memory, memory], [targets, targets])

    torch._dynamo.reset()
    compiled = torch.compile(contrasts, fullgraph=True, backend="eager")
    found = [torch.autograd.grad(function(features), features)[0] for function in (contrasts, compiled)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(features=torch.zeros(0, 19)), ValueError, "features is empty"),
        (dict(features=torch.zeros(23, 18)), ValueError, "memory"),
        (dict(memory=torch.zeros(7, 19, dtype=torch.float64)), TypeError, "memory is torch.float64"),
        (dict(targets=torch.zeros(22, dtype=torch.int64)), ValueError, "targets"),
        (dict(targets=torch.zeros(23)), TypeError, "targets must be int64"),
        (dict(targets=torch.full((23,), 7)), ValueError, r"targets must be in \[-1, 7\)"),
        (dict(impl="numpy"), ValueError, "impl must be one of"),
        (dict(impl="cuda"), ValueError, "has the backends"),
    ],
)
def test_bad_arguments_are_named(generator, change, error, message):
    features, memory, targets = contrast_problem(generator)
    arguments = dict(features=features, memory=memory, targets=targets) | change
    for operator in (ops.cluster_contrast, ops.update_cluster_memory_):
        with pytest.raises(error, match=message):
            operator(**arguments)


def test_bad_options_are_named(generator):
    features, memory, targets = contrast_problem(generator)
    with pytest.raises(ValueError, match="reduction"):
        ops.cluster_contrast(features, memory, targets, reduction="max")
    with pytest.raises(ValueError, match="memory requires a gradient"):
        ops.cluster_contrast(features, memory.requires_grad_(), targets)


GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GPU_SHAPES = [((), 1, 1000, 2048), ((3,), 864, 611, 2048), ((6,), 33, 5, 100)]
GPU_CASES = [(*shape, dtype, ("mean",)) for shape in GPU_SHAPES for dtype in GPU_DTYPES[:2]]
GPU_CASES += [((2,), 131, 257, 384, dtype, ("mean", "sum", "none")) for dtype in GPU_DTYPES]


@pytest.mark.cuda
@pytest.mark.parametrize(("lead", "rows", "columns", "width", "dtype", "reductions"), GPU_CASES)
def test_cluster_contrast_on_a_gpu(generator, lead, rows, columns, width, dtype, reductions):
    """Both half precisions take the same tiles; a reduction does not depend on the shape."""
    features = torch.randn(*lead, rows, width, generator=generator).to("cuda", dtype)
    memory = unit(generator, *lead, columns, width).to("cuda", dtype)
    targets = torch.randint(-1, columns, (*lead, rows), generator=generator).cuda()
    for reduction in reductions:
        check("triton", "cluster_contrast", features, memory, targets, reduction=reduction)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("lead", "rows", "columns", "width", "dtype"),
    [
        *(((), 40, 9001, 2048, dtype) for dtype in GPU_DTYPES[:2]),
        *(((3,), 131, 515, 384, dtype) for dtype in GPU_DTYPES),
    ],
)
def test_set_contrast_on_a_gpu(generator, lead, rows, columns, width, dtype):
    features = torch.randn(*lead, rows, width, generator=generator).to("cuda", dtype)
    memory = unit(generator, *lead, columns, width).to("cuda", dtype)
    positives = random_sets(generator, lead, rows, columns, 30).cuda()
    check("triton", "set_contrast", features, memory, positives)
    _, lse, mean_row = ops.instance_search(features, memory, 30, impl="triton")
    check("triton", "set_contrast", features, memory, positives, lse=lse, mean_row=mean_row)


@pytest.mark.cuda
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


@pytest.mark.cuda
def test_a_cuda_graph_replays(generator):
    features = torch.randn(3, 50, 256, generator=generator).cuda().requires_grad_()
    memory, targets = unit(generator, 3, 70, 256).float().cuda(), torch.arange(50, device="cuda")

    def step():
        indices, lse, mean_row = ops.instance_search(features, memory, 5)
        loss = ops.cluster_contrast(features, memory, targets)
        return torch.autograd.grad(
            loss + ops.set_contrast(features, memory, indices, lse=lse, mean_row=mean_row), features
        )[0]

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
