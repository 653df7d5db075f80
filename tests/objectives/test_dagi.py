import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from salcr.nn import ClusterMemory
from salcr.objectives import CrossLabels, GlobalObjective, associate
from tests.objectives.batches import centroids, global_loss, random_batch, updated

ASSOCIATIONS = ["ot", "hungarian", "graph"]
SIZES = [(3, 3), (5, 2), (2, 5), (1, 3), (3, 1), (1, 1)]


def epoch(generator, clusters, images=(17, 14), width=6, noise=0.8):
    """Features of either modality around shared directions, with a shift between the modalities."""
    directions = torch.randn(max(clusters), width, generator=generator, dtype=torch.float64)
    sides = []
    for count, number in zip(clusters, images, strict=True):
        labels = torch.arange(number) % count
        shift = 0.3 * torch.randn(width, generator=generator, dtype=torch.float64)
        spread = noise * torch.randn(number, width, generator=generator, dtype=torch.float64)
        sides += [directions[labels] + shift + spread, labels]
    return sides


def propagated(own, other, k):
    """docs/method.md, "Feature propagation", an image at a time."""
    own, other = F.normalize(own, dim=1), F.normalize(other, dim=1)
    rows = []
    for x in own:
        total = torch.zeros_like(x)
        for side in (own, other):
            products = [float(x @ y) for y in side]
            kth = sorted(products, reverse=True)[min(k, len(products)) - 1]
            kept = [max(w, 0.0) if w >= kth else 0.0 for w in products]
            if sum(kept) > 0:
                total = total + sum(w / sum(kept) * y for w, y in zip(kept, side, strict=True))
        rows.append(F.normalize(total, dim=0))
    return torch.stack(rows)


def means(features, labels):
    return torch.stack([features[[n for n, y in enumerate(labels) if y == c]].mean(0) for c in range(max(labels) + 1)])


def best_product(features, rows):
    return torch.tensor([max(range(len(rows)), key=lambda c, x=x: float(x @ rows[c])) for x in features])


def costs(features, rows):
    return torch.stack([torch.stack([(x - c).square().sum() for c in rows]) for x in features])


def transport_labels(cost):
    """Sinkhorn as docs/method.md, "Optimal transport", writes it, then the largest entry of each row."""
    number, clusters = cost.shape
    kernel = torch.exp(-5 * cost)
    beta = torch.full((clusters,), 1 / clusters, dtype=torch.float64)
    for step in range(500):
        alpha = (1 / number) / (kernel @ beta)
        fresh = (1 / clusters) / (alpha @ kernel)
        error = (beta / fresh - 1).abs().sum()
        beta = fresh
        if step % 10 == 0 and error <= 0.1:
            break
    return (alpha.diag() @ kernel @ beta.diag()).argmax(1)


def partners(cost):
    """The cheapest partner of every row where no column is used more than ceil(rows/columns) times: all tried."""
    rows, columns = cost.shape
    limit = math.ceil(rows / columns)
    allowed = (c for c in itertools.product(range(columns), repeat=rows) if max(map(c.count, c)) <= limit)
    return torch.tensor(min(allowed, key=lambda chosen: sum(float(cost[m, n]) for m, n in enumerate(chosen))))


def partners_in_rounds(cost):
    """The cheapest one-to-one matching, then again for the rows it leaves, the columns all free again: all tried."""
    cost = cost.tolist()
    if len(cost) < len(cost[0]):
        return partners_in_rounds(torch.tensor(cost, dtype=torch.float64).T)[::-1]
    left, of_row, of_column = list(range(len(cost))), {}, {}
    while left:
        pairs = [
            list(zip(rows, columns, strict=True))
            for size in [min(len(left), len(cost[0]))]
            for rows in itertools.combinations(left, size)
            for columns in itertools.permutations(range(len(cost[0])), size)
        ]
        best = min(pairs, key=lambda chosen: sum(cost[m][n] for m, n in chosen))
        of_row |= dict(best)
        of_column = of_column or {n: m for m, n in best}
        left = [m for m in left if m not in of_row]
    return tuple(torch.tensor([found[n] for n in range(len(found))]) for found in (of_row, of_column))


