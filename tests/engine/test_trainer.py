"""What a run does and in which order; how it stops and goes on is in test_resume.py."""

import logging
import math
import re
import shutil
from contextlib import suppress

import pytest
import torch
from PIL import Image

from salcr import ops
from salcr.engine import checkpoint, load_config, stage_one, stage_two, train
from salcr.engine import trainer as engine
from salcr.engine.demo import cross_label_line
from salcr.engine.evaluation import evaluate_checkpoint
from salcr.engine.pseudo_labels import ClusteringError
from salcr.engine.run_folder import RunFolder
from salcr.engine.steps import NonFiniteLoss
from salcr.engine.trainer import Trainer
from salcr.models import SALCRNetwork
from salcr.objectives import association, register_association
from tests.engine.tree import tiny, with_channels, write_tree
from tests.models.files import write
from tests.models.published import behind_module, published_state, related_state, wrapped

STAGE_ONE = {"visible", "augmented", "infrared"}
GLOBAL, PARTS, REFINED = {"global"}, {"parts"}, {"global_instance", "part_instance"}
SHORT = (
    "schedule.iterations=2",
    "schedule.stage_one_epochs=1",
    "schedule.stage_two_epochs=1",
    "evaluation.refinements=[]",
)
NO_RESULT = {"loss": {}, "visible": {"clusters": 2, "noise": 0.0, "ari": 0.0}} | {
    "infrared": {"clusters": 2, "noise": 0.0, "ari": 0.0}
}


def metrics(folder):
    return RunFolder(folder).read_metrics()


def last_state(folder):
    return checkpoint.load_newest(folder / "checkpoints")


@pytest.fixture(scope="module")
def stage_one_run(tree, tmp_path_factory):
    """A folder with one epoch of stage one, and its summary."""
    folder = tmp_path_factory.mktemp("stage_one")
    config = load_config(overrides=tiny(tree, *SHORT, "schedule.stage_two_epochs=0"))
    return folder, train(config, folder)


@pytest.fixture
def from_stage_one(tree, stage_one_run):
    """The configuration of one epoch of stage two on top of it, with overrides."""
    path = stage_one_run[0] / "checkpoints/epoch_0000.pt"
    start = tiny(tree, *SHORT, "schedule.stage_one_epochs=0", f"model.checkpoint={path}")
    return lambda *more: load_config(overrides=[*start, *more])


@pytest.fixture
def fake_epochs(monkeypatch):
    """Epochs, evaluation and checkpoints that do nothing, except that ``watch(stage, trainer, epoch)`` is called."""

    def install(watch):
        def fake(stage):
            return lambda trainer, epoch: watch(stage, trainer, epoch) or NO_RESULT

        monkeypatch.setattr(engine, "stage_one_epoch", fake(1))
        monkeypatch.setattr(engine, "stage_two_epoch", fake(2))
        monkeypatch.setattr(engine, "evaluate", lambda *_: {"all": {"rank-1": 0.0, "mAP": 0.0}})
        monkeypatch.setattr(checkpoint, "save_epoch", lambda *_, **__: None)

    return install


def test_the_learning_rate_of_all_80_epochs(tree, tmp_path, fake_epochs):
    seen = []
    fake_epochs(lambda stage, trainer, epoch: seen.append((epoch, stage, trainer.optimiser.param_groups[0]["lr"])))
    paper = load_config(preset="sysu").schedule
    config = load_config(overrides=tiny(tree)).model_copy(update={"schedule": paper})
    train(config, tmp_path)
    assert [(epoch, stage) for epoch, stage, _ in seen] == [(n, 1 if n < 40 else 2) for n in range(80)]
    expected = [3.5e-4] * 20 + [3.5e-5] * 40 + [3.5e-6] * 20
    assert [rate for *_, rate in seen] == pytest.approx(expected, rel=1e-12)


def test_the_optimiser_is_adam_on_what_is_trained(tree, tmp_path, fake_epochs):
    fake_epochs(lambda *_: None)
    trainer = Trainer(load_config(overrides=tiny(tree, "schedule.weight_decay=0.003")), RunFolder(tmp_path))
    assert type(trainer.optimiser) is torch.optim.Adam
    (group,) = trainer.optimiser.param_groups
    assert group["weight_decay"] == 0.003
    frozen = {id(trainer.network.norm.bias), id(trainer.network.parts.norm.bias)}
    assert {id(p) for p in group["params"]} == {id(p) for p in trainer.network.parameters()} - frozen
    state = trainer.optimiser.state_dict()
    state["param_groups"][0] |= {"fused": True}  # as a GPU has left it
    trainer.load_optimiser(state)
    assert trainer.optimiser.param_groups[0]["fused"] is None


