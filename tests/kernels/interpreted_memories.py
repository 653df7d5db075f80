"""The Triton backend of memories and sets under the interpreter; run by test_interpreter.py in a process of its own."""

import math

import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from salcr.kernels import instance_memory, products
from salcr.kernels.cluster_memory import contrast_backward, contrast_forward
from salcr.kernels.groups import Terms
from tests.ops import memories
from tests.ops.contract import assert_within_budget
from tests.ops.differentiable import (
    check_left_out,
    check_nonfinite,
    check_overlong,
    check_second_derivative_is_an_error,
)
from tests.ops.memories import (
    REDUCTIONS,
    assert_contrast_within_budget,
    assert_search_within_budget,
    check_contrasts,
    check_hardest,
    check_search,
    check_soft_contrast,
    check_updates_together,
    evaluate,
    hardest_problem,
    largest_lse,
    random_memory,
    random_sets,
    unit,
)
from tests.ops.together import check_contrasts_together, check_searches_together

SHAPES = [  # lead, rows, columns, width: no multiples of a tile or of a chunk, one or several of each
    (((), 5, 33, 7), torch.float32),
    (((2,), 17, 70, 40), torch.float32),
    (((3,), 2, 40, 16), torch.float16),
    (((3,), 3, 1, 9), torch.float32),
]


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_contrasts(generator, shape, dtype):
    check_contrasts("triton", generator, *shape, dtype, reductions=reductions(*shape))


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_soft_targets_and_weights(generator, shape, dtype):
    check_soft_contrast("triton", generator, *shape, dtype, reductions=reductions(*shape))


def reductions(lead, rows, *_):
    """All of them where rows are few; else one, beside the mean that the last call takes."""
    return REDUCTIONS if rows < 17 else ("none",)


@pytest.mark.parametrize("wide", [1, 4])
def test_float32_rows_with_a_memory_in_float16(generator, wide):
    """The loss is that of rounded rows in float32, the gradient has weights in float16; with targets, with sets."""
    features, memory = random_memory(generator, (2,), 17, 70, 40, torch.float32)
    positives = random_sets(generator, (2,), 17, 70, wide)
    name = "cluster_contrast" if wide == 1 else "set_contrast"
    formula, given = getattr(reference, name), positives[..., 0] if wide == 1 else positives

    (loss,), lse = contrast_forward([features], [memory.half()], [positives], temperature=0.1)
    (gradient,) = contrast_backward([torch.tensor(0.5)], [features], [memory.half()], [positives], lse, temperature=0.1)
    assert loss.dtype == gradient.dtype == torch.float32
    sides = []
    for rows in ((x.double() for x in (features, memory)), (x.half() for x in (features, memory))):
        side = evaluate(formula, *rows, given, temperature=0.1)
        sides.append(side if side[0].dtype == torch.float64 else tuple(x.float() for x in side))
    assert_contrast_within_budget((loss, gradient), *sides, memory, 0.1)
    rounded = [x.half().float() for x in (features, memory)]
    terms = Terms([features], [memory.half()])
    norms = products.inverse_norms(terms).view(2, 17)
    assert torch.equal(terms.features[0], features.half())
    assert_within_budget(norms, 1 / rounded[0].double().norm(dim=-1), 1 / rounded[0].norm(dim=-1), terms=40)
    exact = formula(*(x.double() for x in rounded), given, temperature=0.1)
    eager = formula(*rounded, given, temperature=0.1)
    assert_within_budget(loss, exact, eager, terms=40 + 70, magnitude=2 * largest_lse(70, 0.1))


def test_a_mean_row_in_float16_leaves_sets_in_float32(generator):
    """The same bits but for the mean row."""
    features, memories = [torch.randn(2, 5, 33, generator=generator)], [unit(generator, 2, 150, 33).float()]
    options = dict(temperature=0.05, mean=True)
    alone = instance_memory.instance_search(features, memories, 5, **options)
    found = instance_memory.instance_search(features, memories, 5, **options, rounded=[memories[0].half()])
    assert torch.equal(found[0], alone[0]) and torch.equal(found[1], alone[1])
    exact = reference.instance_search(features[0].double(), memories[0].double(), 5)
    eager = reference.instance_search(features[0].half(), memories[0].half(), 5)
    got = [x.view(y.shape) for x, y in zip(found[1:], exact[1:], strict=True)]
    assert not torch.equal(found[2], alone[2])
    assert_search_within_budget(got, exact[1:], [x.float() for x in eager[1:]], memories[0])


