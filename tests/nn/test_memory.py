import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from salcr import distributed
from salcr.nn import (
    ClusterMemory,
    HybridMemory,
    InstanceMemory,
    MemoryUpdate,
    contrast_sum,
    contrast_sums,
    update_memories_,
)
from salcr.nn.memory import search_memories

D = 7


def draw(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def momentum_update(rows, features, targets, order, momentum):
    """docs/method.md, "Memory update": one sample after the other, one row at a time; a target of -1 moves none."""
    rows = rows.clone()
    for b in order:
        if targets[b] < 0:
            continue
        x = features[b] / features[b].square().sum().sqrt()
        moved = momentum * rows[targets[b]] + (1 - momentum) * x
        rows[targets[b]] = moved / moved.square().sum().sqrt()
    return rows


@pytest.mark.parametrize("kind", [ClusterMemory, InstanceMemory])
@pytest.mark.parametrize("lead", [(), (1,), (3,)])
def test_rows_are_a_unit_copy_and_no_parameter(generator, kind, lead):
    given = draw(generator, *lead, 5, D).requires_grad_()
    memory = kind(given)
    assert not list(memory.parameters()) and not memory.rows.requires_grad
    assert memory.state_dict().keys() == {"rows"}
    torch.testing.assert_close(memory.rows.norm(dim=-1), torch.ones(*lead, 5, dtype=torch.float64))
    torch.testing.assert_close(memory.rows * given.detach().norm(dim=-1, keepdim=True), given.detach())
    assert memory.rows.data_ptr() != given.data_ptr()


@pytest.mark.parametrize("kind", [ClusterMemory, InstanceMemory, HybridMemory])
@pytest.mark.parametrize("carry", [copy.deepcopy, lambda memory: pickle.loads(pickle.dumps(memory))])
def test_memories_are_copied_and_pickled(generator, kind, carry):
    memory, other = (kind(draw(generator, 5, D)) for _ in range(2))
    copied = carry(memory)
    assert torch.equal(copied.rows, memory.rows) and copied.rows.data_ptr() != memory.rows.data_ptr()
    copied.load_state_dict(other.state_dict())
    assert torch.equal(copied.rows, other.rows) and not torch.equal(memory.rows, other.rows)
    if kind is HybridMemory:
        assert torch.equal(copied.centroids, other.centroids)
    if kind is InstanceMemory:
        assert copied.rounded is None


def test_a_memory_that_is_made_in_inference_mode_is_trained_against(generator):
    rows, features, targets = draw(generator, 4, D), draw(generator, 6, D).requires_grad_(), torch.arange(6) % 4
    with torch.inference_mode():
        clusters, hybrid, images = ClusterMemory(rows * 2), HybridMemory(rows * 2), InstanceMemory(rows * 2, k=2)
        hybrid.assign_(torch.tensor([0, 0, 1, -1]))
    pairs = (clusters, ClusterMemory(rows)), (hybrid, HybridMemory(rows, torch.tensor([0, 0, 1, -1])))
    for made, expected in pairs:
        losses = [memory.contrast(features, targets) for memory in (made, expected)]
        assert torch.equal(*(torch.autograd.grad(loss, features)[0] for loss in losses))
        for memory in (made, expected):
            memory.update_(features, targets)
        assert torch.equal(made.rows, expected.rows)
    assert torch.autograd.grad(images.contrast(features, *images.search(features)), features)[0].isfinite().all()


@pytest.mark.parametrize("kind", [ClusterMemory, InstanceMemory])
def test_rows_that_are_unit_already_are_copied_too(kind):
    given = torch.eye(3)
    kind(given).rows.zero_()
    assert torch.equal(given, torch.eye(3))


@pytest.mark.parametrize("temperature", [0.05, 0.7])
def test_contrast_is_cross_entropy_of_cosines(generator, temperature):
    features, centroids = draw(generator, 6, D).requires_grad_(), draw(generator, 4, D)
    targets = torch.tensor([0, 3, 3, 1, 2, 0])
    loss = ClusterMemory(centroids, temperature=temperature).contrast(features, targets)
    cosines = torch.stack([torch.stack([torch.cosine_similarity(x, c, dim=0) for c in centroids]) for x in features])
    expected = F.cross_entropy(cosines / temperature, targets)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(x, features)[0] for x in (loss, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.9, 1.0])
def test_update_takes_the_samples_one_after_the_other(generator, momentum):
    features, centroids = draw(generator, 9, D), F.normalize(draw(generator, 3, D))
    targets = torch.tensor([0, 0, 2, 0, 2, 2, 0, 0, 2])
    memory = ClusterMemory(centroids, momentum=momentum)
    memory.update_(features, targets)
    torch.testing.assert_close(memory.rows, momentum_update(centroids, features, targets, range(9), momentum))
    torch.testing.assert_close(memory.rows[1], centroids[1])  # no sample, no move
    if momentum == 0:
        torch.testing.assert_close(memory.rows[0], F.normalize(features[7], dim=0))


