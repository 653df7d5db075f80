"""One step of either stage from its parts: what is drawn, what the memories hold and how they are updated."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import DBSCAN

from salcr import ops
from salcr.data.augment import Augmentation
from salcr.engine import load_config, stage_one, stage_two
from salcr.engine import session as session_module
from salcr.engine.config import DAGI
from salcr.engine.run_folder import RunFolder
from salcr.engine.stage_two import StageTwoObjective, cross_accuracy, cross_labels
from salcr.engine.steps import LossWatch
from salcr.engine.trainer import Trainer
from salcr.models import Embedding, SALCRNetwork, TrainingFeatures
from salcr.nn import ClusterMemory, InstanceMemory
from salcr.objectives import CrossLabels, associate
from salcr.reference.published.instance_memory import refinement_losses
from tests.engine.tree import tiny

SAMPLES = 16
EPOCHS = {1: (stage_one, stage_one.stage_one_epoch), 2: (stage_two, stage_two.stage_two_epoch)}


@pytest.fixture
def first_step(tree, tmp_path, monkeypatch):
    """Runs an epoch of one step of a stage, and says what went through it."""

    def run(stage, *more):
        trainer = Trainer(load_config(overrides=tiny(tree, "schedule.iterations=1", *more)), RunFolder(tmp_path))
        module, epoch = EPOCHS[stage]
        seen = dict(trainer=trainer, sides=trainer.extract(), updates=[], order=[])
        draw, optimise, update = session_module.draw_batch, module.optimise, ClusterMemory.update_

        def spy_draw(*arguments, **options):
            seen.update(options)
            return draw(*arguments, **options)

        def spy_optimise(optimiser, loss):
            seen["order"].append("step")
            seen["total"] = loss.item()
            optimise(optimiser, loss)

        def spy_update(memory, features, targets, order=None):
            before = memory.rows.clone()
            update(memory, features, targets, order)
            seen["order"].append("update")
            seen["updates"].append((before, features.detach(), targets, order, memory.rows))

        monkeypatch.setattr(session_module, "draw_batch", spy_draw)
        monkeypatch.setattr(module, "optimise", spy_optimise)
        monkeypatch.setattr(ClusterMemory, "update_", spy_update)
        monkeypatch.setattr(module, "update_memories_", lambda updates: [spy_update(*terms) for terms in updates])
        monkeypatch.setattr(LossWatch, "add", lambda self, losses, rows: seen.update(losses=losses, rows=rows))
        monkeypatch.setattr(LossWatch, "means", lambda self: {})
        trainer.network.register_forward_hook(lambda module, inputs, output: seen.update(output=output))
        epoch(trainer, 0)
        return seen

    return run


def labels_by_hand(features, settings):
    distances = ops.jaccard_distance(features, k1=settings.k1, k2=settings.k2).double().numpy()
    clusters = DBSCAN(eps=settings.eps, min_samples=settings.min_samples, metric="precomputed")
    return torch.from_numpy(clusters.fit_predict(distances))


def centroids_by_hand(features, labels):
    return torch.stack([features[labels == c].mean(0) for c in range(int(labels.max()) + 1)])


def contrast_by_hand(f, memory, targets):
    logits = F.normalize(f.detach()).double() @ F.normalize(memory).double().T / 0.05
    return -np.mean([row.log_softmax(0)[target].item() for row, target in zip(logits, targets, strict=True)])


def update_by_hand(before, features, targets, order):
    memory = before.double().clone()
    for i in order:
        row = 0.1 * memory[targets[i]] + 0.9 * F.normalize(features[i].double(), dim=0)
        memory[targets[i]] = row / row.norm()
    return memory.float()


def cross_labels_by_hand(seen, labels, settings):
    """Own and cross labels of the batch: the association sees no noise."""
    kept = [np.flatnonzero(y >= 0) for y in labels]
    inputs = [x for side, y, k in zip(seen["sides"], labels, kept, strict=True) for x in (side.f[k], y[k])]
    own_v, to_r, own_r, to_v = associate(*inputs, k=settings.k, association=settings.association)
    v, r = (np.searchsorted(k, rows.numpy()) for k, rows in zip(kept, seen["rows"], strict=True))
    return own_v[v], to_r[v], own_r[r], to_v[r]


def test_stage_one(first_step):
    seen = first_step(1)
    settings = seen["trainer"].config.clustering
    labels = [labels_by_hand(side.f, settings) for side in seen["sides"]]
    memories = [F.normalize(centroids_by_hand(side.f, y)) for side, y in zip(seen["sides"], labels, strict=True)]
    y_v, y_r = (y[rows] for y, rows in zip(labels, seen["rows"], strict=True))
    assert len(y_v) == len(y_r) == SAMPLES and y_v.min() >= 0 and y_r.min() >= 0
    v, a, r = seen["output"].f.detach().split(SAMPLES)
    assert {name: loss.item() for name, loss in seen["losses"].items()} == pytest.approx(
        {
            "visible": contrast_by_hand(v, memories[0], y_v),
            "augmented": contrast_by_hand(a, memories[0], y_v),
            "infrared": contrast_by_hand(r, memories[1], y_r),
        },
        rel=1e-4,
    )
    assert seen["total"] == pytest.approx(sum(loss.item() for loss in seen["losses"].values()))
    assert seen["local_scaling"] is True and seen["output"].parts is None
    assert seen["order"] == ["step", "update", "update"]
    both = torch.cat([y_v, y_v])
    expected = (memories[0], torch.cat([a, v]), both), (memories[1], r, y_r)
    for (before, _, _, order, after), (memory, features, targets) in zip(seen["updates"], expected, strict=True):
        assert order is None
        torch.testing.assert_close(before, memory)
        torch.testing.assert_close(after, update_by_hand(memory, features, targets, range(len(targets))))
    rows = seen["updates"][0][4]
    assert not torch.allclose(rows, update_by_hand(memories[0], torch.cat([v, a]), both, range(len(both))), atol=1e-3)
    for y in y_v.unique():  # 0.9 of the last plain sample and 0.1 of a unit row: the angle is at most asin(1/9)
        assert torch.cosine_similarity(rows[y], v[y_v == y][-1], dim=0) > 0.99


def test_stage_one_takes_the_settings_of_memories(first_step):
    seen = first_step(1, "memory.momentum=1", "memory.temperature=1e6")
    sizes = [len(before) for before, *_ in seen["updates"]]
    for before, *_, after in seen["updates"]:  # all of the old row is kept
        torch.testing.assert_close(after, before)
    found = [seen["losses"][name].item() for name in ("visible", "infrared")]
    assert found == pytest.approx(np.log(sizes), abs=1e-5)  # logits are within 2e-6 of each other


@pytest.mark.parametrize("stage", [1, 2])
def test_memories_multiply_as_configured(tree, tmp_path, monkeypatch, stage):
    trainer = Trainer(load_config(overrides=tiny(tree, "objectives.precision=bfloat16")), RunFolder(tmp_path))
    found = []
    monkeypatch.setattr(trainer, "run_steps", lambda epoch, state, *_, **__: found.extend(state.memories.modules()))
    EPOCHS[stage][1](trainer, 0)
    memories = [module for module in found if isinstance(module, (ClusterMemory, InstanceMemory))]
    assert len(memories) == {1: 2, 2: 2 + 4 + 4}[stage]
    assert {memory.precision for memory in memories} == {"bfloat16"}


def test_stage_two(first_step):
    """The global loss, and that each of the memories is updated once, with all of its rows, after the step."""
    seen = first_step(2)
    config = seen["trainer"].config
    labels = [labels_by_hand(side.f, config.clustering) for side in seen["sides"]]
    memories = [F.normalize(centroids_by_hand(side.f, y)) for side, y in zip(seen["sides"], labels, strict=True)]
    own_v, to_r, own_r, to_v = cross_labels_by_hand(seen, labels, config.dagi)
    f = seen["output"].f.detach()
    targets = torch.cat([own_v, own_v, to_v]), torch.cat([to_r, to_r, own_r])
    hand = sum(contrast_by_hand(f, memory, y) for memory, y in zip(memories, targets, strict=True))
    assert seen["losses"]["global"].item() == pytest.approx(hand, rel=1e-4)
    assert ((own_v == to_v) | (to_r == own_r)).all()  # a position has one identity, of the one kind or the other
    assert seen["total"] == pytest.approx(sum(loss.item() for loss in seen["losses"].values()))
    assert seen["local_scaling"] is False
    assert seen["order"] == ["step", *["update"] * 6]

    for (before, features, given, order, after), memory, y in zip(seen["updates"][:2], memories, targets, strict=True):
        torch.testing.assert_close(before, memory)
        assert torch.equal(features, f) and torch.equal(given, y)
        assert sorted(order.tolist()) == list(range(3 * SAMPLES))
        assert order.tolist() != list(range(3 * SAMPLES))
        torch.testing.assert_close(after, update_by_hand(memory, f, y, order.tolist()))
    assert torch.equal(seen["updates"][0][3], seen["updates"][1][3])  # one order for both

    parts = seen["output"].parts.detach()
    joint = [side.joint.unflatten(1, (4, -1)) for side in seen["sides"]]
    banks = [
        torch.stack([F.normalize(centroids_by_hand(side[:, p], y)) for p in range(3)])
        for side, y in zip(joint, labels, strict=True)
    ]
    wanted = {"A": (banks[0], 6), "B": (banks[1], 6), "C": (banks[0], 3), "E": (banks[1], 3)}
    for (before, features, given, order, _), (bank, times) in zip(seen["updates"][2:], wanted.values(), strict=True):
        torch.testing.assert_close(before, bank)
        assert features.shape == (3, times * SAMPLES, parts.shape[-1])
        assert given.shape == (3, times * SAMPLES) and order.shape == (times * SAMPLES,)
        for p in range(3):  # every row of the views, once
            rows = parts[p, :, : 2 * SAMPLES] if times == 6 else parts[p, :, 2 * SAMPLES :]
            assert torch.equal(features[p].sum(1).sort().values, rows.flatten(0, 1).sum(1).sort().values)


@pytest.mark.parametrize(
    ("on", "unused"),
    [("dagi", ["parts"]), ("fgsal", ["norm"]), ("gpcr", []), ("dagi fgsal gpcr", []), ("dagi gpcr", [])],
)
def test_what_no_loss_reaches_is_not_trained(on, unused):
    dagi, fgsal, gpcr = (torch.nn.Identity() if name in on else None for name in ("dagi", "fgsal", "gpcr"))
    objective = StageTwoObjective(dagi, fgsal, gpcr and (gpcr, gpcr), 0.5)
    network = SALCRNetwork("tiny")
    assert objective.unused(network) == [getattr(network, name) for name in unused]


@pytest.mark.parametrize("authors_pg1", [False, True])
def test_the_switch_of_the_published_code_reaches_losses_and_memories(first_step, authors_pg1):
    seen = first_step(2, f"model.authors_pg1={authors_pg1}")
    parts = seen["output"].parts.detach()  # what the losses of parts and instances are of
    augmented = slice(SAMPLES, 2 * SAMPLES)
    assert torch.equal(parts[:, 1, augmented], parts[:, 2, augmented]) == authors_pg1
    for _, features, *_ in seen["updates"][2:4]:  # A and B: own, pg1 and pg2, each v and then a
        (*_, pg1), (*_, pg2) = (features.unflatten(1, (3, 2, -1))[:, form].unbind(1) for form in (1, 2))
        assert torch.equal(pg1, pg2) == authors_pg1
    parted = {name: seen["losses"][name].item() for name in ("parts", "part_instance")}
    f = seen["output"].f.detach()
    hand = StageTwoObjective.build(seen["trainer"].config, seen["sides"], seen["trainer"].labels)
    config = seen["trainer"].config
    labels = cross_labels(seen["sides"], seen["trainer"].labels, config.dagi)
    given = TrainingFeatures(f, parts)
    again = hand.losses(given, hand.queries(given, labels.of_batch(*seen["rows"])))
    assert parted == pytest.approx({name: again[name].item() for name in parted}, rel=1e-4)


def test_views_are_augmented_as_configured(tree, tmp_path):
    config = load_config(overrides=tiny(tree, "augment.erase=0.25", "augment.jitter=0.1"))
    assert Trainer(config, RunFolder(tmp_path)).augmentation == Augmentation(pad=2, erase=0.25, jitter=0.1)


def test_noise_is_in_no_memory_of_stage_two(tree, tmp_path, generator):
    trainer = Trainer(load_config(overrides=tiny(tree)), RunFolder(tmp_path))
    sides = trainer.extract()
    clusters = tuple(torch.arange(len(side.f)) % 3 - 1 for side in sides)
    objective = StageTwoObjective.build(trainer.config, sides, clusters)
    joints = [side.joint.unflatten(1, (4, -1)) for side in sides]
    for refinement, side, joint, y in zip(objective.gpcr, sides, joints, clusters, strict=True):
        torch.testing.assert_close(refinement.whole.rows, side.f[y >= 0])
        for p in range(3):
            torch.testing.assert_close(refinement.parts.rows[p], F.normalize(joint[y >= 0, p]))
    dagi, fgsal = objective.dagi, objective.fgsal
    for memory, side, y in zip((dagi.visible, dagi.infrared), sides, clusters, strict=True):
        torch.testing.assert_close(memory.rows, F.normalize(centroids_by_hand(side.f, y)))
    for memory, joint, y in zip((fgsal.visible_to_visible, fgsal.visible_to_infrared), joints, clusters, strict=True):
        expected = torch.stack([F.normalize(centroids_by_hand(joint[:, p], y)) for p in range(3)])
        torch.testing.assert_close(memory.rows, expected)
    assert objective.weight == 0.5 and objective.uses_parts

    # A batch of three positions; the views of a position are close to one image.
    f = sides[0].f[[1, 2, 4]].repeat(3, 1) + 0.02 * torch.randn(9, sides[0].f.shape[1], generator=generator)
    parts = joints[0][[1, 2, 4], :3].movedim(1, 0).repeat(1, 3, 1).unsqueeze(1).repeat(1, 3, 1, 1)

    def losses(keep):
        """By the published formulation, of the images for which ``keep`` is true."""
        total = [0, 0]
        for side, joint, y in zip(sides, joints, clusters, strict=True):
            rows = side.f[keep(y)], F.normalize(joint[keep(y), :3].movedim(1, 0), dim=-1)
            found = refinement_losses(f, parts, *rows, k=5, temperature=0.05)
            total = [a + b for a, b in zip(total, found, strict=True)]
        return total

    found = [sum(losses) for losses in zip(*(side.loss(f, parts) for side in objective.gpcr), strict=True)]
    torch.testing.assert_close(found, losses(lambda y: y >= 0), rtol=1e-4, atol=1e-4)
    for ours, with_noise in zip(found, losses(lambda y: y >= -1), strict=True):
        assert abs(ours - with_noise) > 0.1


def random_sides(generator):
    sides = tuple(Embedding(F.normalize(torch.randn(n, 12, generator=generator)), torch.zeros(n, 4)) for n in (40, 30))
    return sides, (torch.arange(40) % 5 - 1, torch.arange(30) % 4 - 1)


@pytest.mark.parametrize("association", ["ot", "hungarian", "graph"])
def test_noise_takes_no_part_in_association(generator, association):
    (sides, labels), settings = random_sides(generator), DAGI(k=5, association=association)
    found = cross_labels(sides, labels, settings)
    kept = [y >= 0 for y in labels]
    inputs = [x for side, y, k in zip(sides, labels, kept, strict=True) for x in (side.f[k], y[k])]
    expected = associate(*inputs, k=5, association=association)
    for got, want, k in zip(found, expected, (kept[0], kept[0], kept[1], kept[1]), strict=True):
        assert torch.equal(got[k], want)
        assert (got[~k] == -1).all() and got.dtype == torch.int64
    moved = tuple(
        Embedding(torch.where(k[:, None], side.f, -side.f), side.joint) for side, k in zip(sides, kept, strict=True)
    )
    for got, again in zip(found, cross_labels(moved, labels, settings), strict=True):
        assert torch.equal(got, again)


def test_the_transports_options_reach_the_operator(generator, monkeypatch):
    seen, original = [], ops.sinkhorn
    monkeypatch.setattr(ops, "sinkhorn", lambda cost, **options: seen.append(options) or original(cost, **options))
    chosen = dict(lam=2.0, tol=0.5, max_iter=7)
    cross_labels(*random_sides(generator), DAGI(k=5, sinkhorn=chosen))
    assert seen == [chosen, chosen]


def test_features_with_nan_are_an_error(tree, tmp_path, monkeypatch):
    """What follows takes them as good."""
    extract = session_module.extract_features

    def poisoned(*arguments, infrared, **options):
        found = extract(*arguments, infrared=infrared, **options)
        found.f[3, 2] = math.nan if infrared else 0
        return found

    monkeypatch.setattr(session_module, "extract_features", poisoned)
    trainer = Trainer(load_config(overrides=tiny(tree)), RunFolder(tmp_path))
    with pytest.raises(ValueError, match="infrared features has NaN or Inf, first in row 3"):
        trainer.extract()


def test_a_cross_label_is_right_where_the_identity_is_the_commonest_of_the_cluster():
    own, cross = torch.zeros(5, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    labels = CrossLabels(own, torch.full((5,), -1), cross, cross)
    people = np.array([7, 7, 8, 9, 4])  # two of five are no majority, and more than of anyone else
    shares = [cross_accuracy(labels, people, np.array([person])) for person in (7, 8)]
    assert shares == [{"infrared_to_visible": 1.0}, {"infrared_to_visible": 0.0}]


def test_cross_accuracy_by_hand():
    # Visible clusters 0 and 1 are of the people 7 and 8; infrared cluster 0 is of 8, 1 of 7, and 2 has no image left.
    labels = CrossLabels(
        visible=torch.tensor([0, 0, 1, 1, -1]),
        visible_to_infrared=torch.tensor([1, 0, 0, 2, -1]),
        infrared=torch.tensor([0, 0, 1, -1]),
        infrared_to_visible=torch.tensor([1, 0, 0, -1]),
    )
    accuracy = cross_accuracy(labels, np.array([7, 7, 8, 8, 8]), np.array([8, 8, 7, 7]))
    # Visible: 7 -> 7 right, 7 -> 8 wrong, 8 -> 8 right, 8 -> none wrong. Infrared: 8 right, 8 -> 7 wrong, 7 right.
    assert accuracy == {"visible_to_infrared": 0.5, "infrared_to_visible": 0.6667}
    # Only the first infrared image is known, as 8: visible images of 8 are right in cluster 0, the others nowhere.
    accuracy = cross_accuracy(labels, np.array([7, 7, 8, 8, 8]), np.array([8, -1, -1, -1]))
    assert accuracy == {"visible_to_infrared": 0.25, "infrared_to_visible": 1.0}
    unknown = np.full(4, -1)
    assert cross_accuracy(labels, np.array([7, 7, 8, 8, 8]), unknown) == {}
    assert cross_accuracy(labels, np.full(5, -1), unknown) == {}
