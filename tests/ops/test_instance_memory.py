import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from salcr.ops.backends.eager import instance_memory
from tests.ops.contract import assert_compiles, assert_operator_contract
from tests.ops.memories import (
    CPU_BACKENDS,
    assert_contrast_within_budget,
    assert_search_within_budget,
    evaluate,
    random_memory,
    random_sets,
    unit,
)


def problem(generator, banks=None, samples=17, size=40, width=11, wide=6, dtype=torch.float32):
    """Features, unit memory rows, and random positives of which some sets are empty."""
    lead = () if banks is None else (banks,)
    positives = random_sets(generator, lead, samples, size, wide)
    positives[..., 0, :] = -1
    return *random_memory(generator, lead, samples, size, width, dtype), positives


def neighbors_by_hand(features, memory, k):
    """Sets of Python integers: the entries above the (k+1)-th largest."""
    found = []
    for row in F.normalize(features, dim=-1) @ memory.T:
        descending = sorted(row.tolist(), reverse=True)
        bound = descending[k] if k < len(descending) else float("-inf")
        found.append([n for n, value in enumerate(row.tolist()) if value > bound])
    return found


def contrast_by_hand(features, memory, positives, temperature):
    """Row by row, the probabilities as they read; None without any positive."""
    losses = []
    for x, chosen in zip(features, positives.tolist(), strict=True):
        p = torch.softmax(memory @ (x / x.norm()) / temperature, 0)
        chosen = [n for n in chosen if n >= 0]
        if chosen:
            losses.append(-torch.log(sum(p[n] for n in chosen)))
    return torch.stack(losses).mean() if losses else torch.zeros((), dtype=features.dtype)


def known_results(features, memory, names, **options):
    """The results of the search that ``names`` asks for, as options of the contrast."""
    _, lse, mean_row = ops.instance_search(features, memory, **options)
    return {name: x for name, x in (("lse", lse), ("mean_row", mean_row)) if name in names}


def as_sets(indices):
    return [[n for n in row if n >= 0] for row in indices.tolist()]


@pytest.mark.parametrize("impl", [*CPU_BACKENDS, "eager"])
@pytest.mark.parametrize("k", [1, 5, 39, 40, 41, 60])
def test_neighbors_are_the_largest_entries(generator, k, impl):
    features, memory, _ = problem(generator, dtype=torch.float64)
    indices, lse = ops.instance_neighbors(features, memory, k, impl=impl)
    assert indices.shape == (17, k) and indices.dtype == torch.int64
    assert as_sets(indices) == neighbors_by_hand(features, memory, k)
    assert all((row[min(k, 40) :] == -1).all() for row in indices)
    weights = torch.exp(F.normalize(features) @ memory.T / 0.05)
    torch.testing.assert_close(lse, weights.sum(1).log())
    same, same_lse, mean_row = ops.instance_search(features, memory, k, impl=impl)
    assert torch.equal(same, indices) and torch.equal(same_lse, lse)
    torch.testing.assert_close(mean_row, weights @ memory / weights.sum(1, keepdim=True))


def test_neighbors_of_parts_are_the_parts_alone(generator):
    features, memory, _ = problem(generator, banks=3)
    indices, lse = ops.instance_neighbors(features, memory, 7, temperature=0.1)
    for p in range(3):
        alone = ops.instance_neighbors(features[p], memory[p], 7, temperature=0.1)
        assert torch.equal(indices[p], alone[0])
        torch.testing.assert_close(lse[p], alone[1])


@pytest.mark.parametrize("impl", [*CPU_BACKENDS, "eager"])
def test_ties_at_the_bound_are_left_out(impl):
    memory = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.6, -0.8], [1.0, 0.0]])
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    by_k = {
        1: [[], [3], []],  # two copies of row 1 tie as nearest
        2: [[1, 5], [3], []],
        3: [[1, 5], [0, 2, 3], []],
        4: [[1, 5], [0, 2, 3], []],
        5: [[0, 1, 2, 4, 5], [0, 1, 2, 3, 5], []],
        6: [[0, 1, 2, 3, 4, 5]] * 3,
        7: [[0, 1, 2, 3, 4, 5]] * 3,
    }
    for k, expected in by_k.items():
        indices, _ = ops.instance_neighbors(features, memory, k, impl=impl)
        assert as_sets(indices) == expected, k
        assert torch.equal(indices, torch.tensor([row + [-1] * (k - len(row)) for row in expected]))


