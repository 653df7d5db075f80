"""``set_contrast`` with several sets: their union, or each of them."""

import pytest
import torch
import torch.nn.functional as F

from salcr import ops
from salcr.ops import instance_memory
from tests.ops.contract import assert_compiles
from tests.ops.memories import CPU_BACKENDS, check, evaluate, random_memory, random_sets

BACKENDS = ["eager", *CPU_BACKENDS]


def by_hand(features, memory, sets, over, temperature):
    """Row by row, with Python's sets; no leading axis."""
    probabilities = torch.softmax(F.normalize(features) @ memory.T / temperature, dim=1)
    members = [[{j for j in row if j >= 0} for row in one.tolist()] for one in sets]
    if over == "union":
        members = [[set.union(*rows) for rows in zip(*members, strict=True)]]
    means = []
    for one in members:
        losses = [-torch.log(p[sorted(row)].sum()) for p, row in zip(probabilities, one, strict=True) if row]
        means.append(torch.stack(losses).mean() if losses else probabilities.sum() * 0)
    return torch.stack(means).mean()


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("over", ["union", "each"])
def test_the_formula(generator, impl, over):
    features, memory = random_memory(generator, (), 9, 20, 6, torch.float64)
    sets = [random_sets(generator, (), 9, 20, wide) for wide in (5, 1, 8)]
    sets[1] = torch.full((9, 1), -1)  # empty in all rows
    expected = evaluate(by_hand, features, memory, sets, over, 0.3)
    for given in (sets, tuple(sets)):
        found = evaluate(ops.set_contrast, features, memory, given, over=over, temperature=0.3, impl=impl)
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        alone = ops.set_contrast(features, memory, sets, over=over, temperature=0.3, impl=impl)
    torch.testing.assert_close(alone, expected[0])


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("over", ["union", "each"])
def test_within_the_budget_of_eager_pytorch(generator, impl, over):
    features, memory = random_memory(generator, (2,), 11, 40, 7, torch.float32)
    sets = [random_sets(generator, (2,), 11, 40, 9), random_sets(generator, (), 11, 40, 3)]
    check(impl, "set_contrast", features, memory, sets, over=over)


@pytest.mark.parametrize("impl", BACKENDS)
@pytest.mark.parametrize("known", ["lse", "both"])
def test_sums_of_a_search_are_taken(generator, impl, known):
    features, memory = random_memory(generator, (2,), 11, 40, 7, torch.float64)
    sets = [random_sets(generator, (2,), 11, 40, wide) for wide in (9, 3)]
    _, lse, mean_row = ops.instance_search(features, memory, 5)
    options = dict(over="each", impl=impl)
    expected = evaluate(ops.set_contrast, features, memory, sets, **options)
    options |= dict(lse=lse, mean_row=mean_row if known == "both" else None)
    torch.testing.assert_close(evaluate(ops.set_contrast, features, memory, sets, **options), expected)


@pytest.mark.parametrize("gradient", [False, True])
def test_a_preferred_backend_runs_it(generator, gradient):
    features, memory = random_memory(generator, (), 9, 20, 6, torch.float64)
    sets = [random_sets(generator, (), 9, 20, 4) for _ in range(2)]
    features.requires_grad_(gradient)
    expected = ops.set_contrast(features, memory, sets, over="each")
    with ops.use_backend("reference"):
        torch.testing.assert_close(ops.set_contrast(features, memory, sets, over="each"), expected)


def test_the_memory_is_searched_once_for_all_sets(generator, monkeypatch):
    features, memory = random_memory(generator, (), 11, 40, 7, torch.float32)
    sets, given = [random_sets(generator, (), 11, 40, 4) for _ in range(5)], []
    contrast = instance_memory.apply
    monkeypatch.setattr(instance_memory, "apply", lambda *x: given.append(x[4:6]) or contrast(*x))
    evaluate(ops.set_contrast, features, memory, sets, over="each")
    assert len(given) == 5 and None not in given[0]
    assert all(lse is given[0][0] and mean_row is given[0][1] for lse, mean_row in given)


@pytest.mark.parametrize("over", ["union", "each"])
def test_one_set_is_one_set(generator, over):
    features, memory = random_memory(generator, (), 9, 20, 6, torch.float32)
    positives = random_sets(generator, (), 9, 20, 5)
    expected = ops.set_contrast(features, memory, positives)
    for given in (positives, [positives]):
        assert torch.equal(ops.set_contrast(features, memory, given, over=over), expected)


@pytest.mark.parametrize("over", ["union", "each"])
def test_compiles(generator, over):
    def contrast(features, memory, one, other):
        return ops.set_contrast(features, memory, [one, other], over=over)

    examples = []
    for rows, columns in ((9, 20), (5, 12)):
        features, memory = random_memory(generator, (), rows, columns, 6, torch.float32)
        sets = (random_sets(generator, (), rows, columns, wide) for wide in (4, 7))
        examples.append((features.requires_grad_(), memory, *sets))
    assert_compiles(contrast, *examples)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(over="all"), ValueError, "over must be one of union, each, got 'all'"),
        (dict(positives=[]), ValueError, "positives is an empty sequence of sets"),
        (dict(positives=None), TypeError, "positives must be a torch.Tensor"),
        (dict(positives="sets"), TypeError, "positives must be a torch.Tensor"),
        (dict(positives=[torch.zeros(9, 1)]), TypeError, r"positives\[0\] must be int64"),
        (
            dict(positives=[torch.zeros(n, 1, dtype=torch.int64) for n in (9, 9, 8)]),
            ValueError,
            r"positives\[2\] \(8, 1\)",
        ),
        (dict(positives=[torch.full((9, 1), 20)] * 2), ValueError, "positives must be below 20, got 20"),
        (dict(positives=[torch.tensor([[3, 2]] * 9)] * 2), ValueError, "must be ascending"),
    ],
)
@pytest.mark.parametrize("over", ["union", "each"])
def test_bad_arguments_are_named(generator, change, error, message, over):
    features, memory = random_memory(generator, (), 9, 20, 6, torch.float32)
    with pytest.raises(error, match=message):
        ops.set_contrast(features, memory, **(dict(positives=random_sets(generator, (), 9, 20, 4), over=over) | change))
