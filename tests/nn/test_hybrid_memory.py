import pytest
import torch
import torch.nn.functional as F

from salcr.nn import HybridMemory
from salcr.reference.published.cluster_memory import hybrid_memory_loss
from tests.nn.test_memory import D, draw, momentum_update

LABELS = torch.tensor([4, -1, 0, 4, -1, 0, 0, 4, -1, 2])  # clusters 0, 2 and 4; images 1, 4 and 8 are in none


def members(labels):
    """The images of every class, an image in no cluster being one of its own."""
    clusters = [(labels == c).nonzero().flatten().tolist() for c in labels.unique() if c >= 0]
    return clusters + [[i] for i, c in enumerate(labels.tolist()) if c < 0]


def published_loss(features, rows, labels, indices, temperature):
    """Sums of the similarities of a class's images, divided by how many they are; softmax over the classes."""
    classes = members(labels)
    losses = []
    for x, image in zip(features, indices.tolist(), strict=True):
        if image < 0:
            continue
        similarity = rows @ (x / x.norm()) / temperature
        of_classes = torch.stack([similarity[some].sum() / len(some) for some in classes]).exp()
        mine = next(n for n, some in enumerate(classes) if image in some)
        losses.append(-torch.log(of_classes[mine] / of_classes.sum()))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("labels", [None, LABELS, torch.zeros(10, dtype=torch.int64)])
@pytest.mark.parametrize("temperature", [0.05, 0.7])
def test_contrast_is_the_published_formula(generator, labels, temperature):
    given, features = draw(generator, 10, D), draw(generator, 6, D).requires_grad_()
    indices = torch.tensor([0, 1, 9, 3, -1, 8])
    loss = HybridMemory(given, labels, temperature=temperature).contrast(features, indices)
    labels = torch.full((10,), -1) if labels is None else labels
    expected = published_loss(features, F.normalize(given), labels, indices, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, features)[0] for x in (loss, expected)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_means_of_classes_keep_their_precision_under_autocast(generator, dtype):
    alone, *others = (HybridMemory(rows, LABELS) for rows in [draw(generator, 10, D).float()] * 3)
    features, indices = draw(generator, 4, D).float(), torch.tensor([0, 3, 7, 2])

    def update(memory):
        with torch.autocast("cpu", dtype):
            memory.update_(features, indices)

    alone.update_(features, indices)
    torch._dynamo.reset()
    for memory, call in zip(others, (update, torch.compile(update, fullgraph=True, backend="eager")), strict=True):
        call(memory)
        assert torch.equal(memory.rows, alone.rows) and torch.equal(memory.centroids, alone.centroids)


@pytest.mark.parametrize("momentum", [0.0, 0.2, 1.0])
def test_many_steps_follow_the_published_ones(generator, momentum):
    """Images that come twice or never, several of a class, in any order; means of classes are those of the rows."""
    memory = HybridMemory(draw(generator, 10, D), LABELS, momentum=momentum)
    rows = memory.rows.clone()
    for _ in range(5):
        features, indices = draw(generator, 8, D), torch.randint(-1, 10, (8,), generator=generator)
        indices[0], indices[1] = -1, indices[2]
        order = torch.randperm(8, generator=generator)
        loss = memory.contrast(features, indices)
        torch.testing.assert_close(loss, published_loss(features, rows, LABELS, indices, 0.05))
        memory.update_(features, indices, order)
        rows = momentum_update(rows, features, indices, order, momentum)
        torch.testing.assert_close(memory.rows, rows)
        for image, mean in enumerate(memory.centroids[memory.classes]):
            some = next(some for some in members(LABELS) if image in some)
            torch.testing.assert_close(mean, rows[some].mean(0))


def test_published_code_does_the_same_in_one_backward(generator):
    rows, labels, indices = (
        F.normalize(draw(generator, 10, D)),
        torch.tensor([0, 1, 2, 0, 3, 2, 2, 0, 4, 5]),
        torch.arange(5),
    )
    features = draw(generator, 5, D).requires_grad_()
    memory, loss = HybridMemory(rows, labels), hybrid_memory_loss(rows, labels, features, indices)
    ours = memory.contrast(features, indices)
    torch.testing.assert_close(ours, loss)
    torch.testing.assert_close(*(torch.autograd.grad(x, features)[0] for x in (ours, loss)))
    memory.update_(features, indices)
    torch.testing.assert_close(memory.rows, rows)


def test_the_order_of_samples_is_their_own_unless_given(generator):
    given, features, indices = draw(generator, 10, D), draw(generator, 3, D), torch.tensor([5, 5, 5])
    memory = HybridMemory(given)
    memory.update_(features, indices)
    torch.testing.assert_close(memory.rows, momentum_update(F.normalize(given), features, indices, range(3), 0.2))


def test_clusters_of_an_epoch_take_the_place_of_the_last(generator):
    memory, features, indices = HybridMemory(draw(generator, 10, D)), draw(generator, 4, D), torch.arange(4)
    memory.update_(features, indices)
    for labels in (LABELS, LABELS.flip(0)):
        given = labels.clone()
        memory.assign_(given)
        given.fill_(-1)  # which is the caller's
        assert torch.equal(memory.labels, labels)
        expected = published_loss(features, memory.rows, labels, indices, 0.05)
        torch.testing.assert_close(memory.contrast(features, indices), expected)