def test_neighbors_have_no_gradient_and_feed_the_sets(generator):
    features, memory, _ = problem(generator)
    indices, lse = ops.instance_neighbors(features.requires_grad_(), memory, 5)
    assert not indices.requires_grad and not lse.requires_grad
    formula = reference.instance_neighbors(features, memory.requires_grad_(), 5)
    assert not any(x.requires_grad for x in formula)
    torch.testing.assert_close((indices, lse), formula)
    assert torch.equal(ops.intersect_sets(indices, indices), indices)
    assert torch.equal(ops.unite_sets(indices, indices)[:, :5], indices)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("given", [(), ("lse",), ("lse", "mean_row")])
def test_contrast_is_the_formula(generator, temperature, given):
    features, memory, positives = problem(generator, dtype=torch.float64)
    known = known_results(features, memory, given, temperature=temperature)
    assert (positives[:, 0] >= 0).any()
    leaf, twin = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss = ops.set_contrast(leaf, memory, positives, temperature=temperature, **known)
    expected = contrast_by_hand(twin, memory, positives, temperature)
    torch.testing.assert_close(loss, expected)
    eager = reference.set_contrast(twin, memory, positives, temperature=temperature, **known)
    torch.testing.assert_close(eager, expected)
    (gradient,) = torch.autograd.grad(3 * expected, twin)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, leaf)[0], gradient)
    torch.testing.assert_close(torch.autograd.grad(3 * eager, twin)[0], gradient)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_logits_of_a_set_may_be_far_apart(impl):
    """Their exponentials overflow in float64, but for what is taken off them before."""
    features, memory = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    leaf = features.requires_grad_()
    loss = ops.set_contrast(leaf, memory, torch.tensor([[0, 1]]), temperature=1e-3, impl=impl)
    loss.backward()
    assert loss.item() == 0 and leaf.grad.isfinite().all()


@pytest.mark.parametrize("impl", [*CPU_BACKENDS, "eager"])
def test_contrast_of_parts_is_the_mean_over_parts(generator, impl):
    features, memory, positives = problem(generator, banks=3, dtype=torch.float64)
    positives[1] = -1
    features.requires_grad_()
    parts = [ops.set_contrast(features[p], memory[p], positives[p], impl=impl) for p in range(3)]
    assert parts[1] == 0
    together = ops.set_contrast(features, memory, positives, impl=impl)
    torch.testing.assert_close(together, torch.stack(parts).mean())
    found, expected = (torch.autograd.grad(x, features)[0] for x in (together, torch.stack(parts).mean()))
    torch.testing.assert_close(found, expected)
    assert not found[1].any() and found[0].any()
    shared = ops.set_contrast(features, memory, positives[0], impl=impl)
    repeated = positives[0].expand(3, -1, -1)
    torch.testing.assert_close(shared, ops.set_contrast(features, memory, repeated, impl=impl))


@pytest.mark.parametrize("case", ["all empty", "everything positive", "duplicate rows", "one sample", "zero feature"])
@pytest.mark.parametrize("given", [(), ("lse",), ("lse", "mean_row")])
def test_contrast_edge_cases(generator, case, given):
    features, memory, positives = problem(generator)
    if case == "all empty":
        positives = torch.full_like(positives, -1)
    if case == "everything positive":
        positives = torch.arange(40).expand(17, -1)
    if case == "duplicate rows":
        memory[1:] = memory[0]
        positives = torch.tensor([[3, 9, -1]]).expand(17, -1)
    if case == "one sample":
        features, positives = features[:1], torch.tensor([[2]])
    if case == "zero feature":
        features[0], positives[0, 0] = 0, 39
        positives[0, 1:] = -1
    known = known_results(features, memory, given)
    features.requires_grad_()
    loss = ops.set_contrast(features, memory, positives, **known)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()
    if case != "zero feature":
        expected = contrast_by_hand(features.detach(), memory, positives, 0.05)
        for impl in ("auto", "eager", "reference"):
            got = ops.set_contrast(features, memory, positives, **known, impl=impl)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    if case == "all empty":
        assert loss == 0 and not features.grad.any()
    if case == "everything positive":
        assert loss.abs() < 1e-5 and features.grad.abs().max() < 1e-4
    if case == "duplicate rows":
        torch.testing.assert_close(loss, torch.tensor(20.0).log())
        assert features.grad.abs().max() < 1e-4


