"""The operators of a stage-two step's losses one by one, at SYSU-MM01's sizes with its visible images."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.case import Case, close
from benchmarks.features import clustered
from salcr import ops, reference

K = 30


def _classes(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Part features of visible queries, a part memory, targets."""
    rows, columns, width = (48, 9, 64) if quick else (864, 600, 2048)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, rows, width, generator=generator)
    memory = F.normalize(torch.randn(3, columns, width, generator=generator), dim=-1)
    targets = torch.randint(columns, (rows,), generator=generator)
    return features.to(device), memory.to(device), targets.to(device)


def _images(device: str, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """All forms of the part features of a batch, and a memory whose rows lie in clusters of K: no ties at the K-th."""
    rows, columns, width = (24, 300, 1024) if quick else (1296, 22258, 2048)
    memory = torch.stack([clustered(columns, K, width, device, seed) for seed in (1, 2, 3)])
    generator = torch.Generator().manual_seed(0)
    seen = memory[:, torch.randint(columns, (rows,), generator=generator).to(device)]
    return seen + 2 * F.normalize(torch.randn(seen.shape, generator=generator), dim=-1).to(device), memory


def _sets_of_images(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """The same with a third of each row's neighbours as positives, and what the search knows already."""
    features, memory = _images(device, quick)
    neighbours, *known = ops.instance_search(features, memory, K)
    return features, memory, neighbours[..., ::3].contiguous(), *known


def _neighbours(device: str, quick: bool) -> tuple[torch.Tensor, ...]:
    """Neighbours of the part features, three sets a row."""
    generator = torch.Generator().manual_seed(0)
    sets = [torch.rand(3, 24 if quick else 1296, 90, generator=generator).argsort(-1)[..., :K] for _ in range(3)]
    return tuple(x.sort(-1).values.to(device) for x in sets)


def _contrast(function: Callable, features, memory, targets) -> tuple[torch.Tensor, torch.Tensor]:
    return _with_gradient(function, features, memory, targets)


def _set_contrast(function: Callable, features, memory, positives, lse, mean_row) -> tuple[torch.Tensor, torch.Tensor]:
    return _with_gradient(function, features, memory, positives, lse=lse, mean_row=mean_row)


def _with_gradient(function: Callable, features, *arguments, **known) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = features.detach().requires_grad_()
    loss = function(leaf, *arguments, **known)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def _search(function: Callable, features, memory) -> tuple[torch.Tensor, ...]:
    return function(features, memory, K)


def _agree(functions: tuple[Callable, Callable], own, pg1, pg2) -> torch.Tensor:
    """What training makes of three neighbour sets: two united, then cut with the third."""
    intersect, unite = functions
    return intersect(unite(pg1, pg2), own)


def _agree_by_masks(own, pg1, pg2) -> torch.Tensor:
    """As published: dense 0/1 rows over the images."""
    size = int(max(x.max() for x in (own, pg1, pg2))) + 1
    masks = [torch.zeros(*x.shape[:-1], size, device=x.device).scatter_(-1, x, 1.0) for x in (own, pg1, pg2)]
    kept = masks[0] * ((masks[1] + masks[2]) > 0)
    places = torch.where(kept > 0, torch.arange(size, device=own.device), size).sort(-1).values[..., :K]
    return torch.where(places == size, -1, places)


def _same_search(outputs: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    assert torch.equal(outputs[0], expected[0])
    close(outputs[1:], expected[1:])


def _same_sets(outputs: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(outputs, expected)


def _compiled(name: str) -> Callable:
    return lambda *arguments, **options: torch.compile(getattr(reference, name))(*arguments, **options)


def _variants(step: Callable, name: str) -> dict[str, Callable]:
    forms = {"reference": getattr(reference, name), "compiled": _compiled(name)}
    forms |= {impl: partial(getattr(ops, name), impl=impl) for impl in ("cpp", "triton")}
    return {variant: partial(step, function) for variant, function in forms.items()}


def _set_functions(room: object, **options) -> tuple[Callable, Callable]:
    return tuple(partial(getattr(room, name), **options) for name in ("intersect_sets", "unite_sets"))


CASES = (
    Case(
        "cluster_contrast",
        "3 x 864 part rows against 600 clusters each, width 2048, forward and backward",
        _classes,
        _variants(_contrast, "cluster_contrast"),
        close,
    ),
    Case(
        "instance_search",
        "3 x 1,296 part rows against 22,258 images each, width 2048: 30 neighbours, log-sum-exp, mean row",
        _images,
        {
            "eager": partial(_search, partial(ops.instance_search, impl="eager")),
            "compiled": partial(_search, _compiled("instance_search")),
            "cpp": partial(_search, partial(ops.instance_search, impl="cpp")),
            "triton": partial(_search, partial(ops.instance_search, impl="triton")),
        },
        _same_search,
    ),
    Case(
        "set_contrast",
        "3 x 1,296 part rows with 10 positives each among 22,258 images, forward and backward, after the search "
        "(reference: autograd through all logits)",
        _sets_of_images,
        _variants(_set_contrast, "set_contrast"),
        close,
    ),
    Case(
        "index_sets",
        "3 x 1,296 rows of three sets of 30: two united, then cut with the third",
        _neighbours,
        {
            "reference": partial(_agree, _set_functions(reference)),
            "published": _agree_by_masks,
            "triton": partial(_agree, _set_functions(ops, impl="triton")),
        },
        _same_sets,
    ),
)
