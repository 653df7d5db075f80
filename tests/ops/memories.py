"""Random memories and sets, and what any backend of the memory operators has to satisfy, as assertions."""

import math

import pytest
import torch
import torch.nn.functional as F

from salcr import ops, reference
from salcr.ops._dispatch import missing
from salcr.ops.cluster_memory import REDUCTIONS
from salcr.ops.cluster_memory_update import update_cluster_memories_
from tests.ops.contract import assert_within_budget

CPU_BACKENDS = [
    "reference",
    pytest.param("cpp", marks=pytest.mark.skipif(bool(missing("cpp")), reason=str(missing("cpp")))),
]


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
    weights = torch.linspace(0.5, 1.5, result.numel(), dtype=result.dtype, device=result.device).view(result.shape)
    return result.detach(), torch.autograd.grad(result, leaf, weights)[0]


def check(impl, name, features, memory, *arguments, **options):
    """Value and gradient of ``ops.name`` within the budget of eager PyTorch; on a GPU also the same bits twice."""
    plain, fused, temperature = getattr(reference, name), getattr(ops, name), options.get("temperature", 0.05)
    wide = {k: x.double() if isinstance(x, torch.Tensor) else x for k, x in options.items()}
    exact = evaluate(plain, features.double(), memory.double(), *arguments, **wide)
    eager = evaluate(plain, features, memory, *arguments, **options)
    got = evaluate(fused, features, memory, *arguments, impl=impl, **options)
    if features.is_cuda:
        again = evaluate(fused, features, memory, *arguments, impl=impl, **options)
        assert all(map(torch.equal, got, again))
    summed = features.shape[:-1].numel() if options.get("reduction") == "sum" else 1
    largest = float(options["weights"].max()) if "weights" in options else 1.0
    largest *= float(options["soft_targets"].sum(-1).max()) if "soft_targets" in options else 1.0
    options = dict(summed=summed, largest=largest)
    assert_contrast_within_budget(got, exact, eager, memory, temperature, **options)


def largest_lse(columns, temperature=0.05):
    """Bound of the logits, products of unit rows divided by the temperature, and of the LSE of a row of them."""
    return 1 / temperature + math.log(columns)


def assert_contrast_within_budget(got, exact, eager, memory, temperature=0.05, *, summed=1, largest=1.0):
    """Value and gradient: a difference of two LSEs or logits, ``summed`` of them; softmax weights times memory rows.

    ``largest`` is the largest factor of such a difference.
    """
    lse = largest_lse(memory.shape[-2], temperature)
    magnitudes = 2 * lse * summed * largest, lse * exact[1].abs().max()
    for x, y, z, magnitude in zip(got, exact, eager, magnitudes, strict=True):
        assert_within_budget(x, y, z, terms=sum(memory.shape[-2:]) + summed, magnitude=magnitude)


def assert_search_within_budget(got, exact, eager, memory, temperature=0.05):
    """LSE and ``softmax @ memory``: the relative error of a softmax's weights is the absolute error of its logits."""
    lse = largest_lse(memory.shape[-2], temperature)
    for x, y, z, magnitude in zip(got, exact, eager, (lse, lse * exact[1].abs().max()), strict=True):
        assert_within_budget(x, y, z, terms=sum(memory.shape[-2:]), magnitude=magnitude)


def random_memory(generator, lead, rows, columns, width, dtype):
    """Features and a memory of unit rows."""
    features = torch.randn(*lead, rows, width, generator=generator).to(dtype)
    return features, unit(generator, *lead, columns, width).to(dtype)


def contrast_problem(generator, banks=None, samples=23, classes=7, width=19, dtype=torch.float32):
    """Features, a memory and targets, some of which are ignored."""
    lead = () if banks is None else (banks,)
    targets = torch.randint(-1, classes, (*lead, samples), generator=generator)
    return *random_memory(generator, lead, samples, classes, width, dtype), targets


