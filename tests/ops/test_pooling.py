from functools import partial

import pytest
import torch

from salcr import ops, reference
from tests.ops.contract import assert_compiles, assert_operator_contract
from tests.ops.pooling_problems import (
    EDGES,
    check_budget,
    check_edge_case,
    edge_case,
    on_gpu,
    problem,
    results_and_gradients,
    training_step,
)

IMPLEMENTATIONS = "reference", "cpp"


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


def semantic_by_hand(x, tokens):
    v, a, r = x.chunk(3)
    qv, qa, qr = prototypes_by_hand(x, tokens).chunk(3)
    own = [attention_by_hand(q, y) for q, y in ((qv, v), (qa, a), (qr, r))]
    pg1 = [attention_by_hand(q, y) for q, y in ((qv, r), (qa, r), (qr, v))]
    pg2 = [attention_by_hand(q, y) for q, y in ((qv, a), (qa, v), (qr, a))]
    return torch.cat(own), torch.cat(pg1), torch.cat(pg2)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("p", [1.0, 3.0, 4.5])
def test_gem_is_the_power_mean(generator, p, channels_last, impl):
    x, tokens, _ = problem(generator, channels_last=channels_last)
    expected = torch.tensor([[(channel**p).mean() ** (1 / p) for channel in image] for image in x.numpy()])
    torch.testing.assert_close(ops.gem_pool(x, p, impl=impl), expected.double())
    torch.testing.assert_close(ops.semantic_pool(x, tokens, p=p, impl=impl)[0], expected.double())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("parts", range(1, 7))
@pytest.mark.parametrize("size", [(6, 3), (5, 4), (3, 2)])
def test_parts_are_the_formula(generator, parts, size, channels_last, impl):
    x, tokens, queries = problem(generator, parts, size=size, channels_last=channels_last)
    torch.testing.assert_close(ops.part_prototypes(x, tokens, impl=impl), prototypes_by_hand(x, tokens))
    torch.testing.assert_close(ops.part_attention(queries, x, impl=impl), attention_by_hand(queries, x))
    expected = semantic_by_hand(x, tokens)
    torch.testing.assert_close(ops.semantic_parts(x, tokens, impl=impl), expected)
    torch.testing.assert_close(ops.semantic_pool(x, tokens, impl=impl)[1:], expected)


@pytest.mark.parametrize("parts", range(1, 7))
@pytest.mark.parametrize("channels_last", [False, True])
def test_cpp_gradients_are_those_of_the_reference(generator, parts, channels_last):
    """In float64, so close; 23 cells leave some out for every number of parts but one."""
    arguments = problem(generator, parts, batch=6, width=19, size=(23, 1), channels_last=channels_last)
    found = results_and_gradients(ops, *arguments, impl="cpp")
    torch.testing.assert_close(found, results_and_gradients(reference, *arguments))