def test_stage_two_begins_afresh_once(tree, tmp_path, fake_epochs):
    seen = []

    def watch(stage, trainer, epoch):
        parts = trainer.network.parts
        seen.append(
            dict(
                stage=stage,
                optimiser=trainer.optimiser,
                moments=len(trainer.optimiser.state),
                tokens=parts.tokens.detach().clone(),
                norm={name: x.clone() for name, x in parts.norm.state_dict().items()},
                backbone=trainer.network.backbone.state_dict()["stages.0.0.conv1.weight"].clone(),
            )
        )
        sum(p.sum() for p in trainer.network.parameters()).backward()  # what training would leave
        trainer.optimiser.step()
        parts.norm.running_mean.add_(1)
        with torch.no_grad():
            parts.norm.weight.add_(1)

    fake_epochs(watch)
    train(load_config(overrides=tiny(tree)), tmp_path)
    first, second, third, fourth = seen
    assert [one["stage"] for one in seen] == [1, 1, 2, 2]
    assert first["optimiser"] is second["optimiser"] is not third["optimiser"] is fourth["optimiser"]
    assert (first["moments"], third["moments"]) == (0, 0) and second["moments"] == fourth["moments"] > 0
    assert not third["norm"]["running_mean"].any() and 0 < (third["norm"]["weight"] - 1).abs().max() < 0.06
    assert third["norm"]["num_batches_tracked"] == 0 and (third["norm"]["running_var"] == 1).all()
    assert (fourth["norm"]["running_mean"] == 1).all()
    moved = (second["tokens"] - first["tokens"]).abs().max()
    assert moved < 0.01 < (third["tokens"] - second["tokens"]).abs().max()  # Adam steps against a new draw
    assert (fourth["tokens"] - third["tokens"]).abs().max() < 0.01
    assert third["tokens"].std() == pytest.approx((2 / third["tokens"].shape[1]) ** 0.5, rel=0.2)
    assert (third["backbone"] - second["backbone"]).abs().max() < 0.01


def test_both_stages(tree, tmp_path):
    summary = train(load_config(overrides=tiny(tree)), tmp_path)
    assert summary.keys() == {"stage_one", "final"}
    for figures in summary.values():
        assert list(figures) == ["all-single", "all-multi", "indoor-single", "indoor-multi"]
        for protocol in figures.values():
            assert 0 <= protocol["mAP"] <= 100 and "mAP" in protocol["cmfp"]
    assert summary["stage_one"] != summary["final"]
    records = metrics(tmp_path)
    assert [(record["epoch"], record["stage"]) for record in records] == [(0, 1), (1, 1), (2, 2), (3, 2)]
    assert [record["lr"] for record in records] == pytest.approx([3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6])
    for record in records:
        assert set(record["loss"]) == (STAGE_ONE if record["stage"] == 1 else GLOBAL | PARTS | REFINED)
        assert all(math.isfinite(loss) for loss in record["loss"].values())
        for side in ("visible", "infrared"):
            assert record[side].keys() == {"clusters", "noise", "ari", "nmi"}
            assert record[side]["clusters"] >= 2
        phases = {"features", "labels", "batches", "steps", "metrics", "checkpoint"}
        phases |= {"association"} if record["stage"] == 2 else set()
        assert record["seconds"].keys() == phases | ({"evaluation"} if record["epoch"] in (1, 3) else set())
        assert record.get("evaluation") == {1: summary["stage_one"], 3: summary["final"]}.get(record["epoch"])
        assert ("cross_accuracy" in record) == (record["stage"] == 2)
    state = last_state(tmp_path)
    assert state.keys() >= {"epoch", "config", "network", "optimiser", "generator", "torch_random", "labels"}
    assert state["epoch"] == 3 and len(state["labels"][0]) == 128 and len(state["labels"][1]) == 64
    assert state["results"] == {"stage_one": summary["stage_one"]}
    assert evaluate_checkpoint(tmp_path / "checkpoints/epoch_0003.pt") == summary["final"]