def associated_by_hand(visible, visible_labels, infrared, infrared_labels, k, association):
    new_v, new_r = propagated(visible, infrared, k), propagated(infrared, visible, k)
    rows_v, rows_r = means(new_v, visible_labels.tolist()), means(new_r, infrared_labels.tolist())
    own_v, own_r = best_product(new_v, rows_v), best_product(new_r, rows_r)
    if association == "ot":
        return own_v, transport_labels(costs(new_v, rows_r)), own_r, transport_labels(costs(new_r, rows_v))
    between = costs(rows_v, rows_r)
    if association == "graph":
        of_v, of_r = partners_in_rounds(between)
        return own_v, of_v[own_v], own_r, of_r[own_r]
    return own_v, partners(between)[own_v], own_r, partners(between.T)[own_r]


@pytest.mark.parametrize("association", ASSOCIATIONS)
@pytest.mark.parametrize("clusters", SIZES)
@pytest.mark.parametrize("k", [3, 30])
def test_associate_step_by_step(generator, clusters, association, k):
    sides = epoch(generator, clusters)
    found = associate(*sides, k=k, association=association)
    expected = associated_by_hand(*sides, k, association)
    for name, labels, wanted in zip(CrossLabels._fields, found, expected, strict=True):
        assert labels.dtype == torch.int64
        assert torch.equal(labels, wanted), name


@pytest.mark.parametrize("association", ASSOCIATIONS)
def test_clusters_of_one_identity_find_each_other(generator, association):
    """The infrared modality numbers the same five directions differently."""
    permutation = torch.tensor([3, 0, 4, 1, 2])
    directions, labels = torch.eye(5, 8, dtype=torch.float64), torch.arange(20) % 5
    visible = directions[labels] + 0.05 * torch.randn(20, 8, generator=generator, dtype=torch.float64)
    infrared = 3 * directions[labels] + 0.05 * torch.randn(20, 8, generator=generator, dtype=torch.float64)
    found = associate(visible, labels, infrared, permutation[labels], k=4, association=association)
    assert torch.equal(found.visible, labels) and torch.equal(found.infrared, permutation[labels])
    assert torch.equal(found.visible_to_infrared, permutation[labels])
    assert torch.equal(found.infrared_to_visible, labels)


def test_a_label_is_refined_and_the_partner_is_that_of_the_refined_cluster():
    """The last visible image lies in cluster 0 but came with the label of cluster 1; infrared numbers are swapped."""
    east, north = torch.tensor([1.0, 0.02]), torch.tensor([0.02, 1.0])
    visible = torch.stack([east, east, east, north, north, north, north, east])
    visible_labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    infrared, infrared_labels = torch.stack([north, north, east, east]), torch.tensor([0, 0, 1, 1])
    for association in ASSOCIATIONS:
        found = associate(visible, visible_labels, infrared, infrared_labels, k=2, association=association)
        assert found.visible.tolist() == [0, 0, 0, 1, 1, 1, 1, 0]
        assert found.visible_to_infrared.tolist() == [1, 1, 1, 0, 0, 0, 0, 1]
        assert found.infrared_to_visible.tolist() == [1, 1, 0, 0]


def test_transport_fills_every_cluster_where_the_nearest_would_not():
    """All images of one modality lie nearer to the other's first cluster; uniform marginals share them out."""
    angle = torch.linspace(0, 0.6, 12, dtype=torch.float64)
    visible = torch.stack([angle.cos(), angle.sin(), torch.zeros(12, dtype=torch.float64)], dim=1)
    infrared = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1]] + torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    found = associate(visible, torch.zeros(12, dtype=torch.int64), infrared, torch.tensor([0, 0, 1, 1]), k=1)
    assert found.visible_to_infrared.unique().tolist() == [0, 1]
    assert (found.visible_to_infrared.diff() >= 0).all()  # those that are nearer to the second go there


