"""Random memories and sets, and the budget of DESIGN section 4 for a backend's value and gradient."""

import torch
import torch.nn.functional as F

from salcr import ops, reference
from tests.ops.contract import assert_within_budget


def unit(generator, *shape):
    """Unit rows in float64."""
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def random_sets(generator, lead, rows, columns, wide):
    """Some empty, some full, all ascending and padded at the end."""
    wide = min(wide, columns)
    chosen = torch.rand(*lead, rows, columns, generator=generator).argsort(-1)[..., :wide].sort(-1).values
    count = torch.randint(0, wide + 1, (*lead, rows, 1), generator=generator)
    return torch.where(torch.arange(wide) < count, chosen, -1)


def evaluate(function, features, *arguments, **options):
    leaf = features.clone().requires_grad_()
    result = function(leaf, *arguments, **options)
    weights = torch.linspace(0.5, 1.5, result.numel(), dtype=result.dtype).view(result.shape)
    return result.detach(), torch.autograd.grad(result, leaf, weights)[0]


def check(impl, name, features, memory, *arguments, **options):
    """Value and gradient of ``ops.name`` within the budget of eager PyTorch; on a GPU also the same bits twice."""
    plain, fused = getattr(reference, name), getattr(ops, name)
    wide = {k: x.double() if isinstance(x, torch.Tensor) else x for k, x in options.items()}
    exact = evaluate(plain, features.double(), memory.double(), *arguments, **wide)
    eager = evaluate(plain, features, memory, *arguments, **options)
    got = evaluate(fused, features, memory, *arguments, impl=impl, **options)
    for x, e, b in zip(got, exact, eager, strict=True):
        assert_within_budget(x, e, b)
    if features.is_cuda:
        again = evaluate(fused, features, memory, *arguments, impl=impl, **options)
        assert all(map(torch.equal, got, again))