def test_stage_one_alone(stage_one_run):
    folder, summary = stage_one_run
    assert summary["stage_one"] == summary["final"]
    (record,) = metrics(folder)
    assert record["stage"] == 1 and record["loss"].keys() == STAGE_ONE
    before, after = SALCRNetwork("tiny").parts.norm, last_state(folder)["network"]
    assert torch.equal(after["parts.norm.running_mean"], before.running_mean)  # stage one does not run the parts


def test_stage_two_alone_starts_from_a_checkpoint(stage_one_run, from_stage_one, tmp_path):
    summary = train(from_stage_one(), tmp_path)
    assert summary["stage_one"] == stage_one_run[1]["final"]
    (record,) = metrics(tmp_path)
    assert (record["epoch"], record["stage"]) == (0, 2)
    before, after = last_state(stage_one_run[0])["network"], last_state(tmp_path)["network"]
    change = (after["backbone.stages.0.0.conv1.weight"] - before["backbone.stages.0.0.conv1.weight"]).abs().max()
    assert 0 < change < 0.01
    # The same clusters as the first epoch of a whole run would make of these features.
    again = train(from_stage_one("seed=3"), tmp_path / "other")
    assert again["stage_one"] == summary["stage_one"]
    for side in ("visible", "infrared"):
        assert metrics(tmp_path / "other")[0][side] == record[side]


def test_stage_two_starts_from_a_file_of_the_authors_code(stage_one_run, from_stage_one, tmp_path):
    network = SALCRNetwork("tiny")
    network.load_state_dict(last_state(stage_one_run[0])["network"])
    states = {"ours": last_state(stage_one_run[0]), "authors": wrapped(published_state(network))}
    states |= {"family": wrapped(behind_module(related_state(network)))}
    ends = {}
    for name, state in states.items():
        file = write(state, tmp_path / f"{name}.pth.tar")
        summary = train(from_stage_one(f"model.checkpoint={file}"), tmp_path / name)
        assert summary["stage_one"] == stage_one_run[1]["final"]
        ends[name] = last_state(tmp_path / name)["network"]
    for name in ("authors", "family"):  # part modules start fresh in any case
        torch.testing.assert_close(ends[name], ends["ours"], rtol=0, atol=0)
    other = "model.parts=2", f"model.checkpoint={tmp_path / 'authors.pth.tar'}"
    with pytest.raises(
        ValueError, match=r"authors\.pth\.tar does not fit .*model\.parts=2: it holds a tiny with 3 parts"
    ):
        train(from_stage_one(*other), tmp_path / "other")
    with pytest.raises(ValueError, match=r"authors\.pth\.tar is not a training checkpoint: it has no network"):
        train(from_stage_one(other[1], "model.checkpoint_layout=salcr"), tmp_path / "other")


