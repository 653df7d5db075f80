import pytest
import torch
import torch.nn.functional as F

from salcr.objectives import RefinementObjective
from tests.objectives.batches import FORMS, TAU, VIEWS, centroids

GROUPS = {
    "v": {"v": "own", "a": "pg2", "r": "pg1"},
    "a": {"v": "pg2", "a": "own", "r": "pg2"},
    "r": {"v": "pg1", "a": "pg1", "r": "own"},
}
"""Of each semantic group, which form of each view is in it: docs/method.md, "GPCR"."""


def logits(x, memory):
    return F.normalize(memory, dim=1) @ F.normalize(x, dim=0) / TAU


def top(x, memory, k):
    """The k largest entries, strictly above the next value, as a Python set."""
    values = logits(x.detach(), memory).tolist()
    bound = sorted(values, reverse=True)[k] if k < len(values) else float("-inf")
    return {j for j, value in enumerate(values) if value > bound}


def pull(x, memory, chosen):
    return -torch.log(sum(torch.softmax(logits(x, memory), 0)[j] for j in sorted(chosen)))


def mean(losses):
    return torch.stack(losses).mean() if losses else torch.zeros((), dtype=torch.float64)


def whole_by_hand(f, memory, k):
    """(L_gi for one memory, how many of the rows have a positive)."""
    samples, losses = len(f) // 3, []
    for position in range(samples):
        rows = [f[view * samples + position] for view in range(3)]
        shared = top(rows[0], memory, k) & top(rows[1], memory, k) & top(rows[2], memory, k)
        if shared:
            losses += [pull(x, memory, shared) for x in rows]
    return mean(losses), len(losses)


def parts_by_hand(f, parts, whole_memory, part_memories, k):
    """(L_pi for one modality's memories, how many of the rows of each part have a positive)."""
    samples, total, counts = f.shape[0] // 3, 0, []
    for p, memory in enumerate(part_memories):

        def row_of(group, view, position, p=p):
            return parts[p, FORMS.index(GROUPS[group][view]), VIEWS.index(view) * samples + position]

        losses = []
        for group in GROUPS:
            others = [g for g in GROUPS if g != group]
            for view in VIEWS:
                for position in range(samples):
                    united = set().union(*(top(row_of(g, view, position), memory, k) for g in others))
                    chosen = united & top(f[VIEWS.index(view) * samples + position], whole_memory, k)
                    if chosen:
                        losses.append(pull(row_of(group, view, position), memory, chosen))
        counts.append(len(losses))
        total = total + mean(losses) / len(part_memories)
    return total, counts


def problem(generator, *, samples=4, parts=2, width=6, images=25):
    """Features near images of the memory. At position 0 views and parts see opposite images, at 1 the same image."""
    whole = centroids(generator, images, width)
    part_rows = whole + 0.3 * centroids(generator, parts, images, width)
    seen = torch.randint(0, images, (samples,), generator=generator).repeat(3)
    f = whole[seen] + 0.9 * centroids(generator, 3 * samples, width)
    f[samples] = -f[0]
    f[1::samples] = whole[seen[1]]
    z = part_rows[:, None, seen] + 0.9 * centroids(generator, parts, 3, 3 * samples, width)
    z[:, :, 0] = -f[0]
    z[:, :, 1::samples] = part_rows[:, None, None, seen[1]]
    return f, z, whole, part_rows


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_losses_are_the_table_of_the_spec(generator, parts, k):
    f, z, whole, part_rows = problem(generator, parts=parts)
    f.requires_grad_(), z.requires_grad_()
    found = RefinementObjective(whole, part_rows, k=k).loss(f, z)
    loss_whole, rows = whole_by_hand(f, whole, k)
    loss_parts, counts = parts_by_hand(f, z, whole, part_rows, k)
    if k == 4:
        assert 0 < rows < 12 and 0 < min(counts) <= max(counts) < 36  # both kinds of rows are there
    torch.testing.assert_close(found, (loss_whole, loss_parts))
    if k > 1:
        for loss, expected, leaf in ((found[0], loss_whole, f), (found[1], loss_parts, z)):
            gradients = (torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in (loss, expected))
            torch.testing.assert_close(*gradients)
    (none,) = torch.autograd.grad(found[1], f)
    assert not none.any()  # the global feature only chooses