def check_contrasts(impl, generator, lead, rows, columns, width, dtype, reductions=REDUCTIONS):
    """Both contrasts, the reductions, targets and sets of each part and shared by all."""
    features, memory = random_memory(generator, lead, rows, columns, width, dtype)
    targets = torch.randint(-1, columns, (*lead, rows), generator=generator)
    for reduction in reductions:
        options = dict(reduction=reduction, temperature=0.1)
        check(impl, "cluster_contrast", features, memory, targets, **options)
    check(impl, "cluster_contrast", features, memory, targets[0] if lead else targets)
    if columns == 1:
        return  # a set of all rows is a difference of equal numbers: check_one_class_and_ignored_rows
    _, lse, mean_row = ops.instance_search(features, memory, 5, impl=impl)
    for wide, known in ((1, {}), (12, {}), (12, dict(lse=lse)), (12, dict(lse=lse, mean_row=mean_row))):
        positives = random_sets(generator, lead, rows, columns, wide)
        check(impl, "set_contrast", features, memory, positives, **known)
    check(impl, "set_contrast", features, memory, positives[0] if lead else positives, temperature=0.5)


def hardest_problem(generator, lead, dtype):
    """Memory, features and targets: four classes of about nine samples, one without any, cosines well apart."""
    memory, features = unit(generator, *lead, 5, 7).to(dtype), torch.randn(*lead, 40, 7, generator=generator).to(dtype)
    return memory, features, torch.randint(-1, 4, (*lead, 40), generator=generator)


def check_hardest(impl, generator, lead, momentum, dtype):
    """Class after class and part after part, with and without an order that all parts share."""
    memory, features, targets = hardest_problem(generator, lead, dtype)
    for order in (None, torch.randperm(40, generator=generator)):
        expected = memory.to(torch.float64, copy=True)
        for part in range(math.prod(lead)):
            rows, x, labels = (y[part] if lead else y for y in (expected, features, targets))
            for k in range(4):
                members = [b for b in (range(40) if order is None else order.tolist()) if labels[b] == k]
                cosines = [float(torch.cosine_similarity(x[b].double(), rows[k], dim=0)) for b in members]
                hardest = x[members[cosines.index(min(cosines))]].double()
                rows[k] = F.normalize(momentum * rows[k] + (1 - momentum) * F.normalize(hardest, dim=0), dim=0)
        got = memory.clone()
        options = dict(momentum=momentum, order=order, select="hardest", impl=impl)
        assert ops.update_cluster_memory_(got, features, targets, **options) is got
        torch.testing.assert_close(got, expected.to(dtype))
        again = ops.update_cluster_memory_(memory.mT.contiguous().mT, features, targets, **options)
        assert torch.equal(again, got)


def soft_problem(generator, lead, rows, columns, width, dtype):
    """Features, memory, probabilities of which one row is all zeros, and weights between 0 and 2."""
    features, memory = random_memory(generator, lead, rows, columns, width, dtype)
    soft = torch.randn(*lead, rows, columns, generator=generator).mul(2).softmax(-1).to(dtype)
    soft.view(-1, columns)[1] = 0
    return features, memory, soft, 2 * torch.rand(*lead, rows, generator=generator).to(dtype)


def check_soft_contrast(impl, generator, lead, rows, columns, width, dtype, device="cpu", reductions=REDUCTIONS):
    """The reductions, with soft targets, with weights, with both, and with sums above 1."""
    features, memory, soft, weights = (x.to(device) for x in soft_problem(generator, lead, rows, columns, width, dtype))
    targets = torch.randint(-1, columns, (*lead, rows), generator=generator).to(device)
    for reduction in reductions:
        options = dict(reduction=reduction, temperature=0.1)
        check(impl, "cluster_contrast", features, memory, targets, weights=weights, **options)
        check(impl, "cluster_contrast", features, memory, soft_targets=soft, weights=weights, **options)
    check(impl, "cluster_contrast", features, memory, soft_targets=3 * soft)


def check_search(impl, generator, lead, rows, columns, width, k):
    """Neighbours as in float64, numbers within the budget."""
    features, memory = random_memory(generator, lead, rows, columns, width, torch.float32)
    exact = reference.instance_search(features.double(), memory.double(), k)
    eager = reference.instance_search(features, memory, k)
    got = ops.instance_search(features, memory, k, impl=impl)
    assert torch.equal(got[0], exact[0])
    assert_search_within_budget(got[1:], exact[1:], eager[1:], memory)
    alone = ops.instance_neighbors(features, memory, k, impl=impl)
    assert torch.equal(alone[0], got[0]) and torch.equal(alone[1], got[1])