def test_the_gradient_is_that_of_the_memory_of_the_forward_pass(generator):
    centroids, targets = draw(generator, 3, D), torch.tensor([0, 1, 2, 1])
    features = draw(generator, 4, D).requires_grad_()
    memory = ClusterMemory(centroids)
    memory.contrast(features, targets).backward()
    memory.update_(features, targets)
    (expected,) = torch.autograd.grad(ClusterMemory(centroids).contrast(features, targets), features)
    torch.testing.assert_close(features.grad, expected, rtol=0, atol=0)
    assert not memory.rows.requires_grad

    late = memory.contrast(features, targets)
    memory.update_(features, targets)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


def test_update_takes_features_of_another_precision(generator):
    features, centroids = draw(generator, 4, D), draw(generator, 2, D).float()
    memory = ClusterMemory(centroids)
    memory.update_(features, torch.tensor([0, 1, 1, 0]))
    expected = momentum_update(F.normalize(centroids), features.float(), torch.tensor([0, 1, 1, 0]), range(4), 0.1)
    assert memory.rows.dtype == torch.float32
    torch.testing.assert_close(memory.rows, expected)


@pytest.mark.parametrize("k", [1, 4, 19, 20, 30])
def test_neighbors_are_the_first_k_of_the_sorted_cosines(generator, k):
    features, images = draw(generator, 5, D), draw(generator, 20, D)
    indices, lse = InstanceMemory(images, k=k, temperature=0.2).neighbors(features)
    assert indices.shape == (5, k)
    for b, x in enumerate(features):
        cosines = torch.cosine_similarity(x.expand(20, -1), images)
        nearest = sorted(range(20), key=lambda j, c=cosines: -c[j])[:k]
        assert [j for j in indices[b].tolist() if j >= 0] == sorted(nearest)
        torch.testing.assert_close(lse[b], (cosines / 0.2).exp().sum().log())


def test_pull_towards_a_set_is_minus_the_log_of_its_probability(generator):
    images, features = draw(generator, 12, D), draw(generator, 3, D).requires_grad_()
    memory = InstanceMemory(images, k=4, temperature=0.3)
    before = memory.rows.clone()
    positives = torch.tensor([[1, 5, 11], [3, -1, -1], [-1, -1, -1]])
    loss = memory.contrast(features, positives, memory.neighbors(features)[1])
    p = torch.softmax(F.normalize(features) @ F.normalize(images).T / 0.3, dim=1)
    expected = -(torch.log(p[0, 1] + p[0, 5] + p[0, 11]) + torch.log(p[1, 3])) / 2  # row 2 has no positive
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(x, features)[0] for x in (loss, expected))
    torch.testing.assert_close(found, wanted)
    assert not found[2].any() and torch.equal(memory.rows, before)


@pytest.mark.parametrize(("lead", "sets"), [((), "own"), ((2,), "own"), ((2,), "of one part"), ((2,), "shared")])
def test_processes_share_the_mean_over_the_rows_that_have_a_set(generator, monkeypatch, lead, sets):
    features, memory = draw(generator, *lead, 6, D), InstanceMemory(draw(generator, *lead, 5, D), k=2)
    positives, lse, mean_row = memory.search(features)
    positives = positives[0] if sets == "shared" else positives  # by all parts
    positives[..., [0, 1, 4], :] = -1
    if sets == "of one part":
        positives[1] = -1
    loss, counts = memory.contrast(features, positives, lse), (positives[..., 0] >= 0).sum(-1)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "total", lambda _: counts)
    of_each = [
        memory.contrast(features[..., own, :], positives[..., own, :], lse[..., own], mean_row[..., own, :])
        for own in (slice(3), slice(3, 6))
    ]
    torch.testing.assert_close(sum(of_each) / 2, loss)


