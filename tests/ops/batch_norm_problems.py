"""Inputs of the batch norm with ReLU, its results and gradients, for the tests of every backend."""

import torch
import torch.nn.functional as F

from salcr import ops, reference
from tests.ops.contract import assert_within_budget

CORNER = 0.02
EPS = 0.1  # far from the default, with which a constant in its place would pass


def problem(
    generator,
    *,
    shape=(3, 20, 5, 3),
    dtype=torch.float32,
    offset=0.0,
    shortcut=False,
    normed=False,
    given=False,
    channels_last=True,
):
    """``x``, weight and bias, maybe a shortcut, maybe that one's weight and bias; and statistics by name, maybe none.

    No sum is near ReLU's corner.
    """

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    width, wide = shape[1], torch.promote_types(dtype, torch.float32)
    layout = dict(memory_format=torch.channels_last) if channels_last else {}
    tensors, statistics = [], {}
    for prefix in ("", "shortcut_") if normed else ("",):
        x = 2 * normal(*shape) + offset * (1 + normal(width, 1, 1))
        tensors += [x.to(dtype).contiguous(**layout), (1 + 0.3 * normal(width)).to(wide), normal(width).to(wide)]
        numbers = dict(mean=(offset + normal(width)).to(wide), var=(normal(width).square() + 0.5).to(wide))
        statistics |= {prefix + name: y for name, y in numbers.items()}
    tensors += [normal(*shape).to(dtype)] if shortcut and not normed else []
    statistics = statistics if given else {}
    while (near := _sums(tensors, statistics).abs() < CORNER).any():
        moved = tensors[3] if shortcut else tensors[0]
        moved[near] += (1 + torch.rand(int(near.sum()), generator=generator)).to(dtype)
    return tensors, statistics


def arguments(x, weight, bias, shortcut=None, shortcut_weight=None, shortcut_bias=None):
    """Of an operator, by name."""
    norm = {} if shortcut_weight is None else dict(shortcut_weight=shortcut_weight, shortcut_bias=shortcut_bias)
    return dict(x=x, weight=weight, bias=bias, shortcut=shortcut) | norm


def _sums(tensors, statistics):
    """What ReLU sees."""
    given = {name: y.double() for name, y in statistics.items()}
    named = {name: y if y is None else y.double() for name, y in arguments(*tensors).items()}
    sums = torch.zeros_like(named["x"])
    for prefix, x in dict(zip(("", "shortcut_"), maps_with_a_norm(list(named.values())), strict=False)).items():
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        mean, var = given.get(f"{prefix}mean", mean), given.get(f"{prefix}var", var)
        sums += F.batch_norm(x, mean, var, named[f"{prefix}weight"], named[f"{prefix}bias"], eps=EPS)
    return sums + named["shortcut"] if len(tensors) == 4 else sums


def maps_with_a_norm(tensors):
    return tensors[::3] if len(tensors) > 4 else tensors[:1]


def results_and_gradients(call, tensors, statistics, **options):
    """``[y, mean, var, ...]`` and the gradients of the tensors for a gradient of either sign that is not smooth."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    found, count = call(**arguments(*leaves), **statistics, **options), 2 * len(maps_with_a_norm(tensors))
    ys = found[:-count]
    gradients = [torch.linspace(-3, 4, y.numel(), dtype=torch.float64).sin().view(y.shape).to(y) for y in ys]
    of_leaves = torch.autograd.grad(ys, leaves, gradients)
    return [*(y.detach() for y in (ys[0], *found[-count:])), *of_leaves]


def by_torch(x, weight, bias, shortcut=None, *, eps=1e-5, **others):
    """The same by PyTorch's own functions, and running statistics that keep nothing of what they were."""
    rows, used = x.numel() // x.shape[1], []

    def norm(x, weight, bias, mean=None, var=None):
        training = mean is None
        mean, var = (torch.zeros_like(weight.detach()) for _ in range(2)) if training else (mean, var)
        y = F.batch_norm(x, mean, var, weight, bias, training, momentum=1.0, eps=eps)
        used.extend((mean, var * ((rows - 1) / rows if training else 1.0)))
        return y

    of_shortcut = {name.removeprefix("shortcut_"): y for name, y in others.items() if name.startswith("shortcut_")}
    y = norm(x, weight, bias, **{name: y for name, y in others.items() if not name.startswith("shortcut_")})
    shortcut = norm(shortcut, **of_shortcut) if of_shortcut else shortcut
    return torch.relu(y if shortcut is None else y + shortcut), *used


def check_budget(impl, tensors, statistics, *, twice=False):
    """Within the budget of the formula in the same precision on the same device."""
    wide = [x.double() for x in tensors], {name: x.double() for name, x in statistics.items()}
    got = results_and_gradients(ops.batch_norm_relu, tensors, statistics, eps=EPS, impl=impl, twice=twice)
    eager = results_and_gradients(reference.batch_norm_relu, tensors, statistics, eps=EPS)
    exact = results_and_gradients(reference.batch_norm_relu, *wide, eps=EPS)
    rows, slope = tensors[0].numel() // tensors[0].shape[1], 2.0 if twice else 1.0
    of_y, of_statistics, of_gradients = 0.0, [], []
    for n, x in enumerate(maps_with_a_norm(wide[0])):
        mean, var = (y.view(-1, 1, 1) for y in exact[1 + 2 * n : 3 + 2 * n])
        normalised = float(((x - mean) / var.sqrt()).abs().max())
        weight, largest = wide[0][3 * n + 1].view(-1, 1, 1), float(x.abs().max())
        size = float((weight / var.sqrt()).abs().max())  # what a rounding of x makes of y
        of_y += size * largest
        of_statistics += [largest, largest * float((x - mean).abs().max())]
        of_gradients += [
            slope * size * (2 + normalised**2),
            slope * rows * normalised * max(1.0, largest / float(var.sqrt().min())),
            slope * rows,
        ]
    magnitudes = [of_y, *of_statistics, *of_gradients, slope]  # the last one of a shortcut without a norm
    doubled = [1] * (1 + len(of_statistics)) + [slope] * len(tensors)
    for found, true, rival, magnitude, factor in zip(got, exact, eager, magnitudes, doubled, strict=False):
        assert_within_budget(found, true * factor, rival * factor, terms=rows + 4, magnitude=magnitude)


def check_far_mean(impl, generator, offset):
    (x, weight, bias), _ = problem(generator, shape=(4, 33, 7, 5), offset=offset)
    x[0, :, 0, 0] *= 1.5  # the first row is like no other
    _, mean, var = ops.batch_norm_relu(x, weight, bias, impl=impl)
    exact = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), exact[0], rtol=1e-5, atol=0)