def check_ties(impl, generator):
    """Whole numbers, whose products are exact: every copy of a row ties with it, near to it and far from it."""
    memory = torch.randint(-1, 2, (80, 4), generator=generator).float()
    features = F.one_hot(torch.arange(4)).float()
    for k in (1, 40, 79, 80, 100):
        expected = reference.instance_neighbors(features, memory, k)[0]
        assert torch.equal(ops.instance_neighbors(features, memory, k, impl=impl)[0], expected)
    same = memory[:1].expand(60, 4).contiguous()
    assert (ops.instance_neighbors(features, same, 59, impl=impl)[0] == -1).all()


def check_precision(impl, precision, generator, rows=37, columns=50, width=64, device="cpu"):
    """Both contrasts within the budget of eager PyTorch at that precision; for TF32, which it may lack, in bfloat16."""
    features, memory = (x.to(device) for x in random_memory(generator, (3,), rows, columns, width, torch.float32))
    targets = torch.randint(-1, columns, (3, rows), generator=generator).to(device)
    positives = random_sets(generator, (3,), rows, columns, 30).to(device)
    for name, of_rows in (("cluster_contrast", targets), ("set_contrast", positives)):
        exact = evaluate(getattr(reference, name), features.double(), memory.double(), of_rows)
        rounded = (x if precision == "float32" else x.bfloat16() for x in (features, memory))
        eager = (x.float() for x in evaluate(getattr(reference, name), *rounded, of_rows))
        got = evaluate(getattr(ops, name), features, memory, of_rows, precision=precision, impl=impl)
        assert_contrast_within_budget(got, exact, tuple(eager), memory)


def check_precision_of_search(impl, generator, rows=7, columns=150, width=40, k=5, device="cpu", same_lse=True):
    """Neighbours are the same with any precision, among ties and where rows are 1e-5 apart.

    Memory rows come in threes, two of which are one: ``k`` ends among those. The LSE is the same but on a GPU, where
    threads share a row by how wide the weights are that they write, and so add its exponentials in another order.
    """
    features, memory = random_memory(generator, (3,), rows, columns, width, torch.float32)
    memory[:, 1::3] = memory[:, ::3]
    near = torch.randn(memory[:, ::3].shape, generator=generator)
    memory[:, 2::3] = F.normalize(memory[:, ::3] + 1e-5 * near, dim=-1)
    features, memory = features.to(device), memory.to(device)
    exact = ops.instance_search(features, memory, k, precision="float32", impl=impl)
    expected = reference.instance_search(features.double(), memory.double(), k)
    eager = reference.instance_search(features.bfloat16(), memory.bfloat16(), k)
    assert not torch.equal(eager[0], exact[0])
    for precision in ("tf32", "bfloat16"):
        got = ops.instance_search(features, memory, k, precision=precision, impl=impl)
        assert torch.equal(got[0], exact[0]) and (torch.equal(got[1], exact[1]) or not same_lse)
        assert_search_within_budget(got[1:], expected[1:], [x.float() for x in eager[1:]], memory)


def check_one_class_and_ignored_rows(impl, generator):
    features, targets = torch.randn(2, 3, 7, generator=generator), torch.zeros(2, 3, dtype=torch.int64)
    for memory, y in ((unit(generator, 2, 1, 7), targets), (unit(generator, 2, 5, 7), targets - 1)):
        loss, gradient = evaluate(ops.cluster_contrast, features, memory.float(), y, impl=impl)
        assert loss == 0 and not gradient.any()
        loss, gradient = evaluate(ops.set_contrast, features, memory.float(), y.unsqueeze(-1), impl=impl)
        assert loss.abs() < 1e-5 and gradient.abs().max() < 1e-4


def check_one_row(impl, generator):
    """A row alone and the same row among others."""
    features, memory = random_memory(generator, (), 5, 33, 7, torch.float32)
    positives = random_sets(generator, (), 5, 33, 4)
    positives[2] = torch.tensor([7, 11, 24, -1])
    options = dict(impl=impl, temperature=0.1)
    search = ops.instance_search(features, memory, 4, **options)
    for x, y in zip(ops.instance_search(features[2:3], memory, 4, **options), search, strict=True):
        torch.testing.assert_close(x, y[2:3])
    for name, of_rows in (("cluster_contrast", positives[:, 0].clamp_min(0)), ("set_contrast", positives)):
        alone = evaluate(getattr(ops, name), features[2:3], memory, of_rows[2:3], **options)
        others = torch.where(torch.arange(5).view(-1, *[1] * (of_rows.ndim - 1)) == 2, of_rows, -1)
        among = evaluate(getattr(ops, name), features, memory, others, **options)
        torch.testing.assert_close(alone, (among[0], among[1][2:3]))