@pytest.mark.parametrize("given", [(), ("lse",), ("lse", "mean_row")])
def test_halves_of_a_gradient_cancel_before_they_are_rounded_to_half_precision(generator, given):
    """Of a set that holds nearly all probability, both mean rows are nearly the same."""
    features, memory, _ = problem(generator, banks=4)
    positives = torch.arange(3).expand(4, 17, 3).contiguous()
    memory[:, :3] = F.normalize(memory[:, :1] + 0.3 * memory[:, :3], dim=-1)
    features = memory[:, :1] + 0.05 * features
    features, memory = features.bfloat16(), memory.bfloat16()
    found = {}
    for impl in ("reference", "eager"):
        made = dict(zip(("lse", "mean_row"), ops.instance_search(features, memory, 5, impl=impl)[1:], strict=True))
        known = {name: made[name] for name in given}
        _, found[impl] = evaluate(ops.set_contrast, features, memory, positives, impl=impl, **known)
    _, exact = evaluate(reference.set_contrast, features.double(), memory.double(), positives)
    errors = {impl: (gradient.double() - exact).abs().max() for impl, gradient in found.items()}
    assert errors["eager"] <= 2 * errors["reference"] + torch.finfo(torch.bfloat16).eps * exact.abs().max()


@pytest.mark.parametrize("block", [1, 100, 2**25])
def test_blocks_change_nothing(generator, monkeypatch, block):
    features, memory, positives = problem(generator, banks=2, dtype=torch.float64)
    whole = features.clone().requires_grad_()
    loss = reference.set_contrast(whole, memory, positives)
    monkeypatch.setattr(instance_memory, "_BLOCK", block)
    features.requires_grad_()
    indices, lse, mean_row = ops.instance_search(features, memory, 4, impl="eager")
    for p in range(2):
        assert as_sets(indices[p]) == neighbors_by_hand(features[p], memory[p], 4)
    for known in ((None, None), (lse, None), (lse, mean_row)):
        got = ops.set_contrast(features, memory, positives, lse=known[0], mean_row=known[1], impl="eager")
        torch.testing.assert_close(got, loss)
        torch.testing.assert_close(
            torch.autograd.grad(got, features), torch.autograd.grad(loss, whole, retain_graph=True)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_budget(generator, dtype):
    features, memory, positives = problem(generator, banks=2, samples=37, size=90, width=64, dtype=dtype)

    def loss_and_gradient(function, x, rows, **known):
        x = x.clone().requires_grad_()
        loss = function(x, rows, positives, **known)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    exact = loss_and_gradient(reference.set_contrast, features.double(), memory.double())
    eager = loss_and_gradient(reference.set_contrast, features, memory)
    results = dict(zip(("lse", "mean_row"), ops.instance_search(features, memory)[1:], strict=True))
    exact_search = reference.instance_search(features.double(), memory.double())
    eager_search = reference.instance_search(features, memory)
    assert_search_within_budget(results.values(), exact_search[1:], eager_search[1:], memory)
    for known in ({}, dict(lse=results["lse"]), results):
        got = loss_and_gradient(ops.set_contrast, features, memory, **known)
        assert_contrast_within_budget(got, exact, eager, memory)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_gradcheck(generator, impl):
    features, memory, positives = problem(generator, banks=2, samples=4, size=7, width=5, wide=3, dtype=torch.float64)
    features.requires_grad_()
    options = dict(temperature=0.5, impl=impl)
    for rows in (positives, positives[0], torch.full_like(positives, -1)):
        assert torch.autograd.gradcheck(lambda x, s=rows: ops.set_contrast(x, memory, s, **options), features)


@pytest.mark.parametrize("impl", CPU_BACKENDS)
def test_contract(generator, impl):
    features, memory, positives = problem(generator, banks=2)
    salcr, loss = torch.ops.salcr, torch.ones(())
    _, lse, mean_row = ops.instance_search(features, memory)
    for search, how in ((salcr.instance_neighbors, [impl]), (salcr.instance_search, ["float32", impl])):
        assert_operator_contract(search, (features, memory, 5, 0.05, *how), (features[0], memory[0], 50, 0.05, *how))
    exact, rounded = ("float32", impl), ("bfloat16", impl)
    assert_operator_contract(
        salcr.set_contrast,
        (features, memory, positives, None, 0.05, *exact),
        (features, memory.bfloat16(), positives, None, 0.05, *rounded),
        (features, memory, positives[0], lse, 0.05, *exact),
        (features[0], memory[0], positives[0], lse[0], 0.05, *exact),
    )
    assert_operator_contract(
        salcr.set_contrast_backward,
        (loss, features, memory, positives, lse, None, 0.05, *exact),
        (loss, features, memory.bfloat16(), positives, lse, None, 0.05, *rounded),
        (loss, features.mT.contiguous().mT, memory, positives[0], lse, mean_row, 0.05, *exact),
    )


def test_compiles(generator):
    def refine(features, memory):
        v, a, r = features.chunk(3)
        tops, lses = zip(*(ops.instance_neighbors(x, memory, 6) for x in (v, a, r)), strict=True)
        agreed = ops.intersect_sets(*tops).repeat(3, 1)
        return ops.set_contrast(features, memory, agreed, lse=torch.cat(lses)), ops.set_contrast(
            features, memory, agreed
        )

    examples = [problem(generator, samples=n, size=m)[:2] for n, m in ((18, 40), (9, 25))]
    for features, _ in examples:
        features.requires_grad_()
    assert_compiles(refine, *examples)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(features=torch.zeros(0, 11)), ValueError, "features is empty"),
        (dict(features=torch.zeros(17, 10)), ValueError, "memory"),
        (dict(memory=torch.zeros(40, 11, dtype=torch.float64)), TypeError, "memory is torch.float64"),
        (dict(memory=torch.zeros(2, 40, 11)), ValueError, "memory must have 2 axes"),
        (dict(impl="numpy"), ValueError, "impl must be one of"),
        (dict(impl="cuda"), ValueError, "has the backends"),
    ],
)
def test_bad_arguments_are_named(generator, change, error, message):
    features, memory, positives = problem(generator)
    arguments = dict(features=features, memory=memory) | change
    for search in (ops.instance_neighbors, ops.instance_search):
        with pytest.raises(error, match=message):
            search(**arguments)
    with pytest.raises(error, match=message):
        ops.set_contrast(**arguments, positives=positives)


