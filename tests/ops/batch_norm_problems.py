"""Inputs of the batch norm with ReLU, its results and gradients, for the tests of every backend."""

import torch
import torch.nn.functional as F

from salcr import ops, reference
from tests.ops.contract import assert_within_budget

CORNER = 0.02
EPS = 0.1  # far from the default, with which a constant in its place would pass


def problem(
    generator, *, shape=(3, 20, 5, 3), dtype=torch.float32, offset=0.0, shortcut=False, given=False, channels_last=True
):
    """``x``, weight and bias, maybe a shortcut; and statistics by name, maybe none. No sum is near ReLU's corner."""

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    width, wide = shape[1], torch.promote_types(dtype, torch.float32)
    x = 2 * normal(*shape) + offset * (1 + normal(width, 1, 1))
    layout = dict(memory_format=torch.channels_last) if channels_last else {}
    tensors = [x.to(dtype).contiguous(**layout), (1 + 0.3 * normal(width)).to(wide), normal(width).to(wide)]
    tensors += [normal(*shape).to(dtype)] if shortcut else []
    statistics = dict(mean=(offset + normal(width)).to(wide), var=(normal(width).square() + 0.5).to(wide))
    statistics = statistics if given else {}
    while (near := _sums(tensors, statistics).abs() < CORNER).any():
        moved = tensors[-1] if shortcut else tensors[0]
        moved[near] += (1 + torch.rand(int(near.sum()), generator=generator)).to(dtype)
    return tensors, statistics


def _sums(tensors, statistics):
    """What ReLU sees."""
    x, weight, bias, *shortcut = (y.double() for y in tensors)
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    mean, var = (statistics.get(name, y).double() for name, y in (("mean", mean), ("var", var)))
    x = F.batch_norm(x, mean, var, weight, bias, eps=EPS)
    return x + shortcut[0] if shortcut else x


def results_and_gradients(call, tensors, statistics, **options):
    """``[y, mean, var]`` and the gradients of the tensors for a gradient of either sign that is not smooth."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    *ys, mean, var = call(*leaves, **statistics, **options)
    gradients = [torch.linspace(-3, 4, y.numel(), dtype=torch.float64).sin().view(y.shape).to(y) for y in ys]
    found = torch.autograd.grad(ys, leaves, gradients)
    return [*(y.detach() for y in (ys[0], mean, var)), *found]


def by_torch(x, weight, bias, shortcut=None, mean=None, var=None, eps=1e-5):
    """The same by PyTorch's own functions, and running statistics that keep nothing of what they were."""
    training, rows = mean is None, x.numel() // x.shape[1]
    mean, var = (torch.zeros_like(weight.detach()) for _ in range(2)) if training else (mean, var)
    y = F.batch_norm(x, mean, var, weight, bias, training, momentum=1.0, eps=eps)
    y = torch.relu(y if shortcut is None else y + shortcut)
    return y, mean, var * ((rows - 1) / rows if training else 1.0)


def check_budget(impl, tensors, statistics, *, twice=False):
    """Within the budget of the formula in the same precision on the same device."""
    wide = [x.double() for x in tensors], {name: x.double() for name, x in statistics.items()}
    got = results_and_gradients(ops.batch_norm_relu, tensors, statistics, eps=EPS, impl=impl, twice=twice)
    eager = results_and_gradients(reference.batch_norm_relu, tensors, statistics, eps=EPS)
    exact = results_and_gradients(reference.batch_norm_relu, *wide, eps=EPS)
    x, rows = wide[0][0], tensors[0].numel() // tensors[0].shape[1]
    mean, var = (y.view(-1, 1, 1) for y in exact[1:3])
    normalised = ((x - mean) / var.sqrt()).abs()
    size = float((wide[0][1].view(-1, 1, 1) / var.sqrt()).abs().max())  # what a rounding of x makes of y
    largest, slope = float(x.abs().max()), 2.0 if twice else 1.0
    magnitudes = [
        size * largest,
        largest,
        largest * float((x - mean).abs().max()),
        slope * size * (2 + float(normalised.max()) ** 2),
        slope * rows * float(normalised.max()) * max(1.0, largest / float(var.sqrt().min())),
        slope * rows,
        slope,
    ]
    doubled = [1, 1, 1] + [slope] * 4
    for found, true, rival, magnitude, factor in zip(got, exact, eager, magnitudes, doubled, strict=False):
        assert_within_budget(found, true * factor, rival * factor, terms=rows + 4, magnitude=magnitude)


def check_far_mean(impl, generator, offset):
    (x, weight, bias), _ = problem(generator, shape=(4, 33, 7, 5), offset=offset)
    x[0, :, 0, 0] *= 1.5  # the first row is like no other
    _, mean, var = ops.batch_norm_relu(x, weight, bias, impl=impl)
    exact = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), exact[0], rtol=1e-5, atol=0)
