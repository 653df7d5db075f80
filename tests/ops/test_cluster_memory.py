import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from salcr.ops._dispatch import missing
from tests.ops.contract import assert_compiles, assert_operator_contract, assert_within_budget
from tests.ops.memories import CPU_BACKENDS, check, largest_lse, random_sets, unit


def problem(generator, banks=None, samples=23, classes=7, width=19, dtype=torch.float32):
    lead = () if banks is None else (banks,)
    features = torch.randn(*lead, samples, width, generator=generator, dtype=torch.float64).to(dtype)
    memory = F.normalize(torch.randn(*lead, classes, width, generator=generator, dtype=torch.float64), dim=-1).to(dtype)
    targets = torch.randint(-1, classes, (*lead, samples), generator=generator)
    return features, memory, targets


def contrast_by_hand(features, memory, targets, temperature):
    """Sample by sample, as the formula reads."""
    losses = []
    for x, t in zip(features, targets, strict=True):
        p = torch.exp(memory @ (x / x.norm()) / temperature)
        losses.append(-torch.log(p[t] / p.sum()) if t >= 0 else torch.zeros((), dtype=x.dtype))
    return torch.stack(losses)


def update_by_hand(memory, features, targets, momentum, order=None):
    memory = memory.clone()
    for b in range(len(features)) if order is None else order.tolist():
        if targets[b] >= 0:
            row = momentum * memory[targets[b]] + (1 - momentum) * features[b] / features[b].norm()
            memory[targets[b]] = row / row.norm()
    return memory


@pytest.mark.parametrize("impl", ["eager", *CPU_BACKENDS])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_contrast_is_the_formula(generator, temperature, impl):
    features, memory, targets = problem(generator, dtype=torch.float64)
    expected = contrast_by_hand(features, memory, targets, temperature)
    losses = ops.cluster_contrast(features, memory, targets, temperature=temperature, reduction="none", impl=impl)
    torch.testing.assert_close(losses, expected)
    mean = ops.cluster_contrast(features, memory, targets, temperature=temperature, impl=impl)
    torch.testing.assert_close(mean, expected.sum() / (targets >= 0).sum())
    total = ops.cluster_contrast(features, memory, targets, temperature=temperature, reduction="sum", impl=impl)
    torch.testing.assert_close(total, expected.sum())


@pytest.mark.parametrize("impl", ["eager", *CPU_BACKENDS])
def test_contrast_of_parts_is_the_mean_over_parts(generator, impl):
    features, memory, targets = problem(generator, banks=3)
    targets[1] = -1
    parts = [ops.cluster_contrast(features[p], memory[p], targets[p], impl=impl) for p in range(3)]
    assert parts[1] == 0
    together = ops.cluster_contrast(features, memory, targets, impl=impl)
    torch.testing.assert_close(together, torch.stack(parts).mean())
    shared = ops.cluster_contrast(features, memory, targets[0], impl=impl)
    torch.testing.assert_close(shared, ops.cluster_contrast(features, memory, targets[0].expand(3, -1), impl=impl))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_contrast_error_budget(generator, dtype):
    features, memory, targets = problem(generator, banks=2, samples=37, classes=50, width=64, dtype=dtype)
    eager = reference.cluster_contrast(features, memory, targets, reduction="none")
    got = ops.cluster_contrast(features, memory, targets, reduction="none")
    exact = reference.cluster_contrast(features.double(), memory.double(), targets, reduction="none")
    assert_within_budget(got, exact, eager, terms=64 + 50, magnitude=2 * largest_lse(50))


@pytest.mark.parametrize("case", ["all ignored", "one class", "one sample", "zero feature"])
def test_contrast_edge_cases_are_finite(generator, case):
    features, memory, targets = problem(generator, classes=1 if case == "one class" else 7)
    if case == "all ignored":
        targets = torch.full_like(targets, -1)
    if case == "one sample":
        features, targets = features[:1], targets[:1].clamp_min(0)
    if case == "zero feature":
        features[0] = 0
    features.requires_grad_()
    loss = ops.cluster_contrast(features, memory, targets)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()
    if case in ("all ignored", "one class"):
        assert loss == 0 and not features.grad.any()


