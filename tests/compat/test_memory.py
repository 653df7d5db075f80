import pytest
import torch
import torch.nn.functional as F

from salcr.compat import ClusterMemory
from salcr.reference.published.cluster_memory import cluster_memory_loss

CLUSTERS, WIDTH, BATCH = 7, 12, 20


def unit(generator, *shape):
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


@pytest.fixture
def batch(generator):
    inputs = torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, CLUSTERS, (BATCH,), generator=generator)


@pytest.fixture
def rows(generator):
    return unit(generator, CLUSTERS, WIDTH)


def module(rows, **options):
    memory = ClusterMemory(WIDTH, CLUSTERS, **options)
    memory.features = rows.clone()
    return memory


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.6])
def test_one_loss_is_the_published_one(batch, rows, hard, momentum):
    inputs, targets = batch
    ours, theirs = (inputs.clone().requires_grad_() for _ in range(2))
    memory, expected_rows = module(rows, use_hard=hard), rows.clone()
    loss = memory(ours, targets, momentum)
    assert torch.equal(memory.features, rows)
    loss.backward()
    expected = cluster_memory_loss(
        expected_rows, theirs, targets, momentum=0.2 if momentum is None else momentum, hard=hard
    )
    expected.backward()
    torch.testing.assert_close((loss, ours.grad, memory.features), (expected, theirs.grad, expected_rows))
    assert not torch.allclose(memory.features, rows)


def test_the_first_of_equally_hard_samples_is_taken(rows):
    inputs = torch.zeros(3, WIDTH, dtype=torch.float64)
    inputs[0, 0], inputs[1, 1], inputs[2, 2] = 1, 1, 1
    rows[4] = 0
    rows[4, 5] = 1  # at a right angle to all three
    memory = module(rows, use_hard=True, momentum=0.0)
    memory(inputs.clone().requires_grad_(), torch.tensor([4, 4, 4])).backward()
    torch.testing.assert_close(memory.features[4], inputs[0])


def test_two_losses_on_one_memory(batch, rows, generator):
    """One backward: the loss called first is differentiated through rows that the other has moved, or has not."""
    (inputs, targets), shuffled = batch, torch.randperm(BATCH, generator=generator)
    results = {}
    for kind in ("published", "seen", "theirs"):
        x = inputs.clone().requires_grad_()
        if kind == "theirs":
            moved = rows.clone()
            losses = [cluster_memory_loss(moved, x, targets), cluster_memory_loss(moved, x[shuffled], targets)]
        else:
            memory = module(rows, gradient=kind)
            losses = [memory(x, targets), memory(x[shuffled], targets)]
        sum(losses).backward()
        results[kind] = torch.stack(losses).detach(), x.grad, moved if kind == "theirs" else memory.features
    torch.testing.assert_close(results["published"], results["theirs"])
    torch.testing.assert_close(results["seen"][0], results["theirs"][0])
    torch.testing.assert_close(results["seen"][2], results["theirs"][2])
    x = inputs.clone().requires_grad_()
    logits = F.normalize(x, dim=1) @ rows.T / 0.05
    (F.cross_entropy(logits, targets) + F.cross_entropy(logits[shuffled], targets)).backward()
    torch.testing.assert_close(results["seen"][1], x.grad)
    assert not torch.allclose(results["seen"][1], results["published"][1])


def test_weights_soft_targets_and_logits(batch, rows, generator):
    inputs, targets = batch
    weights = torch.rand(BATCH, generator=generator, dtype=torch.float64)
    soft = torch.softmax(torch.randn(BATCH, CLUSTERS, generator=generator, dtype=torch.float64), 1)
    loss, logits = module(rows)(inputs, targets, weights=weights, soft_targets=soft, return_out=True)
    expected = F.normalize(inputs, dim=1) @ rows.T / 0.05
    torch.testing.assert_close(logits, expected)
    by_sample = -(soft * expected.log_softmax(1)).sum(1)
    torch.testing.assert_close(loss, (weights * by_sample).mean())
    torch.testing.assert_close(module(rows)(inputs, targets), F.cross_entropy(expected, targets))


def test_without_backward_nothing_moves_and_half_precision_trains(batch, rows):
    inputs, targets = batch
    memory = module(rows.float())
    with torch.no_grad():
        memory(inputs.float(), targets)
    assert torch.equal(memory.features, rows.float())
    half = inputs.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = memory(half, targets)
    loss.backward()
    assert half.grad.dtype == torch.bfloat16 and memory.features.dtype == torch.float32
    assert torch.isfinite(loss) and not torch.equal(memory.features, rows.float())


@pytest.mark.parametrize("gradient", ["published", "seen"])
def test_backward_under_autocast_is_not_rounded(batch, rows, gradient):
    """Where forward and backward stand in one block."""
    inputs, targets = batch
    found = []
    for enabled in (False, True):
        leaf = inputs.detach().float().requires_grad_()
        memory = module(rows.float(), gradient=gradient)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            memory(leaf, targets).backward()
        found.append(leaf.grad)
    assert torch.equal(*found)


def test_a_second_derivative_is_an_error(batch, rows):
    inputs, targets = batch
    leaf = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(rows)(leaf, targets), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_buffer_is_named_as_published_and_moves_with_the_module(rows):
    memory = ClusterMemory(num_features=WIDTH, num_samples=CLUSTERS, temp=0.05, momentum=0.2, use_hard=False)
    assert list(memory.state_dict()) == ["features"] and memory.features.shape == (CLUSTERS, WIDTH)
    memory.load_state_dict({"features": rows})
    assert memory.double().features.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(inputs=torch.zeros(3, 5)), ValueError, r"inputs must be \[B, 12\], got shape \(3, 5\)"),
        (dict(targets=torch.zeros(2, dtype=torch.int64)), ValueError, r"targets must be \[3\], got shape \(2,\)"),
        (dict(targets=torch.zeros(3)), TypeError, "targets must be int64"),
        (dict(targets=torch.tensor([0, 7, 1])), ValueError, r"targets must be in \[0, 7\), got 0 to 7"),
        (dict(targets=torch.tensor([0, -1, 1])), ValueError, "got -1 to 1"),
        (dict(targets=[0, 1, 1]), TypeError, "targets must be a torch.Tensor, got list"),
        (dict(inputs=torch.ones(3, WIDTH).long()), TypeError, "inputs must be floating point, got torch.int64"),
        (dict(inputs=torch.ones(0, WIDTH), targets=torch.zeros(0).long()), ValueError, "inputs is empty"),
        (dict(momentum=1.5), ValueError, r"momentum must be in \[0, 1\], got 1.5"),
        (dict(weights=torch.ones(3, 1)), ValueError, r"weights must have 1 axes, got shape \(3, 1\)"),
        (dict(weights=torch.ones(1)), ValueError, r"weights must be \[3\], got shape \(1,\)"),
        (dict(soft_targets=torch.zeros(3).long()), ValueError, r"soft_targets must have 2 axes, got shape \(3,\)"),
        (dict(soft_targets=torch.ones(3, 6)), ValueError, r"soft_targets must be \[3, 7\], got shape \(3, 6\)"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    given = dict(inputs=torch.ones(3, WIDTH), targets=torch.zeros(3, dtype=torch.int64)) | arguments
    with pytest.raises(error, match=message):
        ClusterMemory(WIDTH, CLUSTERS)(**given)
    with pytest.raises(ValueError, match="gradient must be one of published, seen"):
        ClusterMemory(WIDTH, CLUSTERS, gradient="late")
