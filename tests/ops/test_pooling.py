import pytest
import torch

from salcr import ops, reference
from tests.ops.contract import assert_compiles, assert_operator_contract, assert_within_budget


def problem(generator, parts=3, batch=6, width=8, size=(6, 3), dtype=torch.float64, channels_last=False):
    """A map as after ReLU, tokens and queries."""
    x = torch.randn(batch, width, *size, generator=generator, dtype=torch.float64).relu().to(dtype)
    tokens = torch.randn(parts, width, generator=generator, dtype=torch.float64).to(dtype)
    queries = torch.randn(batch, parts, width, generator=generator, dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x, tokens, queries


def stripes(x, parts):
    """The cells of every image, part by part, as nested lists of vectors."""
    cells = [x[:, :, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])]
    run = len(cells) // parts
    return [cells[p * run : (p + 1) * run] for p in range(parts)]


def prototypes_by_hand(x, tokens):
    found = []
    for token, cells in zip(tokens, stripes(x, len(tokens)), strict=True):
        weights = [1 / (1 + torch.exp(-(cell * token).sum(1, keepdim=True))) for cell in cells]
        found.append(sum(w * cell for w, cell in zip(weights, cells, strict=True)) / sum(weights))
    return torch.stack(found, 1)


def attention_by_hand(queries, x):
    found = []
    for p, cells in enumerate(stripes(x, queries.shape[1])):
        weights = [torch.exp((cell * queries[:, p]).sum(1, keepdim=True) / x.shape[1] ** 0.5) for cell in cells]
        found.append(sum(w * cell for w, cell in zip(weights, cells, strict=True)) / sum(weights))
    return torch.stack(found, 1)


def semantic_by_hand(x, tokens, authors_pg1=False):
    v, a, r = x.chunk(3)
    qv, qa, qr = prototypes_by_hand(x, tokens).chunk(3)
    own = [attention_by_hand(q, y) for q, y in ((qv, v), (qa, a), (qr, r))]
    pg1 = [attention_by_hand(q, y) for q, y in ((qv, r), (qa, v if authors_pg1 else r), (qr, v))]
    pg2 = [attention_by_hand(q, y) for q, y in ((qv, a), (qa, v), (qr, a))]
    return torch.cat(own), torch.cat(pg1), torch.cat(pg2)


@pytest.mark.parametrize("p", [1.0, 3.0, 4.5])
def test_gem_is_the_power_mean(generator, p):
    x, _, _ = problem(generator)
    expected = torch.tensor([[(channel**p).mean() ** (1 / p) for channel in image] for image in x.numpy()])
    torch.testing.assert_close(ops.gem_pool(x, p), expected.double())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("parts", range(1, 7))
@pytest.mark.parametrize("size", [(6, 3), (5, 4), (3, 2)])
def test_parts_are_the_formula(generator, parts, size, channels_last):
    x, tokens, queries = problem(generator, parts, size=size, channels_last=channels_last)
    torch.testing.assert_close(ops.part_prototypes(x, tokens), prototypes_by_hand(x, tokens))
    torch.testing.assert_close(ops.part_attention(queries, x), attention_by_hand(queries, x))
    for authors in (False, True):
        expected = semantic_by_hand(x, tokens, authors)
        torch.testing.assert_close(ops.semantic_parts(x, tokens, authors_pg1=authors), expected)


def test_the_quirk_copies_pg2_of_the_augmented_view(generator):
    x, tokens, _ = problem(generator)
    own, pg1, pg2 = ops.semantic_parts(x, tokens)
    same_own, quirk, same_pg2 = ops.semantic_parts(x, tokens, authors_pg1=True)
    assert torch.equal(own, same_own) and torch.equal(pg2, same_pg2)
    assert torch.equal(quirk[2:4], pg2[2:4]) and not torch.equal(quirk, pg1)
    assert torch.equal(quirk[:2], pg1[:2]) and torch.equal(quirk[4:], pg1[4:])


def test_remaining_cells_are_dropped(generator):
    x, tokens, queries = problem(generator, parts=4, size=(3, 3))
    changed = x.clone()
    changed[:, :, 2, 2] = 1e6
    changed.requires_grad_()
    found = ops.part_prototypes(changed, tokens), ops.part_attention(queries, changed)
    assert torch.equal(found[0], ops.part_prototypes(x, tokens))
    assert torch.equal(found[1], ops.part_attention(queries, x))
    (gradient,) = torch.autograd.grad(found[0].sum() + found[1].sum(), changed)
    assert not gradient[:, :, 2, 2].any() and gradient[:, :, 2, 1].any()


def test_a_stripe_of_one_cell_is_that_cell(generator):
    x, tokens, queries = problem(generator, parts=6, size=(3, 2))
    cells = x.flatten(2).mT
    for found in (ops.part_prototypes(x, tokens), ops.part_attention(queries, x)):
        torch.testing.assert_close(found, cells)