@pytest.mark.parametrize("banks", [None, 3])
def test_sum_of_contrasts(generator, banks):
    features, memory, targets = problem(generator, banks=banks, dtype=torch.float64)
    other, other_targets = problem(generator, banks=banks, classes=3, dtype=torch.float64)[1:]
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
    features, memory, targets = problem(generator, banks=2, samples=4, classes=3, width=5, dtype=torch.float64)
    features.requires_grad_()
    for reduction in ("mean", "sum", "none"):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: ops.cluster_contrast(x, memory, targets, temperature=0.5, reduction=r, impl=impl),
            features,
        )


@pytest.mark.parametrize("impl", CPU_BACKENDS)
@pytest.mark.parametrize("banks", [None, 1, 4])
def test_update_is_sequential(generator, impl, banks):
    features, memory, targets = problem(generator, banks=banks, samples=40, classes=5, dtype=torch.float64)
    order = torch.randperm(40, generator=generator)
    for permutation in (None, order):
        got = memory.clone()
        returned = ops.update_cluster_memory_(got, features, targets, order=permutation, impl=impl)
        assert returned is got
        if banks is None:
            expected = update_by_hand(memory, features, targets, 0.1, permutation)
        else:
            expected = torch.stack(
                [update_by_hand(memory[p], features[p], targets[p], 0.1, permutation) for p in range(banks)]
            )
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_update_error_budget(generator, impl):
    features, memory, targets = problem(generator, banks=2, samples=200, classes=3, width=129)
    exact, eager, got = memory.double(), memory.clone(), memory.clone()
    reference.update_cluster_memory_(exact, features.double(), targets)
    reference.update_cluster_memory_(eager, features, targets)
    ops.update_cluster_memory_(got, features, targets, impl=impl)
    assert_within_budget(got, exact, eager, terms=129 + 200)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_update_of_a_strided_memory_and_ignored_rows(generator, impl):
    features, memory, targets = problem(generator)
    wide = torch.full((memory.shape[0], 2 * memory.shape[1]), 3.0)
    wide[:, ::2] = memory
    view = wide[:, ::2]
    ops.update_cluster_memory_(view, features, targets, impl=impl)
    torch.testing.assert_close(view, update_by_hand(memory, features, targets, 0.1))
    assert (wide[:, 1::2] == 3).all()
    before = memory.clone()
    ops.update_cluster_memory_(memory, features, torch.full_like(targets, -1), impl=impl)
    assert torch.equal(memory, before)


OVERLAPS = {
    "its first rows": lambda memory, flat: (memory, memory[:3]),
    "itself": lambda memory, flat: (memory, memory),
    "every other column": lambda memory, flat: (flat.view(6, 8)[:, ::2], flat.view(6, 8)[:, 2:6]),
    "the end of its last row": lambda memory, flat: (memory[:, :4], flat[23:43].view(5, 4)),
    "a transposed view": lambda memory, flat: (flat[:36].view(6, 6), flat[:36].view(6, 6).mT),
    "one of its parts": lambda memory, flat: (flat.view(2, 6, 4), flat.view(2, 6, 4)[:, :3]),
}


@pytest.mark.parametrize("impl", ["eager", *CPU_BACKENDS])
@pytest.mark.parametrize("what", OVERLAPS)
def test_an_update_with_elements_of_the_memory_is_refused(generator, what, impl):
    flat = torch.randn(48, generator=generator)
    before = flat.clone()
    memory, features = OVERLAPS[what](flat[:24].view(6, 4), flat)
    with pytest.raises(ValueError, match="features shares elements with memory, which is changed in place"):
        ops.update_cluster_memory_(memory, features, torch.arange(features.shape[-2]) % 2, impl=impl)
    assert torch.equal(flat, before)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