def test_the_gradient_is_that_of_the_classes_of_the_forward_pass(generator):
    memory, indices = HybridMemory(draw(generator, 10, D), LABELS), torch.tensor([0, 3, 1])
    features = draw(generator, 3, D).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: memory.contrast(x, indices), features, fast_mode=True)
    late = memory.contrast(features, indices)
    memory.update_(features, indices)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_reaches_its_own_class_alone(generator, value):
    memory, without = (HybridMemory(torch.eye(10, D, dtype=torch.float64) + 0.1, LABELS) for _ in range(2))
    features, indices = draw(generator, 4, D), torch.tensor([0, 2, 8, 3])  # classes of the labels 4, 0, none and 4
    without.update_(features, indices.masked_fill(indices == 2, -1))
    features[1, 3] = value
    memory.update_(features, indices)
    bad = memory.classes == memory.classes[2]
    assert memory.centroids[memory.classes[bad]].isnan().all()
    torch.testing.assert_close(memory.centroids[memory.classes[~bad]], without.centroids[without.classes[~bad]])
    assert memory.rows[2].isnan().all() and memory.rows[torch.arange(10) != 2].isfinite().all()


def test_rows_of_source_classes_are_in_no_cluster(generator):
    """SpCL's joint loss over source classes, target clusters and target instances."""
    sources, targets, labels = draw(generator, 3, D), draw(generator, 5, D), torch.tensor([1, -1, 0, 1, 0])
    memory = HybridMemory(torch.cat([sources, targets]), torch.cat([torch.full((3,), -1), labels]))
    features = draw(generator, 4, D)
    loss = memory.contrast(features, torch.tensor([2, 0, 3 + 0, 3 + 1]))  # two of sources, then target images 0 and 1
    rows = F.normalize(targets)
    classes = torch.stack([*F.normalize(sources), rows[[2, 4]].mean(0), rows[[0, 3]].mean(0), rows[1]])
    expected = F.cross_entropy(F.normalize(features) @ classes.T / 0.05, torch.tensor([2, 0, 4, 5]))
    torch.testing.assert_close(loss, expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # Dynamo's own
def test_it_compiles_without_a_break_and_refuses_an_index_that_is_none(generator):
    memory, twin = (HybridMemory(torch.eye(10, D, dtype=torch.float64) + 0.1, LABELS) for _ in range(2))
    compiled = torch.compile(lambda x, i: (twin.contrast(x, i), twin.update_(x, i)), backend="eager", fullgraph=True)
    features, indices = draw(generator, 4, D), torch.tensor([0, -1, 8, 3])
    torch.testing.assert_close(compiled(features, indices)[0], memory.contrast(features, indices))
    memory.update_(features, indices)
    torch.testing.assert_close([twin.rows, twin.centroids], [memory.rows, memory.centroids])
    for wrong in (10, -2):
        with pytest.raises(ValueError, match=r"must be in \[-1, "):
            compiled(features, torch.tensor([0, wrong, 8, 3]))


def test_it_moves_is_saved_and_is_no_parameter(generator):
    given = draw(generator, 10, D).requires_grad_()
    memory = HybridMemory(given, LABELS)
    assert not list(memory.parameters()) and memory.state_dict().keys() == {"rows", "labels"}
    memory.update_(draw(generator, 4, D), torch.arange(4))
    twin = HybridMemory(torch.ones(10, D, dtype=torch.float64))
    twin.load_state_dict(memory.state_dict())
    features, indices = draw(generator, 3, D), torch.tensor([3, 5, 9])
    torch.testing.assert_close(twin.contrast(features, indices), memory.contrast(features, indices))
    memory.float()
    assert memory.rows.dtype == memory.centroids.dtype == torch.float32
    memory.update_(features, indices)  # of another precision
    assert memory.contrast(features.float(), indices).isfinite()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: HybridMemory(torch.ones(2, 3, 4)), ValueError, "rows must have 2 axes"),
        (lambda m: m.assign_(torch.zeros(3)), TypeError, "labels must be int64"),
        (lambda m: m.assign_(torch.zeros(4, dtype=torch.int64)), ValueError, "labels has 4 entries for 3 rows"),
        (lambda m: m.assign_(torch.tensor([0, -2, 0])), ValueError, r"labels must be in \[-1, 3\), got -2 to 0"),
        (lambda m: m.contrast(torch.ones(1, 2), torch.tensor([3])), ValueError, r"indices must be in \[-1, 3\), got 3"),
        (lambda m: m.update_(torch.ones(1, 2), torch.tensor([-2])), ValueError, r"in \[-1, 3\), got -2"),
        (lambda m: m.contrast(torch.ones(1, 2), torch.ones(1)), TypeError, "indices must be int64"),
        (lambda m: m.contrast(torch.ones(1, 2), torch.ones(1, 1).long()), ValueError, "indices must have 1 axes"),
        (lambda m: m.contrast(torch.ones(2, 2), torch.tensor([0])), ValueError, "do not fit features"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(HybridMemory(torch.eye(3)[:, :2] + 1))