@pytest.mark.parametrize("kind", ["spread", "subnormal", "alike", "one_column", "short_features", "long_features"])
def test_logits_in_halves_are_within_their_bound(generator, kind):
    """docs/numerics.md: 3 · 2⁻²² of the sum of magnitudes and 2⁻³² √D, and the roundings of float32 as it sums."""
    width = 96
    features, memory = torch.randn(1, 9, width, generator=generator), torch.randn(1, 40, width, generator=generator)
    if kind == "spread":
        features, memory = (x * 10 ** (-8 * torch.rand(x.shape, generator=generator)) for x in (features, memory))
    elif kind == "subnormal":  # what is left of all but one column lies below what float16 resolves
        features = features * 2.0**-17 + F.one_hot(torch.tensor(3), width)
        memory[..., 3] = 0
    elif kind == "alike":
        memory = features[:, :1] + 1e-6 * memory
    elif kind == "one_column":
        memory = F.one_hot(torch.arange(40), width).float()[None] * (1 - 2.0**-24)
    else:
        features = features * (1e-18 if kind == "short_features" else 1e18)
    memory = F.normalize(memory, dim=-1)
    terms, logits = Terms([features], [memory]), torch.empty(1, 9, 64)
    products.chunk_values(terms, products.inverse_norms(terms), [logits], (0,), 1.0)
    rows, columns = (
        features.double() * (1 / features.double().norm(dim=-1).clamp_min(1e-12))[..., None],
        memory.double(),
    )
    sizes = rows.abs() @ columns.abs().mT
    bound = (3 * 2.0**-22 + (width / 32 + 34) * 2.0**-24) * sizes + 2.0**-32 * math.sqrt(width)
    off = (logits[..., :40] - rows @ columns.mT).abs()
    assert (off <= bound).all(), (off / bound).max()
    high = (rows * 256).half().double() @ (columns * 256).half().double().mT / 2.0**16
    too_few = (high - rows @ columns.mT).abs() > bound  # without the lower halves
    assert too_few.any() or kind in ("subnormal", "short_features")


def test_soft_targets_of_a_large_sum_in_float16(generator):
    """Weights above 2 would overflow the scratch of the gradient, which is float16."""
    features, memory = random_memory(generator, (), 5, 9, 7, torch.float16)
    soft = torch.rand(5, 9, generator=generator).half()
    options = dict(temperature=1.0, impl="triton")
    gradients = []
    for factor in (1, 8):
        leaf = features.clone().requires_grad_()
        loss = ops.cluster_contrast(leaf, memory, soft_targets=factor * soft, **options)
        gradients.append(torch.autograd.grad(loss, leaf)[0] / factor)
    assert gradients[1].isfinite().all()
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("shape", "k"),
    [(((), 1, 1, 16), 30), (((2,), 5, 150, 33), 5), (((1,), 3, 65, 7), 64), (((), 2, 128, 7), 3)],
)
def test_search(generator, monkeypatch, shape, k):
    """A chunk of several pieces, and of those with many columns several chunks; at last one that is full."""
    monkeypatch.setattr(instance_memory, "SCRATCH", 4 * math.prod(shape[0]) * shape[1] * 2 * products.INTERPRETED_CHUNK)
    check_search("triton", generator, *shape, k)


@pytest.mark.filterwarnings("ignore:(All-NaN slice|invalid value) encountered:RuntimeWarning")  # NumPy, of NaN rows
@pytest.mark.parametrize("edge", ["ties", "one_class_and_ignored_rows", "one_row", "strided", "extremes"])
def test_edges(generator, edge):
    getattr(memories, f"check_{edge}")("triton", generator)


@pytest.mark.parametrize(("shape", "dtype"), SHAPES)
def test_update(generator, shape, dtype):
    lead, rows, _, width = shape
    rows, columns = 5 * rows, rows
    features, memory = random_memory(generator, lead, rows, columns, width, dtype)
    targets = torch.randint(-1, columns, (*lead, rows), generator=generator)
    for momentum, order in ((0.0, None), (1.0, None), (0.1, torch.randperm(rows, generator=generator))):
        exact, eager, got = memory.double(), memory.clone(), memory.clone()
        reference.update_cluster_memory_(exact, features.double(), targets, momentum=momentum, order=order)
        reference.update_cluster_memory_(eager, features, targets, momentum=momentum, order=order)
        ops.update_cluster_memory_(got, features, targets, momentum=momentum, order=order, impl="triton")
        assert_within_budget(got, exact, eager, terms=width + rows)
    strided = memory.mT.contiguous().mT
    ops.update_cluster_memory_(strided, features, targets, momentum=momentum, order=order, impl="triton")
    assert torch.equal(strided, got)


@pytest.mark.filterwarnings("ignore:(All-NaN slice|invalid value) encountered:RuntimeWarning")  # NumPy, of NaN rows
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_contrasts_together(generator, dtype):
    check_contrasts_together("triton", generator, dtype)


def test_searches_together_in_chunks(generator, monkeypatch):
    """Of which some memories have more than others; and the contrasts with sets."""
    monkeypatch.setattr(instance_memory, "SCRATCH", 4 * 34 * products.INTERPRETED_CHUNK)
    check_searches_together("triton", generator, torch.float32)


def test_updates_together_are_the_updates_alone(generator):
    check_updates_together("triton", generator, torch.float32, "cpu")


def test_the_hardest_sample_alone(generator):
    for momentum, lead in ((0.0, ()), (0.1, (2,)), (1.0, ())):
        check_hardest("triton", generator, lead, momentum, torch.float32)


