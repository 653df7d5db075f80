import pytest
import torch
import torch.nn.functional as F

from salcr.objectives import PartObjective
from salcr.objectives.fgsal import ROWS, random_orders
from tests.objectives.batches import FORMS, centroids, own_and_cross, part_loss, random_batch, updated, view_rows

KINDS = {  # the views that ask, and which modality's clusters
    "visible_to_visible": (("v", "a"), 0),
    "visible_to_infrared": (("v", "a"), 1),
    "infrared_to_visible": (("r",), 0),
    "infrared_to_infrared": (("r",), 1),
}
"""Of each kind of memories: whose queries reach it, and whether it holds visible (0) or infrared (1) clusters."""


def problem(generator, parts=3, clusters=(4, 3), samples=4):
    f, part_rows, labels = random_batch(generator, parts=parts, clusters=clusters, samples=samples)
    rows = centroids(generator, parts, clusters[0], 6), centroids(generator, parts, clusters[1], 6)
    return f, part_rows, labels, rows


def loss_of(objective, part_rows, labels):
    return objective.loss(objective.queries(part_rows, labels))


def update_(objective, part_rows, labels, generator):
    queries = objective.queries(part_rows, labels)
    lengths = [number * len(labels.visible) for number in ROWS]
    objective.update_(queries, random_orders(lengths, generator).split(lengths))


def queries_of(kind, part_rows, labels, p):
    """(row, cluster) of every query of a kind of memory: own, pg1, pg2, and within each the views, as they lie."""
    views, side = KINDS[kind]
    return [
        (x, cluster)
        for form in range(len(FORMS))
        for view in views
        for x, cluster in zip(view_rows(part_rows[p, form], view), own_and_cross(labels, view)[side], strict=True)
    ]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("clusters", [(4, 3), (2, 7), (1, 3)])
def test_the_loss_is_four_cross_entropies_a_part(generator, parts, clusters):
    _, part_rows, labels, rows = problem(generator, parts, clusters)
    part_rows.requires_grad_()
    loss = loss_of(PartObjective(*rows), part_rows, labels)
    expected = part_loss(part_rows, labels, *rows)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, part_rows)[0] for x in (loss, expected)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_memory_is_asked_by_its_own_queries_only(generator, kind):
    """The loss changes with a kind of memory by just that kind's cross entropy."""
    _, part_rows, labels, rows = problem(generator)
    objective = PartObjective(*rows)
    before = loss_of(objective, part_rows, labels)
    memory = getattr(objective, kind)
    terms = []
    for fresh in (memory.rows.clone(), F.normalize(torch.randn_like(memory.rows), dim=-1)):
        memory.rows.copy_(fresh)
        terms.append(0)
        for p in range(3):
            x, y = zip(*queries_of(kind, part_rows, labels, p), strict=True)
            terms[-1] += F.cross_entropy(F.normalize(torch.stack(x)) @ fresh[p].T / 0.05, torch.stack(y)) / 3
    torch.testing.assert_close(loss_of(objective, part_rows, labels) - before, terms[1] - terms[0])


def test_all_memories_are_updated_with_their_queries_in_a_random_order(generator, seed):
    _, part_rows, labels, rows = problem(generator)
    objective = PartObjective(*rows)
    update_(objective, part_rows.requires_grad_(), labels, torch.Generator().manual_seed(seed))
    draws = torch.Generator().manual_seed(seed)
    for kind, (views, side) in KINDS.items():
        order = torch.randperm(3 * len(views) * 4, generator=draws).tolist()
        for p in range(3):
            queries = queries_of(kind, part_rows.detach(), labels, p)
            expected = updated(rows[side][p], [queries[n] for n in order])
            torch.testing.assert_close(getattr(objective, kind).rows[p], expected)
    assert part_rows.grad is None
    assert not torch.allclose(
        objective.visible_to_visible.rows, objective.infrared_to_visible.rows
    )  # started alike, asked by different modalities


def test_one_cluster_a_side_gives_no_loss(generator):
    _, part_rows, labels, rows = problem(generator, clusters=(1, 1))
    loss = loss_of(PartObjective(*rows), part_rows.requires_grad_(), labels)
    loss.backward()
    assert loss == 0 and not part_rows.grad.any()
