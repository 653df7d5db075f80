import math

import pytest
import torch

from salcr.nn import GeM, SemanticParts, frozen_bias_batch_norm
from tests.surroundings import SURROUNDINGS

MAPS = {"v": {"own": "v", "pg1": "r", "pg2": "a"}, "a": {"own": "a", "pg1": "r", "pg2": "v"}}
MAPS["r"] = {"own": "r", "pg1": "v", "pg2": "a"}
S, D, H, W = 4, 5, 5, 3


def maps_of(generator, rows=3 * S):
    return torch.randn(rows, D, H, W, generator=generator, dtype=torch.float64).relu()


def module(generator, parts=3, **options):
    built = SemanticParts(D, parts, **options).double()
    built.reset_parameters(generator)
    with torch.no_grad():
        built.norm.weight.copy_(torch.linspace(0.5, 1.5, parts * D))
    return built


def cells_of(image, p, parts):
    """The cells of stripe p in row-major order, T = H*W // P of them."""
    width = H * W // parts
    return [image[:, n // W, n % W] for n in range(p * width, (p + 1) * width)]


def prototype(token, cells):
    weights = [torch.sigmoid(token @ cell) for cell in cells]
    return sum(s * cell for s, cell in zip(weights, cells, strict=True)) / sum(weights)


def look_up(query, cells):
    weights = [torch.exp(query @ cell / math.sqrt(D)) for cell in cells]
    return sum(s * cell for s, cell in zip(weights, cells, strict=True)) / sum(weights)


def form_by_hand(maps, tokens, form):
    """[3S, P*D] of one form (own, pg1 or pg2) before the norm: docs/method.md, "Semantic-aligned parts", its table."""
    views = dict(zip("var", maps.chunk(3), strict=True))
    rows = []
    for view in "var":
        for position in range(len(views[view])):
            asked = views[MAPS[view][form]][position]
            parts = []
            for p, token in enumerate(tokens):
                query = prototype(token, cells_of(views[view][position], p, len(tokens)))
                parts.append(look_up(query, cells_of(asked, p, len(tokens))))
            rows.append(torch.cat(parts))
    return torch.stack(rows)


def normalise(z, norm, mean, variance):
    return (z - mean) / (variance + norm.eps).sqrt() * norm.weight


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_gem_is_a_power_mean_of_the_cells(generator, p):
    maps = maps_of(generator)
    maps[0, 0] = 0
    found = GeM(p)(maps)
    assert found.shape == (3 * S, D) and not list(GeM().parameters())
    for b in range(3 * S):
        for d in range(D):
            cells = maps[b, d].flatten().tolist()
            assert found[b, d].item() == pytest.approx((sum(c**p for c in cells) / (H * W) + 1e-12) ** (1 / p))


def test_gem_has_the_power_of_the_paper():
    assert GeM()(torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)).item() == pytest.approx(4.5 ** (1 / 3))


@pytest.mark.parametrize("parts", [1, 2, 3, 4])  # fifteen cells: with 2 and 4 parts some belong to none
def test_training_forms_are_the_table_of_the_spec(generator, parts):
    maps, semantic = maps_of(generator), module(generator, parts)
    found = semantic(maps)
    assert found.shape == (parts, 3, 3 * S, D)
    for n, form in enumerate(("own", "pg1", "pg2")):
        z = form_by_hand(maps, semantic.tokens, form)
        expected = normalise(z, semantic.norm, z.mean(0), z.var(0, unbiased=False))
        for p in range(parts):
            torch.testing.assert_close(found[p, n], expected[:, p * D : (p + 1) * D])


@pytest.mark.parametrize("p", [2.0, 3.0])
@pytest.mark.parametrize("authors_pg1", [False, True])
def test_pooling_both_at_once_is_pooling_each(generator, p, authors_pg1):
    maps = maps_of(generator).requires_grad_()
    together, apart = (module(torch.Generator().manual_seed(1), authors_pg1=authors_pg1) for _ in range(2))
    gem = GeM(p)
    found, expected = together.with_gem(maps, gem), (gem(maps), apart(maps))
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad(sum(y.square().sum() for y in results), (maps, parts.tokens))
        for results, parts in ((found, together), (expected, apart))
    ]
    torch.testing.assert_close(*gradients)
    assert torch.equal(together.norm.running_var, apart.norm.running_var)


def test_the_norm_sees_own_then_pg1_then_pg2(generator):
    maps, semantic = maps_of(generator), module(generator)
    mean, variance = torch.zeros(3 * D, dtype=torch.float64), torch.ones(3 * D, dtype=torch.float64)
    semantic(maps)
    for form in ("own", "pg1", "pg2"):
        z = form_by_hand(maps, semantic.tokens.detach(), form)
        mean, variance = 0.9 * mean + 0.1 * z.mean(0), 0.9 * variance + 0.1 * z.var(0)
    torch.testing.assert_close(semantic.norm.running_mean, mean)
    torch.testing.assert_close(semantic.norm.running_var, variance)
    assert semantic.norm.num_batches_tracked == 3


