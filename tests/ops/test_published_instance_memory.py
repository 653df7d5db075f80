import pytest
import torch
import torch.nn.functional as F

from salcr.objectives import RefinementObjective
from salcr.reference.published.instance_memory import refinement_losses


def problem(generator, views=5, parts=3, size=40, width=7):
    """Views of one image are alike, so that some neighbours agree and some sets stay empty."""

    def draw(*shape):
        return torch.randn(*shape, width, generator=generator, dtype=torch.float64)

    base = draw(views).repeat(3, 1)
    features, part_features = base + 0.7 * draw(3 * views), base + 0.7 * draw(parts, 3, 3 * views)
    memory, part_memory = F.normalize(draw(size), dim=-1), F.normalize(draw(parts, size), dim=-1)
    return features, part_features, memory, part_memory


@pytest.mark.parametrize("k", [1, 3, 12])
def test_published_refinement_equals_the_objective(generator, k):
    features, parts, memory, part_memory = problem(generator)
    leaves = features.requires_grad_(), parts.requires_grad_()
    expected = RefinementObjective(memory, part_memory, k=k).loss(*leaves)
    found = refinement_losses(*leaves, memory, part_memory, k=k)
    torch.testing.assert_close(found, expected)
    for got, want in zip(found, expected, strict=True):
        options = dict(allow_unused=True, materialize_grads=True, retain_graph=True)  # both losses are of one graph
        gradients = [torch.autograd.grad(x, leaves, **options) for x in (got, want)]
        torch.testing.assert_close(*gradients)
    assert k < 12 or (found[0] > 0 and found[1] > 0)


def test_without_agreement_both_are_zero(generator):
    memory = torch.eye(6, dtype=torch.float64)
    part_memory = memory.expand(2, -1, -1)
    features = memory[:3].clone().requires_grad_()  # three views, three different neighbours
    parts = memory[[3, 4, 5]].view(1, 3, 1, 6).repeat(2, 1, 3, 1).requires_grad_()
    found = refinement_losses(features, parts, memory, part_memory, k=1)
    expected = RefinementObjective(memory, part_memory, k=1).loss(features, parts)
    for losses in (found, expected):
        assert losses[0] == 0 and losses[1] == 0
        gradients = torch.autograd.grad(sum(losses), (features, parts))
        assert not any(x.any() for x in gradients)