def test_bad_options_are_named(generator):
    features, memory, positives = problem(generator)
    lse = torch.zeros(17)
    for error, message, change in (
        (TypeError, "positives must be int64", dict(positives=positives.float())),
        (ValueError, "positives .* do not fit", dict(positives=positives[:5])),
        (ValueError, "positives must be below 40, got 40", dict(positives=torch.full((17, 1), 40))),
        (ValueError, "positives must be ascending", dict(positives=torch.tensor([[5, 5]]).expand(17, -1))),
        (ValueError, "memory requires a gradient", dict(memory=memory.clone().requires_grad_())),
        (ValueError, r"lse \(16,\) does not fit", dict(lse=lse[:16])),
        (TypeError, "lse must be torch.float32", dict(lse=lse.double())),
        (ValueError, "mean_row is given without lse", dict(mean_row=features)),
        (ValueError, r"mean_row \(16, 11\) does not fit", dict(lse=lse, mean_row=features[:16])),
    ):
        with pytest.raises(error, match=message):
            ops.set_contrast(**(dict(features=features, memory=memory, positives=positives) | change))


GPU_CASES = [  # every precision in every shape, but for float16, which takes the tiles of bfloat16
    *(((), 1, 9001, 2048, 30, dtype) for dtype in (torch.float32, torch.bfloat16)),
    *(((2,), 65, 7, 100, 30, dtype) for dtype in (torch.float32, torch.bfloat16)),
    *(((3,), 131, 4097, 384, 30, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
    *(((3,), 131, 4097, 384, k, torch.float32) for k in (1, 64)),
]


@pytest.mark.cuda
@pytest.mark.parametrize(("lead", "rows", "columns", "width", "k", "dtype"), GPU_CASES)
def test_search_on_a_gpu(generator, lead, rows, columns, width, dtype, k):
    features = torch.randn(*lead, rows, width, generator=generator).to("cuda", dtype)
    memory = unit(generator, *lead, columns, width).to("cuda", dtype)
    exact = reference.instance_search(features.double(), memory.double(), k)
    eager = reference.instance_search(features, memory, k)
    got, again = (ops.instance_search(features, memory, k, impl="triton") for _ in range(2))
    for x, same in zip(got, again, strict=True):
        assert torch.equal(x, same)
    assert_search_within_budget(got[1:], exact[1:], eager[1:], memory)
    cosines = F.normalize(features.double(), dim=-1) @ memory.double().mT
    top = cosines.topk(min(k + 1, columns), -1).values
    sure = torch.ones_like(top[..., 0], dtype=torch.bool) if columns <= k else top[..., -2] - top[..., -1] > 1e-5
    assert sure.any() and torch.equal(got[0][sure], exact[0][sure])


@pytest.mark.cuda
def test_ties_at_the_bound_are_left_out_on_a_gpu(generator):
    """Whole numbers, whose products are exact: every copy of a row ties with it, in its own chunk and in others."""
    memory = torch.randint(-1, 2, (9000, 4), generator=generator).float().cuda()
    features = torch.eye(4, device="cuda")
    for k in (1, 40, 4000):
        expected = reference.instance_neighbors(features, memory, k)[0]
        assert torch.equal(ops.instance_neighbors(features, memory, k, impl="triton")[0], expected)