@pytest.mark.parametrize("width", [1, 16, 300, 1030])
@pytest.mark.parametrize("channels_last", [False, True])
def test_cpp_error_budget(generator, width, channels_last):
    check_budget("cpp", *problem(generator, width=width, size=(9, 6), dtype=torch.float32, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
def test_cpp_repeats_bit_for_bit_on_any_number_of_threads(generator, channels_last):
    arguments = problem(generator, batch=9, width=40, dtype=torch.float32, channels_last=channels_last)
    found = []
    for n in (1, 1, 3):
        torch.set_num_threads(n)
        found.append(results_and_gradients(ops, *arguments, impl="cpp"))
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_cpp_takes_maps_that_are_views(generator):
    x, tokens, queries = problem(generator, batch=12, size=(8, 6), dtype=torch.float32)
    for view in (x[::2, :, 1:7], x[:6].transpose(2, 3), x[:1].expand(6, -1, -1, -1)):
        dense = view.contiguous()
        for got, expected in zip(
            *(results_and_gradients(ops, y, tokens, queries[:6], impl="cpp") for y in (view, dense)), strict=True
        ):
            torch.testing.assert_close(got, expected)


def test_a_map_of_one_cell(generator):
    x, tokens, queries = problem(generator, parts=1, size=(1, 1), dtype=torch.float32)
    check_budget("cpp", x, tokens, queries)
    assert torch.equal(ops.semantic_pool(x, tokens)[1], x.flatten(1).unsqueeze(1))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_dropped_cells_have_a_gradient_of_gem_only(generator, channels_last, impl):
    x, tokens, _ = problem(generator, parts=4, size=(3, 3), channels_last=channels_last)
    x = (x + 0.1).requires_grad_()
    pooled, *forms = ops.semantic_pool(x, tokens, impl=impl)
    (of_parts,) = torch.autograd.grad(sum(z.sum() for z in forms), x, retain_graph=True)
    assert not of_parts[:, :, 2, 2].any() and of_parts[:, :, 2, 1].any()
    (of_gem,) = torch.autograd.grad(pooled.sum(), x)
    (alone,) = torch.autograd.grad(reference.gem_pool(x).sum(), x)
    torch.testing.assert_close(of_gem, alone)
    assert of_gem[:, :, 2, 2].all()


@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_edge_cases_are_finite(generator, case, dtype, channels_last):
    x, tokens, _ = problem(generator, dtype=dtype, channels_last=channels_last)
    if case == "saturated off":  # every sigmoid underflows: all the weight goes to the cell of the largest score
        saturated = edge_case(case, x, tokens)
        assert not torch.sigmoid(saturated[1] @ saturated[0].flatten(2)).any()
    check_edge_case("auto", case, x, tokens)


@pytest.mark.parametrize("impl", ["reference", "cpp"])
@pytest.mark.parametrize("cell", range(4))
def test_a_cell_far_above_the_others_has_all_the_weight(cell, impl):
    x, queries = torch.zeros(1, 3, 4, 1), torch.full((1, 1, 3), 1e3)
    x[:, :, cell] = 1.0
    assert torch.equal(ops.part_attention(queries, x, impl=impl), torch.ones(1, 1, 3))


@pytest.mark.parametrize(("impl", "channels_last"), [("reference", False), ("cpp", False), ("cpp", True)])
def test_gradcheck(generator, channels_last, impl):
    x, tokens, queries = problem(generator, batch=3, width=2, size=(4, 2), channels_last=channels_last)
    x, tokens, queries = (x + 0.1).requires_grad_(), tokens.requires_grad_(), queries.requires_grad_()
    for name, options, inputs in (
        ("gem_pool", {}, (x,)),
        ("part_prototypes", {}, (x, tokens)),
        ("part_attention", {}, (queries, x)),
        ("semantic_parts", {}, (x, tokens)),
        ("semantic_pool", {}, (x, tokens)),
        ("semantic_pool", dict(p=2.0), (x, tokens)),
    ):
        assert torch.autograd.gradcheck(partial(getattr(ops, name), impl=impl, **options), inputs)


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_keep_the_memory_format(generator, channels_last):
    x, tokens, queries = problem(generator, channels_last=channels_last)
    x.requires_grad_()
    results = [ops.gem_pool(x), ops.part_prototypes(x, tokens), ops.part_attention(queries, x)]
    for y in (*results, *ops.semantic_pool(x, tokens)):
        (gradient,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert gradient.stride() == x.stride()


def check_contract(impl, x, tokens, queries):
    """``salcr::pool`` and its backward, asked for the results of each public function."""
    for given, options in (
        ((None, None), (1, 3.0, False)),
        ((tokens, None), (1, None, False)),
        ((None, queries), (1, None, True)),
        ((tokens, None), (3, None, True)),
        ((tokens, None), (3, 3.0, True)),
    ):
        means, *saved, forms = torch.ops.salcr.pool(x, *given, *options, impl)
        assert_operator_contract(torch.ops.salcr.pool, (x, *given, *options, impl))
        gradients = means if means.numel() else None, saved[1] if saved[1].numel() else None, forms
        arguments = x, *given, *saved, *gradients, *options[:2], impl
        assert_operator_contract(torch.ops.salcr.pool_backward, arguments)


@pytest.mark.parametrize(
    ("impl", "channels_last", "dtype"),
    [("reference", True, torch.float64), ("cpp", False, torch.float32), ("cpp", True, torch.float64)],
)
def test_contract(generator, impl, channels_last, dtype):
    check_contract(impl, *problem(generator, channels_last=channels_last, dtype=dtype))


def test_results_that_nobody_uses_need_no_gradient(generator):
    """Each result alone, of an operator that returns several, against the reference."""
    x, tokens, _ = problem(generator)
    x.requires_grad_()
    for n in range(4):
        for impl in IMPLEMENTATIONS:
            (found,) = torch.autograd.grad(ops.semantic_pool(x, tokens, impl=impl)[n].square().sum(), x)
            (expected,) = torch.autograd.grad(reference.semantic_pool(x, tokens)[n].square().sum(), x)
            torch.testing.assert_close(found, expected)


def test_compiles(generator):
    def pool(x, tokens, queries):
        separate = ops.gem_pool(x), ops.part_prototypes(x, tokens), ops.part_attention(queries, x)
        return *separate, *ops.semantic_parts(x, tokens), *ops.semantic_pool(x, tokens)

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
        (TypeError, "x must be floating point", lambda: ops.gem_pool(x.long())),
        (ValueError, r"tokens \(3, 7\) do not fit", lambda: ops.part_prototypes(x, tokens[:, :7])),
        (TypeError, "tokens is torch.float32", lambda: ops.part_prototypes(x, tokens.float())),
        (ValueError, "tokens ask for 3 parts of the 2 cells", lambda: ops.part_prototypes(x[:, :, :1, :2], tokens)),
        (ValueError, "queries ask for 3 parts of the 2", lambda: ops.part_attention(queries, x[:, :, :1, :2])),
        (ValueError, "the batches differ", lambda: ops.part_attention(queries[:1], x)),
        (ValueError, "three views of the same size, got a batch of 5", lambda: ops.semantic_parts(x[:5], tokens)),
        (ValueError, "tokens ask for 3 parts", lambda: ops.semantic_parts(x[:, :, :1, :2], tokens)),
        (ValueError, "three views of the same size, got a batch of 5", lambda: ops.semantic_pool(x[:5], tokens)),
        (ValueError, "impl must be one of", lambda: ops.semantic_parts(x, tokens, impl="numpy")),
        (ValueError, "has the backends", lambda: ops.semantic_parts(x, tokens, impl="cuda")),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.cuda
@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_triton_edge_cases(generator, case, dtype):
    check_edge_case("triton", case, *on_gpu(generator, dtype=dtype, channels_last=True)[:2])
    x, tokens, queries = on_gpu(generator, parts=6, size=(3, 2), dtype=dtype)
    for found in (ops.part_prototypes(x, tokens, impl="triton"), ops.part_attention(queries, x, impl="triton")):
        assert torch.equal(found, x.flatten(2).mT)  # stripes of one cell


@pytest.mark.cuda
def test_triton_takes_other_powers_and_large_maps_or_says_what_it_does_not_take(generator):
    x, tokens, _ = on_gpu(generator, width=40, size=(40, 20), parts=1, dtype=torch.float32)
    torch.testing.assert_close(ops.gem_pool(x, 4.5, impl="triton"), reference.gem_pool(x, 4.5))
    check_budget("triton", x, tokens, tokens.expand(len(x), -1, -1), calls=training_step)
    with pytest.raises(ValueError, match="8193 channels, Triton pooling takes at most 8192"):
        ops.gem_pool(x.new_zeros(1, 8193, 1, 1), impl="triton")


@pytest.mark.cuda
def test_triton_contract_and_compile(generator):
    x, tokens, queries = on_gpu(generator, dtype=torch.float32, channels_last=True)
    check_contract("triton", x, tokens, queries)
    assert_compiles(lambda x, t: ops.semantic_pool(x, t, impl="triton"), (x.requires_grad_(), tokens.requires_grad_()))