@pytest.mark.parametrize("parts", [1, 3])
def test_evaluation_looks_up_the_own_map_with_running_statistics(generator, parts):
    maps, semantic = maps_of(generator), module(generator, parts)
    semantic(maps)
    semantic.eval()
    before = {name: x.clone() for name, x in semantic.state_dict().items()}
    found = semantic.own(maps)
    z = form_by_hand(maps, semantic.tokens, "own")
    expected = normalise(z, semantic.norm, semantic.norm.running_mean, semantic.norm.running_var)
    torch.testing.assert_close(found.flatten(1), expected)
    torch.testing.assert_close(found, semantic(maps)[:, 0].movedim(0, 1))
    torch.testing.assert_close(semantic.own(maps[2:3]), found[2:3])
    assert all(torch.equal(x, before[name]) for name, x in semantic.state_dict().items())


def test_gradients_are_those_of_the_formula(generator):
    maps, semantic = maps_of(generator, rows=6).requires_grad_(), module(generator, parts=2)
    weights = torch.randn(2, 3, 6, D, generator=generator, dtype=torch.float64)
    leaves = maps, semantic.tokens, semantic.norm.weight
    found = torch.autograd.grad((semantic(maps) * weights).sum(), leaves)
    total = 0
    for n, form in enumerate(("own", "pg1", "pg2")):
        z = form_by_hand(maps, semantic.tokens, form)
        z = normalise(z, semantic.norm, z.mean(0), z.var(0, unbiased=False))
        total = total + (z * weights[:, n].movedim(0, 1).flatten(1)).sum()
    torch.testing.assert_close(found, torch.autograd.grad(total, leaves))


def test_reset_makes_tokens_and_norm_fresh(generator):
    semantic = SemanticParts(400, 3)
    semantic(torch.rand(3, 400, 6, 3, generator=generator))
    with torch.no_grad():
        semantic.norm.weight.fill_(3.0)
        semantic.norm.bias.fill_(3.0)
        semantic.tokens.fill_(3.0)
    semantic.reset_parameters(generator)
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
    for parts in (semantic, SemanticParts(400, 3)):
        assert_starts_like_the_published_code(parts)


def assert_starts_like_the_published_code(semantic):
    assert_standard_normal(semantic.tokens / (2 / 400) ** 0.5)
    assert_standard_normal((semantic.norm.weight - 1) / 0.01)
    fresh = torch.nn.BatchNorm1d(1200).state_dict()
    for name, x in semantic.norm.state_dict().items():
        assert name == "weight" or torch.equal(x, fresh[name])
    assert not semantic.norm.bias.requires_grad and semantic.tokens.requires_grad


def assert_standard_normal(numbers):
    numbers, n = numbers.detach(), numbers.numel()
    assert abs(numbers.mean()) < 5 / n**0.5 and abs(numbers.var() - 1) < 5 * (2 / n) ** 0.5


def test_a_frozen_bias_batch_norm_starts_like_the_published_code(seed):
    norms = []
    for n in (seed, seed, seed + 1):
        torch.manual_seed(n)
        norms.append(frozen_bias_batch_norm(2048).weight)
    assert_standard_normal((norms[0] - 1) / 0.01)
    assert torch.equal(norms[0], norms[1]) and not torch.equal(norms[0], norms[2])


def test_reset_draws_from_the_generator_alone(seed):
    state = torch.get_rng_state()
    first, second = SemanticParts(8), SemanticParts(8)
    torch.set_rng_state(state)
    first.reset_parameters(torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), state)
    for again, same in ((seed, True), (seed + 1, False)):
        second.reset_parameters(torch.Generator().manual_seed(again))
        assert torch.equal(first.tokens, second.tokens) == same
        assert torch.equal(first.norm.weight, second.norm.weight) == same


def test_reset_draws_the_same_whatever_the_default_dtype_is(seed):
    first, second = SemanticParts(8), SemanticParts(8)
    first.reset_parameters(torch.Generator().manual_seed(seed))
    with SURROUNDINGS["float64"]():
        second.reset_parameters(torch.Generator().manual_seed(seed))
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.norm.weight, second.norm.weight)


@pytest.mark.parametrize("name", ["meta", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_reset_takes_a_cpu_generator_on_any_device(generator, name):
    """A run has one generator, on the CPU; its network may be elsewhere."""
    semantic, twin = SemanticParts(8).to(name), SemanticParts(8)
    again = torch.Generator()
    again.set_state(generator.get_state())
    semantic.reset_parameters(generator)
    twin.reset_parameters(again)
    assert torch.equal(generator.get_state(), again.get_state())
    assert semantic.tokens.device.type == name
    if name != "meta":
        assert torch.equal(semantic.tokens.cpu(), twin.tokens)
        assert torch.equal(semantic.norm.weight.cpu(), twin.norm.weight)


def test_maps_of_half_precision_are_pooled_in_their_precision(generator):
    maps, semantic = maps_of(generator).float(), module(generator).float()
    wide, half = semantic(maps), semantic(maps.bfloat16())
    assert half.dtype == torch.bfloat16 and semantic.own(maps.bfloat16()).dtype == torch.bfloat16
    assert (half.float() - wide).abs().mean() < 0.05 * wide.abs().mean()


@pytest.mark.parametrize("method", ["forward", "own"])
def test_parts_compile_whole_where_a_program_has_a_default_device(generator, method):
    """Not all methods of tensors do: Dynamo traces those that are written in Python there."""
    maps, semantic = maps_of(generator), module(generator).eval()
    expected = getattr(semantic, method)(maps)
    with SURROUNDINGS["another device"]():
        found = torch.compile(getattr(semantic, method), backend="eager", fullgraph=True)(maps)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