def test_a_sum_of_contrasts_has_one_temperature(generator):
    rows = torch.randn(3, 4, generator=generator)
    memories = [ClusterMemory(rows, temperature=t) for t in (0.05, 0.1)]
    with pytest.raises(ValueError, match=r"differ in temperature: 0\.05, 0\.1"):
        contrast_sum(rows, memories, [torch.arange(3)] * 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda memory: ClusterMemory(torch.ones(3, 4).long()),
            TypeError,
            "rows must be floating point, got torch.int64",
        ),
        (lambda memory: InstanceMemory([[1.0]]), TypeError, "rows must be a torch.Tensor, got list"),
        (lambda memory: ClusterMemory(torch.ones(3)), ValueError, r"rows must have 2 or 3 axes, got shape \(3,\)"),
        (lambda memory: InstanceMemory(torch.ones(0, 3)), ValueError, r"rows is empty: shape \(0, 3\)"),
        (lambda memory: InstanceMemory(memory.rows, k=0), ValueError, "k must be at least 1, got 0"),
        (lambda memory: ClusterMemory(memory.rows, momentum=1.2), ValueError, r"momentum must be in \[0, 1\], got 1.2"),
        (
            lambda memory: memory.update_([[1.0]], torch.tensor([0])),
            TypeError,
            "features must be a torch.Tensor, got l",
        ),
        (lambda memory: contrast_sum(torch.ones(1, 3), [], []), ValueError, "memories is empty"),
        (lambda memory: contrast_sums([]), ValueError, "contrasts is empty"),
        (lambda memory: update_memories_([]), ValueError, "updates is empty"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(ClusterMemory(torch.eye(3)))


@pytest.mark.parametrize("kind", [ClusterMemory, InstanceMemory, HybridMemory])
def test_settings_that_no_operator_takes_are_refused_at_once(kind):
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        kind(torch.eye(3), temperature=0)
    with pytest.raises(ValueError, match="precision must be one of auto, float32, tf32, bfloat16, got 'fp32'"):
        kind(torch.eye(3), precision="fp32")


def test_updates_together_have_an_order_all_or_none(generator):
    rows, y = torch.randn(3, 4, generator=generator), torch.arange(3)
    memories = [ClusterMemory(rows) for _ in range(2)]
    before = [memory.rows.clone() for memory in memories]
    with pytest.raises(ValueError, match="all updates have an order or none"):
        update_memories_([MemoryUpdate(memories[0], rows, y, y), MemoryUpdate(memories[1], rows, y)])
    assert all(torch.equal(memory.rows, x) for memory, x in zip(memories, before, strict=True))


def test_updates_together_are_those_one_by_one(generator):
    """Features of half precision too, as autocast leaves them: the memories keep their own."""
    rows, features = draw(generator, 2, 5, D).float(), draw(generator, 2, 4, D).bfloat16()
    targets, order = torch.tensor([0, 1, 1, 4]), torch.tensor([2, 0, 1, 3])
    together, alone = ([ClusterMemory(x, momentum=0.3) for x in rows] for _ in range(2))
    update_memories_([MemoryUpdate(*terms, targets, order) for terms in zip(together, features, strict=True)])
    for memory, one, x in zip(together, alone, features, strict=True):
        one.update_(x, targets, order)
        assert torch.equal(memory.rows, one.rows) and memory.rows.dtype == torch.float32


def test_several_searches_have_one_k(generator):
    rows = torch.randn(3, 4, generator=generator)
    with pytest.raises(ValueError, match="differ in k: 1, 2"):
        search_memories([rows], [[InstanceMemory(rows, k=k) for k in (1, 2)]])


@pytest.mark.parametrize("memory", [ClusterMemory, InstanceMemory])
@pytest.mark.parametrize("entry", [1e20, torch.inf, torch.nan])
def test_a_row_that_has_no_length_is_nan(memory, entry):
    rows = memory(torch.tensor([[3.0, 4.0], [entry, 0.0]])).rows
    assert torch.equal(rows[0], torch.tensor([0.6, 0.8])) and rows[1].isnan().any()


@pytest.mark.parametrize("kind", [ClusterMemory, HybridMemory])
def test_a_memory_of_bfloat16_products_stays_float32(generator, kind):
    """It is contrasted as it is rounded, cosines within 2⁻⁸, and updated as it is."""
    rows, features = draw(generator, 5, D).float(), draw(generator, 4, D).float()
    memory, exact = (kind(rows, precision=precision) for precision in ("bfloat16", "float32"))
    targets = torch.tensor([0, 1, 1, 4])
    found, expected = memory.contrast(features, targets), exact.contrast(features, targets)
    assert found.dtype == torch.float32 and 0 < (found - expected).abs() < 2 * 2**-8 / memory.temperature
    for one in (memory, exact):
        one.update_(features, targets)
    assert torch.equal(memory.rows, exact.rows)


def test_memories_of_a_step_have_one_precision(generator):
    features, targets = draw(generator, 2, D).float(), torch.tensor([0, 1])
    pairs = [
        [kind(draw(generator, 3, D).float(), precision=precision) for precision in ("float32", "bfloat16")]
        for kind in (ClusterMemory, InstanceMemory)
    ]
    with pytest.raises(ValueError, match="memories differ in precision: float32, bfloat16"):
        contrast_sum(features, pairs[0], [targets, targets])
    with pytest.raises(ValueError, match="memories differ in precision: float32, bfloat16"):
        search_memories([features], [pairs[1]])


def test_the_copy_in_bfloat16_is_made_once_and_follows_a_loaded_state(generator):
    memory, other = (InstanceMemory(draw(generator, 3, D).float(), precision="bfloat16") for _ in range(2))
    assert memory.in_bfloat16() is memory.in_bfloat16() and memory.state_dict().keys() == {"rows"}
    memory.load_state_dict(other.state_dict())
    assert torch.equal(memory.in_bfloat16(), other.rows.bfloat16())


def test_the_copy_in_bfloat16_stays_so_where_the_module_changes_its_dtype(generator):
    memory = InstanceMemory(draw(generator, 3, D).float(), precision="bfloat16")
    memory.in_bfloat16()
    for dtype in (torch.float64, torch.float32):
        memory.to(dtype)
        assert memory.in_bfloat16().dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [ClusterMemory, HybridMemory, InstanceMemory])
def test_a_memory_prints_its_settings(kind, generator):
    printed = repr(kind(torch.rand(4, 3, generator=generator), temperature=0.25))
    assert printed.startswith(f"{kind.__name__}(rows=(4, 3), ") and "temperature=0.25, precision='auto'" in printed