def check_strided(impl, generator):
    """Transposed features and memory, rows that do not start at a multiple of 16 bytes, targets out of a table."""
    features = torch.randn(20, 9, generator=generator).mT
    memory = unit(generator, 20, 15).float().mT
    wide = torch.randint(0, 15, (9, 2), generator=generator)
    check(impl, "cluster_contrast", features, memory, wide[:, 1])
    check(impl, "set_contrast", features[:, 1:], memory[:, 1:], wide.sort(-1).values[:, :1])
    features, memory = random_memory(generator, (), 9, 15, 20, torch.float32)
    shifted = (torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x) for x in (features, memory))
    found = (evaluate(ops.cluster_contrast, *rows, wide[:, 0], impl=impl) for rows in ((features, memory), shifted))
    assert all(map(torch.equal, *found))


def check_extremes(impl, generator):
    """Temperatures near 0 and large, a row of zeros, and a row of NaN, which stays in its own row."""
    features, memory = random_memory(generator, (), 13, 90, 8, torch.float32)
    features[1] = 0
    targets = torch.randint(90, (13,), generator=generator)
    for temperature in (1e-4, 10.0):
        options = dict(temperature=temperature, impl=impl)
        check(impl, "cluster_contrast", features[::2], memory, targets[::2], reduction="none", temperature=temperature)
        value, gradient = evaluate(ops.cluster_contrast, features, memory, targets, **options)
        assert torch.isfinite(value) and torch.isfinite(gradient).all()
        assert all(torch.isfinite(x).all() for x in ops.instance_search(features, memory, 3, **options))
    clean = ops.instance_search(features, memory, 3, impl=impl)
    features[1] = torch.nan
    spoilt = ops.instance_search(features, memory, 3, impl=impl)
    assert spoilt[1][1].isnan() and spoilt[2][1].isnan().all() and (spoilt[0][1] == -1).all()
    assert all(torch.equal(x[::2], y[::2]) for x, y in zip(clean, spoilt, strict=True))
    losses, gradient = evaluate(ops.cluster_contrast, features, memory, targets, reduction="none", impl=impl)
    assert losses.isnan().nonzero().tolist() == [[1]] and torch.isfinite(gradient[::2]).all()
    targets[1] = -1
    loss, gradient = evaluate(ops.cluster_contrast, features, memory, targets, impl=impl)
    assert torch.isfinite(loss) and torch.isfinite(gradient[::2]).all()


def check_updates_together(impl, generator, dtype, device):
    """Of memories that differ in parts, classes and samples; one is strided, one has targets for each part."""
    memories, features, targets, orders = [], [], [], []
    for lead, classes, rows in (((), 5, 13), ((2,), 9, 20), ((3,), 1, 4), ((1,), 3, 300)):
        memories.append(unit(generator, *lead, classes, 20).to(device, dtype))
        features.append(torch.randn(*lead, rows, 20, generator=generator).to(device, dtype))
        targets.append(torch.randint(-1, classes, (rows,), generator=generator).to(device))
        orders.append(torch.randperm(rows, generator=generator).to(device))
    targets[1] = torch.randint(-1, 9, (2, 20), generator=generator).to(device)
    memories[3] = memories[3].mT.contiguous().mT
    for given in (None, orders):
        together = [memory.clone() for memory in memories]
        update_cluster_memories_(together, features, targets, given, momentum=0.3, impl=impl)
        for terms in zip(memories, features, targets, given or [None] * 4, together, strict=True):
            memory, rows, labels, order, updated = terms
            before = memory.clone()
            ops.update_cluster_memory_(memory, rows, labels, momentum=0.3, order=order, impl=impl)
            assert torch.equal(memory, updated)
            assert torch.equal(memory, before) == (labels < 0).all()