@pytest.mark.parametrize("case", ["saturated on", "saturated off", "constant", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_edge_cases_are_finite(generator, case, dtype):
    x, tokens, _ = problem(generator, dtype=dtype)
    if case.startswith("saturated"):
        x, tokens = x + 0.1, tokens.abs() * (1e3 if case == "saturated on" else -1e3)
    if case in ("constant", "zero"):
        x = torch.full_like(x, 0.5 if case == "constant" else 0.0)
    leaves = x.requires_grad_(), tokens.requires_grad_()
    if case == "saturated off":  # every sigmoid underflows: all the weight goes to the cell of the largest score
        assert not torch.sigmoid(tokens @ x.flatten(2)).any()
    results = ops.gem_pool(x), ops.part_prototypes(x, tokens), *ops.semantic_parts(x, tokens)
    gradients = torch.autograd.grad(sum(y.float().sum() for y in results), leaves)
    for y in (*results, *gradients):
        assert torch.isfinite(y).all()
    if case == "saturated on":
        means = torch.stack([sum(cells) / len(cells) for cells in stripes(x.double(), 3)], 1)
        torch.testing.assert_close(results[1].double(), means, rtol=6 * torch.finfo(dtype).eps, atol=0)  # six cells
    if case in ("constant", "zero"):
        torch.testing.assert_close(results[1:], tuple(x[:, :, 0, 0].unsqueeze(1).expand(-1, 3, -1) for _ in range(4)))
    if case == "zero":
        assert (results[0] < 2e-4).all()
        assert not gradients[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_budget(generator, dtype):
    x, tokens, queries = problem(generator, batch=3, width=64, size=(9, 6), dtype=dtype)
    for name, arguments in (
        ("gem_pool", (x,)),
        ("part_prototypes", (x, tokens)),
        ("part_attention", (queries[:3], x)),
        ("semantic_parts", (x, tokens)),
    ):
        got = getattr(ops, name)(*arguments)
        exact = getattr(reference, name)(*[t.double() for t in arguments])
        eager = getattr(reference, name)(*arguments)
        for g, e, b in zip(got, exact, eager, strict=True):
            assert_within_budget(g, e, b)


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradcheck(generator, channels_last):
    x, tokens, queries = problem(generator, batch=3, width=3, size=(4, 2), channels_last=channels_last)
    x, tokens, queries = (x + 0.1).requires_grad_(), tokens.requires_grad_(), queries.requires_grad_()
    assert torch.autograd.gradcheck(ops.gem_pool, x)
    assert torch.autograd.gradcheck(ops.part_prototypes, (x, tokens))
    assert torch.autograd.gradcheck(ops.part_attention, (queries, x))
    assert torch.autograd.gradcheck(ops.semantic_parts, (x, tokens))
    assert torch.autograd.gradcheck(lambda x, t: ops.semantic_parts(x, t, authors_pg1=True), (x, tokens))


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_keep_the_memory_format(generator, channels_last):
    x, tokens, queries = problem(generator, channels_last=channels_last)
    x.requires_grad_()
    results = [ops.gem_pool(x), ops.part_prototypes(x, tokens), ops.part_attention(queries, x)]
    for y in (*results, *ops.semantic_parts(x, tokens)):
        (gradient,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert gradient.stride() == x.stride()


@pytest.mark.parametrize("channels_last", [False, True])
def test_contract(generator, channels_last):
    x, tokens, queries = problem(generator, channels_last=channels_last, dtype=torch.float32)
    out, salcr = torch.ones(6, 3, 8), torch.ops.salcr
    assert_operator_contract(salcr.gem_pool, (x, 3.0, 1e-12, "auto"))
    assert_operator_contract(salcr.gem_pool_backward, ([out[:, 0]], [x], 3.0, 1e-12, "auto"))
    assert_operator_contract(salcr.part_prototypes, (x, tokens, "auto"))
    assert_operator_contract(salcr.part_prototypes_backward, ([out], [x, tokens], "auto"))
    assert_operator_contract(salcr.part_attention, (queries, x, "auto"))
    assert_operator_contract(salcr.part_attention_backward, ([out], [queries, x], "auto"))
    assert_operator_contract(salcr.semantic_parts, (x, tokens, False, "auto"))
    assert_operator_contract(salcr.semantic_parts_backward, ([out, out, out], [x, tokens], True, "auto"))


def test_compiles(generator):
    def pool(x, tokens, queries):
        return (
            ops.gem_pool(x),
            ops.part_prototypes(x, tokens),
            ops.part_attention(queries, x),
            *ops.semantic_parts(x, tokens),
        )

    shapes = dict(parts=3, batch=6, size=(6, 3)), dict(parts=2, batch=9, size=(4, 5))
    examples = [problem(generator, **shape, dtype=torch.float32) for shape in shapes]
    for arguments in examples:
        for x in arguments:
            x.requires_grad_()
    assert_compiles(pool, *examples)


def test_bad_arguments_are_named(generator):
    x, tokens, queries = problem(generator)
    for error, message, call in (
        (ValueError, "x must have 4 axes", lambda: ops.gem_pool(x[0])),
        (ValueError, "p must be positive", lambda: ops.gem_pool(x, 0.0)),
        (ValueError, "eps must be positive", lambda: ops.gem_pool(x, eps=0.0)),
        (TypeError, "x must be floating point", lambda: ops.gem_pool(x.long())),
        (ValueError, r"tokens \(3, 7\) do not fit", lambda: ops.part_prototypes(x, tokens[:, :7])),
        (TypeError, "tokens is torch.float32", lambda: ops.part_prototypes(x, tokens.float())),
        (ValueError, "tokens ask for 3 parts of the 2 cells", lambda: ops.part_prototypes(x[:, :, :1, :2], tokens)),
        (ValueError, "queries ask for 3 parts of the 2", lambda: ops.part_attention(queries, x[:, :, :1, :2])),
        (ValueError, "the batches differ", lambda: ops.part_attention(queries[:1], x)),
        (ValueError, "three views of the same size, got a batch of 5", lambda: ops.semantic_parts(x[:5], tokens)),
        (ValueError, "tokens ask for 3 parts", lambda: ops.semantic_parts(x[:, :, :1, :2], tokens)),
        (ValueError, "impl must be one of", lambda: ops.semantic_parts(x, tokens, impl="numpy")),
        (ValueError, "has the backends", lambda: ops.semantic_parts(x, tokens, impl="cuda")),
    ):
        with pytest.raises(error, match=message):
            call()