@pytest.mark.filterwarnings("ignore:(All-NaN slice|invalid value) encountered:RuntimeWarning")  # NumPy, of NaN rows
def test_the_hardest_of_equals_and_of_nan(generator):
    memory, features = torch.eye(2, 4), torch.eye(4)[[2, 3, 0, 3, 2, 1]]
    targets, options = torch.tensor([0, 0, 0, 0, 1, 1]), dict(momentum=0.0, select="hardest", impl="triton")
    order = torch.tensor([5, 3, 4, 2, 1, 0])
    moved = ops.update_cluster_memory_(memory, features, targets, order=order, **options)
    assert torch.equal(moved, torch.eye(4)[[3, 2]])
    memory, features, _ = hardest_problem(generator, (), torch.float32)
    features[3, 2] = torch.nan
    moved = ops.update_cluster_memory_(memory, features, torch.arange(40) % 2, **options)
    assert moved[1].isnan().all() and moved[0].isfinite().all()


@pytest.mark.filterwarnings("ignore:(All-NaN slice|invalid value) encountered:RuntimeWarning")  # NumPy, of NaN rows
@pytest.mark.parametrize(
    "name",
    [
        "cluster_contrast",
        "set_contrast",
        "set_contrast after a search",
        "instance_search",
        "update_cluster_memory_",
        "cluster_centroids",
    ],
)
def test_what_is_not_finite_is_shown(generator, name):
    check_nonfinite(name, "triton", generator, spots=1, values=(torch.nan, torch.inf))


@pytest.mark.filterwarnings("ignore:(All-NaN slice|invalid value|overflow) encountered:RuntimeWarning")
@pytest.mark.parametrize("name", ["cluster_contrast", "set_contrast", "instance_search", "update_cluster_memory_"])
def test_a_row_too_long_to_square_is_shown_as_nan_is(generator, name):
    check_overlong(name, "triton", generator, torch.float32)


@pytest.mark.filterwarnings("ignore:(All-NaN slice|invalid value) encountered:RuntimeWarning")  # NumPy, of NaN rows
@pytest.mark.parametrize("name", ["cluster_contrast", "cluster_contrast_sum", "set_contrast"])
def test_a_row_that_is_left_out_has_no_gradient(generator, name):
    check_left_out(name, "triton", generator, torch.nan)


@pytest.mark.parametrize("name", ["cluster_contrast", "cluster_contrast_sum", "set_contrast"])
def test_a_second_derivative_is_an_error(generator, name):
    check_second_derivative_is_an_error(name, "triton", generator, torch.float32)


def test_sets(generator):
    for columns, widths in ((12, (3,)), (30, (9, 4)), (20, (20, 17, 30)), (90, (33, 60))):
        sets = [random_sets(generator, (2,), 6, columns, wide) for wide in widths]
        for name in ("intersect_sets", "unite_sets"):
            expected = getattr(reference, name)(*sets, sets[0][1])
            assert torch.equal(getattr(ops, name)(*sets, sets[0][1], impl="triton"), expected)


@pytest.mark.parametrize("name", ["contrast", "mean_row"])
def test_many_small_probabilities_add_up_in_float16(generator, name):
    """The mass of 2e-8 a row that most memory rows have is all there is across the feature, which the rest is along."""
    x, memory = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]).repeat(300, 1)
    memory[7] = x
    options = dict(temperature=1 / 17.75)
    single, half = (x, memory), (x.half(), memory.half())

    def gradient(features, memory, **more):
        leaf = features.clone().requires_grad_()
        loss = ops.cluster_contrast(leaf, memory, torch.tensor([7]), **options, **more)
        return torch.autograd.grad(loss, leaf, torch.tensor(1e4, dtype=features.dtype))[0]

    def across(features, memory, **more):
        if name == "contrast":
            return gradient(features, memory, **more)[0, 1:]
        return 1e4 * ops.instance_search(features, memory, 5, **options, **more)[2][0, 1:]

    exact = across(x.double(), memory.double())
    got, rounded = across(*half, impl="triton"), across(*single, impl="reference")
    assert_within_budget(got.half(), exact, rounded.half(), terms=2 + len(memory))


def test_long_sums_of_float32_products(generator):
    """Both products of a chunk at the width of the network's features."""
    features, memory = random_memory(generator, (1,), 9, 40, 2048, torch.float32)
    terms, width = Terms([features], [memory]), products.chunk_columns(features, 40)
    logits, weights = torch.empty(1, 9, width), torch.rand(1, 9, width, generator=generator) * products.WEIGHT_ONE.value
    products.chunk_values(terms, products.inverse_norms(terms), [logits], [0], 0.05)
    exact, eager = (
        F.normalize(x, dim=-1) @ y.mT / 0.05 for x, y in ((features.double(), memory.double()), (features, memory))
    )
    assert_within_budget(logits[..., :40], exact, eager, terms=2048, magnitude=1 / 0.05)
    weights[..., 40:] = 0
    out = torch.empty(1, 9, 2048)
    products.add_chunk(terms, [weights], out, [0])
    weights = weights[..., :40] / products.WEIGHT_ONE.value
    magnitude = weights @ memory.abs()
    assert_within_budget(out, weights.double() @ memory.double(), weights @ memory, terms=40, magnitude=magnitude)