@pytest.mark.parametrize("association", ["hungarian", "graph"])
@pytest.mark.parametrize("clusters", [*SIZES, (11, 4), (4, 13)])
def test_every_cluster_has_a_partner_and_none_has_too_many(generator, clusters, association):
    found = associate(*epoch(generator, clusters, noise=0.0), k=1, association=association)
    assert torch.equal(found.visible.unique(), torch.arange(clusters[0]))
    for own, cross, mine, theirs in (
        (found.visible, found.visible_to_infrared, *clusters),
        (found.infrared, found.infrared_to_visible, *reversed(clusters)),
    ):
        pairs = {(int(a), int(b)) for a, b in zip(own, cross, strict=True)}
        assert sorted(a for a, _ in pairs) == list(range(mine))  # one partner each
        used = [b for _, b in pairs]
        assert max(map(used.count, used)) <= math.ceil(mine / theirs)


def test_one_image_a_side(generator):
    x, y = torch.randn(2, 1, 4, generator=generator)
    zero = torch.zeros(1, dtype=torch.int64)
    for association in ASSOCIATIONS:
        assert all(torch.equal(labels, zero) for labels in associate(x, zero, y, zero, association=association))


@pytest.mark.parametrize("association", ASSOCIATIONS)
def test_only_directions_count_and_nothing_requires_a_gradient(generator, association):
    visible, visible_labels, infrared, infrared_labels = epoch(generator, (4, 3))
    scale = torch.rand(17, 1, generator=generator, dtype=torch.float64) + 0.5
    plain = associate(visible, visible_labels, infrared, infrared_labels, k=4, association=association)
    scaled = associate(
        (visible * scale).requires_grad_(), visible_labels, infrared, infrared_labels, k=4, association=association
    )
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(plain, scaled, strict=True))


def test_bad_arguments_are_named(generator):
    sides = epoch(generator, (3, 3))
    with pytest.raises(ValueError, match=r"association must be one of ot, hungarian, graph, got 'nearest'"):
        associate(*sides, association="nearest")
    with pytest.raises(ValueError, match="cluster 1 has no member"):
        associate(sides[0], torch.where(sides[1] == 1, 2, sides[1]), *sides[2:])


def test_labels_of_a_batch_follow_its_rows():
    labels = CrossLabels(
        torch.tensor([0, 1, 2]), torch.tensor([10, 11, 12]), torch.tensor([20, 21]), torch.tensor([30, 31])
    )
    batch = labels.of_batch(torch.tensor([2, 2, 0]), torch.tensor([1, 0, 1]))
    assert [y.tolist() for y in batch] == [[2, 2, 0], [12, 12, 10], [21, 20, 21], [31, 30, 31]]
    assert batch.visible_side().tolist() == [2, 2, 0, 2, 2, 0, 31, 30, 31]
    assert batch.infrared_side().tolist() == [12, 12, 10, 12, 12, 10, 21, 20, 21]


def test_the_global_loss_is_two_cross_entropies_over_all_rows(generator):
    f, _, labels = random_batch(generator)
    f.requires_grad_()
    rows = centroids(generator, 4, 6), centroids(generator, 3, 6)
    loss = GlobalObjective(*map(ClusterMemory, rows)).loss(f, labels)
    expected = global_loss(f, labels, *rows)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, f)[0] for x in (loss, expected)))


def test_both_global_memories_take_all_rows_in_the_one_order(generator):
    f, _, labels = random_batch(generator)
    rows = centroids(generator, 4, 6), centroids(generator, 3, 6)
    objective = GlobalObjective(*map(ClusterMemory, rows))
    order = torch.randperm(12, generator=generator)
    loss = objective.loss(f.requires_grad_(), labels)
    loss.backward()
    gradient = f.grad.clone()
    objective.update_(f, labels, order)
    for memory, before, side in (
        (objective.visible, rows[0], [*labels.visible, *labels.visible, *labels.infrared_to_visible]),
        (objective.infrared, rows[1], [*labels.visible_to_infrared, *labels.visible_to_infrared, *labels.infrared]),
    ):
        expected = updated(before, [(f.detach()[b], side[b]) for b in order.tolist()])
        torch.testing.assert_close(memory.rows, expected)
    assert torch.equal(f.grad, gradient)