def test_a_checkpoint_of_another_network_is_named(tree, stage_one_run, from_stage_one, tmp_path):
    with pytest.raises(ValueError, match=r"epoch_0000\.pt does not fit this network"):
        train(from_stage_one("model.parts=2"), tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        train(from_stage_one("model.checkpoint=absent.pt"), tmp_path / "b")
    with pytest.raises(ValueError, match="do not fit this network"):
        weights = f"model.weights={stage_one_run[0] / 'checkpoints/epoch_0000.pt'}"
        train(load_config(overrides=tiny(tree, weights)), tmp_path / "c")


ABLATIONS = {
    "fgsal": PARTS,
    "dagi": GLOBAL,
    "dagi fgsal": GLOBAL | PARTS,
    "dagi fgsal gpcr": GLOBAL | PARTS | REFINED,
    "dagi gpcr": GLOBAL | REFINED,
    "fgsal gpcr": PARTS | REFINED,
    "gpcr": REFINED,
}


@pytest.mark.parametrize("modules", ABLATIONS)
def test_modules_are_switched_off_alone(from_stage_one, tmp_path, monkeypatch, modules):
    optimise = stage_two.optimise

    def watched(optimiser, loss):
        optimise(optimiser, loss)
        for p in optimiser.param_groups[0]["params"]:  # several processes wait for the gradients of all that is trained
            assert (p.grad is not None) == p.requires_grad

    monkeypatch.setattr(stage_two, "optimise", watched)
    off = [f"{name}.enabled=false" for name in ("dagi", "fgsal", "gpcr") if name not in modules.split()]
    train(from_stage_one(*off), tmp_path)
    (record,) = metrics(tmp_path)
    assert record["loss"].keys() == ABLATIONS[modules]
    assert all(loss > 0 for name, loss in record["loss"].items() if name != "global_instance")
    state = last_state(tmp_path)
    assert all(torch.isfinite(x).all() for x in state["network"].values())
    trained_parts = state["network"]["parts.norm.num_batches_tracked"] > 0
    assert trained_parts == ("fgsal" in modules or "gpcr" in modules)


def test_a_module_switched_off_changes_no_other_loss(from_stage_one, tmp_path):
    """Of the first step: later ones differ, as the gradients do."""
    losses = {}
    for modules in ("dagi", "dagi fgsal", "dagi gpcr", "dagi fgsal gpcr"):
        off = [f"{name}.enabled=false" for name in ("fgsal", "gpcr") if name not in modules.split()]
        train(from_stage_one(*off, "schedule.iterations=1"), tmp_path / modules)
        losses[modules] = metrics(tmp_path / modules)[0]["loss"]
    for loss in losses.values():
        assert loss == {name: losses["dagi fgsal gpcr"][name] for name in loss}


def test_lambda_weighs_the_refinement(from_stage_one, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(from_stage_one("schedule.iterations=1"), one)
    train(from_stage_one("schedule.iterations=1", "gpcr.weight=1.5"), two)
    (one,), (two,) = (metrics(folder) for folder in (one, two))
    for name in GLOBAL | PARTS:
        assert one["loss"][name] == two["loss"][name]
    for name in REFINED:
        assert two["loss"][name] == pytest.approx(3 * one["loss"][name], abs=1e-4)
    assert one["loss"]["part_instance"] > 0


def test_associations_of_any_name(from_stage_one, tmp_path, monkeypatch):
    """The three that come with the package, and one of the user's."""
    monkeypatch.setattr(association, "_STRATEGIES", dict(association._STRATEGIES))
    seen = []

    def nearest(state):
        seen.append(state)
        return tuple(
            torch.cdist(x, y).argmin(1)
            for x, y in ((state.visible, state.infrared_centroids), (state.infrared, state.visible_centroids))
        )

    register_association("nearest", nearest)
    records = {}
    for name in ("ot", "hungarian", "graph", "nearest"):
        train(from_stage_one(f"dagi.association={name}"), tmp_path / name)
        (records[name],) = metrics(tmp_path / name)
        shares = records[name]["cross_accuracy"]
        assert shares.keys() == {"visible_to_infrared", "infrared_to_visible"}
        assert all(0 <= share <= 1 for share in shares.values())
        assert cross_label_line(tmp_path / name) == (
            f"cross-label accuracy ({name}): visible to infrared {100 * shares['visible_to_infrared']:.1f}, "
            f"infrared to visible {100 * shares['infrared_to_visible']:.1f}"
        )
    assert len(seen) == 1 and len(seen[0].visible) == len(seen[0].visible_labels)
    assert records["ot"]["loss"]["global"] != records["hungarian"]["loss"]["global"]
    assert records["ot"]["visible"] == records["graph"]["visible"]


def test_an_unknown_association_ends_a_run_before_it_starts(from_stage_one, tree, tmp_path):
    with pytest.raises(ValueError, match="association must be one of ot, hungarian, graph, got 'best'"):
        train(from_stage_one("dagi.association=best"), tmp_path / "run")
    assert not (tmp_path / "run/config.yaml").exists()


def test_a_checkpoint_is_evaluated_without_its_association(stage_one_run, tmp_path):
    folder, summary = stage_one_run
    state = checkpoint.load(folder / "checkpoints/epoch_0000.pt")
    state["config"]["dagi"]["association"] = "of_another_program"
    root = f"data.root={load_config(file=folder / 'config.yaml').data.root}"
    torch.save(state, tmp_path / "theirs.pt")
    assert evaluate_checkpoint(tmp_path / "theirs.pt", [root]) == summary["final"]
    assert cross_label_line(folder) == ""


def test_fewer_clusters_than_slots(tree, tmp_path):
    many = "schedule.identities=40", "schedule.images=2", "schedule.iterations=1"
    train(load_config(overrides=tiny(tree, *SHORT, *many)), tmp_path)
    for record in metrics(tmp_path):
        assert max(record[side]["clusters"] for side in ("visible", "infrared")) < 40
        assert all(math.isfinite(loss) for loss in record["loss"].values())


def test_more_neighbours_than_images(tree, tmp_path):
    every = "clustering.k1=500", "dagi.k=500", "gpcr.k=500", "evaluation.cmfp_k=500", "clustering.eps=0.95"
    with suppress(ClusteringError):  # all are neighbours of all: one cluster is a fair answer
        train(load_config(overrides=tiny(tree, *SHORT, *every)), tmp_path)


def test_the_seed_decides(tree, tmp_path):
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)  # what the caller drew does not matter
        summary = train(load_config(overrides=tiny(tree, *SHORT, f"seed={seed}")), tmp_path / name)
        runs[name] = summary, [record["loss"] for record in metrics(tmp_path / name)]
    assert runs["a"] == runs["b"] != runs["c"]


def test_bfloat16(tree, tmp_path):
    train(load_config(overrides=tiny(tree, *SHORT, "schedule.precision=bfloat16")), tmp_path)
    for record in metrics(tmp_path):
        assert all(math.isfinite(loss) for loss in record["loss"].values())
    assert all(x.dtype != torch.bfloat16 for x in last_state(tmp_path)["network"].values())


def test_a_start_from_random_weights_is_said(tree, tmp_path, stage_one_run, fake_epochs, caplog):
    fake_epochs(lambda *_: None)
    with caplog.at_level(logging.WARNING, logger="salcr"):
        train(load_config(overrides=tiny(tree)), tmp_path / "random")
        assert [r.getMessage()[:61] for r in caplog.records] == [
            "model.weights is not set: tiny starts from random weights, an"
        ]
        caplog.clear()
        with with_channels(32):
            train(load_config(overrides=tiny(tree, "model.weights=bundled")), tmp_path / "bundled")
        config = load_config(overrides=tiny(tree, *SHORT, "schedule.stage_two_epochs=0"))
        train(config, shutil.copytree(stage_one_run[0], tmp_path / "resumed"), resume=True)
    assert not caplog.records


@pytest.mark.parametrize("failing", ["infrared", "visible", "both"])
def test_labels_are_kept_where_clustering_fails_later(tree, tmp_path, monkeypatch, caplog, failing):
    """A modality of nothing but noise, from the second epoch on, through the change of stages."""
    calls, cluster = [], ops.cluster

    def failing_cluster(features, **options):
        labels = cluster(features, **options)
        calls.append(labels)
        infrared = len(labels) == 64
        if len(calls) > 2 and (failing == "both" or (failing == "infrared") == infrared):
            return torch.full_like(labels, -1)
        return labels

    monkeypatch.setattr(ops, "cluster", failing_cluster)
    with caplog.at_level(logging.WARNING, logger="salcr"):
        train(load_config(overrides=tiny(tree)), tmp_path)
    records = metrics(tmp_path)
    for side in ("visible", "infrared"):
        same = [record[side] == records[0][side] for record in records]
        assert all(same) == (failing in (side, "both"))
        warnings = [r for r in caplog.records if r.getMessage().startswith(f"{side} clusters at eps 0.6: 0, keeping")]
        assert len(warnings) == (3 if failing in (side, "both") else 0)


def test_no_clusters_at_the_start_stop_the_run(tree, tmp_path):
    with pytest.raises(ClusteringError, match=r"clusters of at least 200 visible images at eps 0\.6: 0"):
        train(load_config(overrides=tiny(tree, "clustering.min_samples=200")), tmp_path)
    assert not any((tmp_path / "checkpoints").iterdir())


def test_an_image_that_does_not_decode_is_named_before_anything_is_written(tmp_path):
    root = write_tree(tmp_path / "tree")
    (root / "cam3/0002/0001.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"cam3/0002/0001\.png"):
        train(load_config(overrides=tiny(root)), tmp_path / "run")
    Image.new("RGB", (8, 8)).save(root / "cam3/0002/0001.png")
    train(load_config(overrides=tiny(root, *SHORT)), tmp_path / "run")  # the folder holds no run yet


def test_a_test_image_that_does_not_decode_stops_between_the_stages_and_the_run_goes_on(tmp_path):
    root = write_tree(tmp_path / "tree")
    (root / "cam6/0010/0003.png").write_bytes(b"not a picture")
    config = load_config(overrides=tiny(root, *SHORT, "schedule.iterations=1"))
    with pytest.raises(ValueError, match=r"cam6/0010/0003\.png"):
        train(config, tmp_path / "run")
    assert last_state(tmp_path / "run")["epoch"] == 0
    Image.new("RGB", (8, 8)).save(root / "cam6/0010/0003.png")
    assert train(config, tmp_path / "run", resume=True)["stage_one"]
    assert [record["stage"] for record in metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("override", ["data.root=null", "data.root=absent", "model.weights=absent.pth", "device=gpu"])
def test_a_run_that_cannot_begin_leaves_its_folder_free(tree, tmp_path, override):
    with pytest.raises((ValueError, OSError)):
        train(load_config(overrides=tiny(tree, override)), tmp_path)
    assert not (tmp_path / "config.yaml").exists()
    Trainer(load_config(overrides=tiny(tree)), RunFolder(tmp_path))


def test_decoded_images_go_where_the_configuration_says(tree, tmp_path):
    def files(folder):
        return {path for path in folder.rglob("*") if path.is_file()}

    before = files(tree)
    cache = tmp_path / "cache"
    trainer = Trainer(load_config(overrides=tiny(tree, f"data.cache={cache}")), RunFolder(tmp_path / "run"))
    assert [len(images) for images in trainer.images] == [128, 64]
    assert len(list(cache.glob("*.npy"))) == 2 and files(tree) == before
    Trainer(load_config(overrides=tiny(tree)), RunFolder(tmp_path / "run"))
    assert {path.parent for path in files(tree) if path.suffix == ".npy"} == {tree / ".salcr-cache"}


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_that_turn_nan_within_an_epoch(tree, tmp_path, monkeypatch, stage):
    """All that follows in the epoch has to bear NaN until the watch looks, and no later error may hide the loss's."""
    module = {1: stage_one, 2: stage_two}[stage]
    steps, optimise = [], module.optimise

    def poisoned(optimiser, loss):
        steps.append(loss)
        optimise(optimiser, loss)
        if len(steps) == 2:
            with torch.no_grad():
                optimiser.param_groups[0]["params"][0].fill_(math.nan)

    monkeypatch.setattr(module, "optimise", poisoned)
    config = load_config(overrides=tiny(tree, *SHORT, "schedule.iterations=4"))
    with pytest.raises(NonFiniteLoss, match=rf"epoch {stage - 1}, step 2: .*nan") as caught:
        train(config, tmp_path)
    named = set(re.findall(r"cam\d/\d{4}/\d{4}\.png", str(caught.value)))
    assert named and all((tree / path).is_file() for path in named)
    assert {path[3] in "36" for path in named} == {True, False}
    saved = checkpoint.load_newest(tmp_path / "checkpoints")
    assert (saved is None) == (stage == 1)
    assert saved is None or saved["epoch"] == 0


def test_weights_that_turn_nan_in_the_last_step_are_not_kept(tree, tmp_path, monkeypatch):
    def poisoned(optimiser, loss):
        with torch.no_grad():
            optimiser.param_groups[0]["params"][0][0] = math.inf

    monkeypatch.setattr(stage_one, "optimise", poisoned)
    config = load_config(overrides=tiny(tree, *SHORT, "schedule.iterations=1"))
    with pytest.raises(NonFiniteLoss, match=r"epoch 0: its last step left NaN or Inf in \d+ tensors, first backbone"):
        train(config, tmp_path)
    assert not any((tmp_path / "checkpoints").iterdir())


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_stages_on_a_gpu(tree, tmp_path, precision):
    torch.use_deterministic_algorithms(False)  # not asked of a GPU's training
    config = load_config(overrides=tiny(tree, "device=cuda", f"schedule.precision={precision}"))
    train(config, tmp_path)
    for record in metrics(tmp_path):
        assert all(math.isfinite(loss) for loss in record["loss"].values())
    assert all(x.device.type == "cpu" for x in last_state(tmp_path)["network"].values())
    summary = train(config, tmp_path, resume=True)
    assert evaluate_checkpoint(tmp_path / "checkpoints/epoch_0003.pt", ["device=cpu"]).keys() == summary["final"].keys()
