"""Several contrasts and searches in one call, against the formula of each alone."""

import torch
from torch.utils._pytree import tree_map

from salcr import reference
from salcr.ops._parts import by_features
from salcr.ops.cluster_memories import cluster_contrast_sums
from salcr.ops.instance_memories import instance_searches, set_contrasts
from tests.ops.memories import assert_contrast_within_budget, assert_search_within_budget, random_sets, unit

LEADS = ((5,), (2, 17), (3, 2))  # no multiples of a tile, one tile of rows and several
COLUMNS = ((1, 70, 33), (150, 5, 40))  # of the first and the second memory of each
K = 6


def random_memories(generator, dtype, width=20):
    """Features, two memories of each, and of each memory targets, some of which are ignored."""
    features = [torch.randn(*lead, width, generator=generator).to(dtype) for lead in LEADS]
    sizes = list(zip(*COLUMNS, strict=True))
    memories = [
        [unit(generator, *lead[:-1], columns, width).to(dtype) for columns in some]
        for lead, some in zip(LEADS, sizes, strict=True)
    ]
    targets = [
        [torch.randint(-1, columns, lead, generator=generator) for columns in some]
        for lead, some in zip(LEADS, sizes, strict=True)
    ]
    targets[1][1] = targets[1][1][0]  # shared by the parts
    return features, memories, targets


def check_contrasts_together(impl, generator, dtype, device="cpu"):
    features, memories, targets = random_memories(generator, dtype)
    features[2][0, 1] = torch.nan
    for labels in targets[2]:
        labels[0, 1] = -1
    features, memories, targets = tree_map(lambda x: x.to(device), (features, memories, targets))
    leaves = [x.clone().requires_grad_() for x in features]
    losses = cluster_contrast_sums(leaves, memories, targets, temperature=0.1, impl=impl)
    weights = [torch.tensor(w, dtype=dtype, device=device) for w in (0.5, 1.0, 2.0)]
    found = torch.autograd.grad(losses, leaves, weights)
    assert not found[2][0, 1].any()
    for x, banks, labels, loss, gradient, weight in zip(
        features, memories, targets, losses, found, weights, strict=True
    ):
        sides = []
        for kind in (torch.float64, dtype):
            leaf = torch.where(x.isnan(), 1.0, x).to(kind).requires_grad_()
            alone = reference.cluster_contrast_sum(leaf, [m.to(kind) for m in banks], labels, temperature=0.1)
            sides.append((alone.detach(), torch.autograd.grad(weight.to(kind) * alone, leaf)[0]))
        largest = max(banks, key=lambda memory: memory.shape[-2])
        assert_contrast_within_budget((loss, gradient), *sides, largest, 0.1, summed=2, largest=2.0)


def check_searches_together(impl, generator, dtype, device="cpu"):
    """Also the contrasts with sets, whose sums over the whole memory the search has made."""
    features, memories, _ = (some[:2] for some in random_memories(generator, dtype))
    features, memories = tree_map(lambda x: x.to(device), (features, memories))
    found = instance_searches(features, memories, K, temperature=0.1, impl=impl)
    known = [by_features(x, features) for x in (found.lse, found.mean_row)]
    for g, (x, banks) in enumerate(zip(features, memories, strict=True)):
        for i, memory in enumerate(banks):
            exact = reference.instance_search(x.double(), memory.double(), K, temperature=0.1)
            eager = reference.instance_search(x, memory, K, temperature=0.1)
            if dtype == torch.float32:
                assert torch.equal(found.indices[g][i], exact[0])
            got = known[0][g][i], known[1][g][i]
            assert_search_within_budget(got, exact[1:], eager[1:], memory, 0.1)
    sets = [
        [random_sets(generator, x.shape[:-2], x.shape[-2], memory.shape[-2], 4).to(device) for memory in banks]
        for x, banks in zip(features, memories, strict=True)
    ]
    sets[0][0] = torch.nn.functional.pad(sets[0][0], (0, 3), value=-1)  # a set of all rows has no loss but rounding
    sets[0][0][:] = -1
    leaves = [x.clone().requires_grad_() for x in features]
    losses = set_contrasts(leaves, memories, sets, found, temperature=0.1, impl=impl)
    gradients = torch.autograd.grad(sum(losses), leaves)
    for x, banks, of_x, loss, gradient in zip(features, memories, sets, losses, gradients, strict=True):
        sides = []
        for kind in (torch.float64, dtype):
            leaf = x.to(kind).requires_grad_()
            terms = zip((m.to(kind) for m in banks), of_x, strict=True)
            alone = sum(reference.set_contrast(leaf, *term, temperature=0.1) for term in terms)
            sides.append((alone.detach(), torch.autograd.grad(alone, leaf)[0]))
        largest = max(banks, key=lambda memory: memory.shape[-2])
        assert_contrast_within_budget((loss, gradient), *sides, largest, 0.1, summed=2)