def test_a_case_worked_by_hand():
    """Three images on the axes, k = 1: all views see image 0; part rows see 0 and 1."""
    axes = torch.eye(3, dtype=torch.float64)
    f = torch.stack([axes[0], 2 * axes[0], axes[0]])
    forms = torch.stack([axes[[0, 1, 1]], axes[[0, 0, 1]], axes[[1, 1, 1]]]).unsqueeze(0)  # own, pg1, pg2 of v, a, r
    whole, parts = RefinementObjective(axes, axes.unsqueeze(0), k=1, temperature=0.5).loss(f, forms)
    share = 1 + 2 * torch.tensor(-2.0, dtype=torch.float64).exp()  # logits 2, 0, 0
    torch.testing.assert_close(whole, share.log())
    # v: own sees 0 (others 0, 1 -> 0), pg1 sees 0 (others 0, 1 -> 0), pg2 sees 1 (others 0, 0 -> 0).
    # a: own sees 1 (others 0, 1 -> 0), pg1 sees 0 (others 1, 1 -> none), pg2 sees 1 (others 1, 0 -> 0).
    # r: all see 1, the global feature sees 0: none.
    near, far = share.log(), share.log() + 2
    torch.testing.assert_close(parts, (2 * near + 3 * far) / 5)


def test_without_a_shared_neighbour_the_losses_are_exactly_zero():
    axes = torch.eye(6, dtype=torch.float64)
    f = axes[[0, 1, 2]].clone().requires_grad_()  # the three views of one position see different images
    z = axes[[3, 4, 5]].expand(2, 3, 3, 6).clone().requires_grad_()  # the parts see what no global feature sees
    whole, parts = RefinementObjective(axes, axes.expand(2, 6, 6), k=1).loss(f, z)
    (whole + parts).backward()
    assert whole == 0 and parts == 0
    assert not f.grad.any() and not z.grad.any()


def test_a_part_without_any_positive_counts_as_zero(generator):
    axes = torch.eye(6, dtype=torch.float64)
    f = axes[[0, 1, 2]] + 0
    z = torch.stack([axes[[0, 1, 2]].expand(3, 3, 6), axes[[3, 4, 5]].expand(3, 3, 6)]).requires_grad_()
    _, both = RefinementObjective(axes, axes.expand(2, 6, 6), k=1).loss(f, z)
    _, first = RefinementObjective(axes, axes.expand(1, 6, 6), k=1).loss(f, z[:1])
    assert first > 0
    torch.testing.assert_close(both, first / 2)
    (gradient,) = torch.autograd.grad(both, z)
    assert gradient[0].any() and not gradient[1].any()


@pytest.mark.parametrize(
    "spoiled", ["feature", "features", "part feature", "part features", "images", "parts of images"]
)
def test_a_nan_is_no_empty_set(generator, spoiled):
    """It is nobody's neighbour and has none, and a row without neighbours is left out: the loss would be finite."""
    f, z, whole, part_rows = problem(generator)
    rows = {
        "feature": f[2],
        "features": f,
        "part feature": z[0, 1, 3],
        "part features": z,
        "images": whole,
        "parts of images": part_rows,
    }
    rows[spoiled].fill_(torch.nan)
    losses = RefinementObjective(whole, part_rows, k=4).loss(f, z)
    assert losses[0].isnan() and losses[1].isnan()


def test_neighbours_that_tie_at_the_bound_are_no_neighbours():
    """Images 0 and 1 are the same picture: with k = 1 neither is strictly above the second value."""
    images = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 2]]
    f = torch.eye(3, dtype=torch.float64)[[0, 0, 0]].clone()
    objective = {k: RefinementObjective(images, images.unsqueeze(0), k=k) for k in (1, 2)}
    z = f.expand(1, 3, 3, 3)
    assert [float(x) for x in objective[1].loss(f, z)] == [0, 0]
    expected = torch.log(1 + torch.exp(torch.tensor(-20.0, dtype=torch.float64)))  # two of four, logits 20 and 0
    torch.testing.assert_close(torch.stack(objective[2].loss(f, z)), expected.expand(2))


@pytest.mark.parametrize("images", [1, 5])
def test_when_all_images_are_neighbours_nothing_is_left_to_pull(generator, images):
    f, z, whole, part_rows = problem(generator, images=images, parts=1)
    losses = RefinementObjective(whole, part_rows, k=30).loss(f.requires_grad_(), z.requires_grad_())
    sum(losses).backward()
    for x in (*losses, f.grad, z.grad):
        assert x.abs().max() < 1e-12


def test_memories_are_of_the_same_images():
    with pytest.raises(ValueError, match=r"parts \(2, 5, 4\) must be of the images of f \(6, 4\)"):
        RefinementObjective(torch.ones(6, 4), torch.ones(2, 5, 4))
