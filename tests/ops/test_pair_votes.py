"""``pair_votes``: pairs of similar images, counted by their clusters."""

import pytest
import torch

from salcr import ops
from salcr.ops.backends.eager import clustering


def problem(generator, rows=40, others=25, width=6):
    x, y = (torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (rows, others))
    return (
        x,
        torch.randint(-1, 5, (rows,), generator=generator),
        y,
        torch.randint(-1, 4, (others,), generator=generator),
    )


@pytest.mark.parametrize("impl", ["eager", "reference"])
@pytest.mark.parametrize("threshold", [-2.0, -0.4, 0.0, 0.6, 1.5])
@pytest.mark.parametrize("block", [1, 60, 2**22])
def test_pairs_one_by_one(generator, monkeypatch, impl, threshold, block):
    monkeypatch.setattr(clustering, "BLOCK_PAIRS", block)
    x, x_labels, y, y_labels = problem(generator)
    expected = torch.zeros(int(x_labels.max()) + 1, int(y_labels.max()) + 1, dtype=torch.int64)
    for i, a in enumerate(x_labels.tolist()):
        for j, b in enumerate(y_labels.tolist()):
            if a >= 0 and b >= 0 and torch.cosine_similarity(x[i], y[j], dim=0) >= threshold:
                expected[a, b] += 1
    got = ops.pair_votes(x, x_labels, y, y_labels, threshold, impl=impl)
    assert got.dtype == torch.int64 and torch.equal(got, expected)
    assert torch.equal(ops.pair_votes(3 * y, y_labels, x, x_labels, threshold, impl=impl), expected.T)
    assert (threshold > -2) == (got.sum() < (x_labels >= 0).sum() * (y_labels >= 0).sum())


@pytest.mark.parametrize("impl", ["eager", "reference"])
def test_noise_alone_has_no_cluster(generator, impl):
    x, x_labels, y, y_labels = problem(generator)
    noise = torch.full_like(x_labels, -1)
    assert ops.pair_votes(x, noise, y, y_labels, 0.0, impl=impl).shape == (0, int(y_labels.max()) + 1)
    assert ops.pair_votes(y, y_labels, x, noise, 0.0, impl=impl).shape == (int(y_labels.max()) + 1, 0)
    assert ops.pair_votes(x, noise, x, noise, 0.0, impl=impl).shape == (0, 0)


@pytest.mark.parametrize("impl", ["eager", "reference"])
def test_half_precision_is_computed_in_float32(generator, impl):
    x, x_labels, y, y_labels = problem(generator, width=64)
    x, y = x.bfloat16(), y.bfloat16()
    expected = ops.pair_votes(x.float(), x_labels, y.float(), y_labels, 0.1)
    assert torch.equal(ops.pair_votes(x, x_labels, y, y_labels, 0.1, impl=impl), expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=torch.ones(3)), ValueError, "x must have 2 axes"),
        (dict(x=torch.full((3, 2), torch.nan)), ValueError, "x has NaN or Inf, first in row 0"),
        (dict(y=torch.ones(4, 3)), ValueError, "y has rows of width 3, x of width 2"),
        (dict(y=torch.ones(4, 2).double()), TypeError, r"y is torch\.float64, x torch\.float32"),
        (dict(x_labels=torch.zeros(3)), TypeError, "x_labels must be int64"),
        (dict(x_labels=torch.zeros(4, dtype=torch.int64)), ValueError, "x_labels has 4 entries for 3 rows"),
        (dict(x_labels=torch.tensor([0, 3, 1])), ValueError, r"x_labels must be in \[-1, 3\), got 0 to 3"),
        (dict(y_labels=torch.tensor([0, -2, 1, 1])), ValueError, r"y_labels must be in \[-1, 4\), got -2 to 1"),
        (dict(threshold=float("nan")), ValueError, "threshold is NaN"),
        (dict(threshold=torch.tensor(0.5)), TypeError, "threshold must be a number, got Tensor"),
        (dict(impl="cpp"), ValueError, "pair_votes has the backends eager, reference"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    good = dict(
        x=torch.ones(3, 2), x_labels=torch.arange(3), y=torch.ones(4, 2), y_labels=torch.arange(4), threshold=0.5
    )
    with pytest.raises(error, match=message):
        ops.pair_votes(**(good | change))