@pytest.mark.parametrize("what", ["other rows", "other columns", "the columns between"])
def test_an_update_with_neighbours_of_the_memory_is_none_with_itself(generator, what, impl):
    buffer = torch.randn(8, 8, generator=generator)
    memory, features = {
        "other rows": (buffer[:5], buffer[5:]),
        "other columns": (buffer[:, :4], buffer[:, 4:]),
        "the columns between": (buffer[:, ::2], buffer[:, 1::2]),
    }[what]
    targets = torch.arange(len(features)) % 3
    expected, untouched = update_by_hand(memory, features, targets, 0.1), features.clone()
    ops.update_cluster_memory_(memory, features, targets, impl=impl)
    torch.testing.assert_close(memory, expected)
    assert torch.equal(features, untouched)


@pytest.mark.parametrize("impl", ["eager", *CPU_BACKENDS])
def test_a_memory_whose_rows_are_one_is_refused(generator, impl):
    row, features, targets = torch.randn(9, generator=generator), torch.ones(2, 4), torch.tensor([0, 1])
    for memory in (row[:4].expand(3, 4), row.unfold(0, 4, 1)):
        with pytest.raises(ValueError, match="memory is changed in place and has elements that are one in memory"):
            ops.update_cluster_memory_(memory, features, targets, impl=impl)


@pytest.mark.skipif(bool(missing("cpp")), reason=str(missing("cpp")))
def test_update_does_not_depend_on_threads(generator):
    features, memory, targets = problem(generator, banks=3, samples=300, classes=40)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(ops.update_cluster_memory_(memory.clone(), features, targets, impl="cpp"))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_an_update_before_backward_is_noticed(generator, impl):
    features, memory, targets = problem(generator)
    loss = ops.cluster_contrast(features.requires_grad_(), memory, targets)
    ops.update_cluster_memory_(memory, features, targets, impl=impl)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_autocast_does_not_reach_inside(generator):
    features, memory, targets = problem(generator)
    features.requires_grad_()
    expected = ops.cluster_contrast(features, memory, targets)
    with torch.autocast("cpu", torch.bfloat16):
        got = ops.cluster_contrast(features, memory, targets, precision="float32")
    assert got.dtype == torch.float32 and torch.equal(got, expected)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_contract(generator, impl):
    features, memory, targets = problem(generator, banks=2)
    order = torch.randperm(features.shape[1], generator=generator)
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
    assert_operator_contract(
        torch.ops.salcr.update_cluster_memory_, (memory, features, targets, 0.1, order, "all", impl)
    )


def test_compiles(generator):
    def update(features, memory, targets):
        return ops.update_cluster_memory_(memory, features, targets)

    examples = [problem(generator, samples=n, classes=k) for n, k in ((23, 7), (9, 5))]
    assert_compiles(update, *examples)
    for features, _, _ in examples:
        features.requires_grad_()
    assert_compiles(ops.cluster_contrast, *examples)


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
    features, memory, targets = problem(generator)
    arguments = dict(features=features, memory=memory, targets=targets) | change
    for operator in (ops.cluster_contrast, ops.update_cluster_memory_):
        with pytest.raises(error, match=message):
            operator(**arguments)


def test_bad_options_are_named(generator):
    features, memory, targets = problem(generator)
    with pytest.raises(ValueError, match="temperature"):
        ops.cluster_contrast(features, memory, targets, temperature=0.0)
    with pytest.raises(ValueError, match="reduction"):
        ops.cluster_contrast(features, memory, targets, reduction="max")
    with pytest.raises(ValueError, match="memory requires a gradient"):
        ops.cluster_contrast(features, memory.requires_grad_(), targets)
    with pytest.raises(ValueError, match="momentum"):
        ops.update_cluster_memory_(memory.detach(), features, targets, momentum=1.5)
    with pytest.raises(ValueError, match="not a permutation"):
        ops.update_cluster_memory_(memory.detach(), features, targets, order=torch.zeros(23, dtype=torch.int64))


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
