"""Training on images of unknown identity, and evaluating where there is a query and a gallery."""

import json
import logging
import shutil

import numpy as np
import pytest

from salcr.engine import load_config, train
from salcr.engine.demo import cross_label_line, summary_table
from salcr.engine.evaluation import evaluate_checkpoint, extract_checkpoint
from salcr.engine.run_folder import RunFolder
from tests.engine.tree import CAMERAS, INFRARED, TEST, TRAIN, VAL, tiny

SHORT = ("data.name=folder", "schedule.stage_one_epochs=1", "schedule.stage_two_epochs=1", "schedule.iterations=2")


def rearrange(tree, root, *, known):
    """The training images of ``tree``, in folders of their identities where ``known``, else all in one."""
    for identity in (*TRAIN, *VAL):
        for cam in CAMERAS:
            for source in (tree / f"cam{cam}/{identity:04d}").iterdir():
                place = identity if known else "all"
                target = (
                    root / ("infrared" if cam in INFRARED else "visible") / f"{place}/{identity}_c{cam}_{source.name}"
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    return root


def add_split(tree, root):
    """The test images of two cameras: infrared ones to look for, visible ones to find."""
    for identity in TEST:
        shutil.copytree(tree / f"cam3/{identity:04d}", root / f"query/infrared/{identity}")
        shutil.copytree(tree / f"cam1/{identity:04d}", root / f"gallery/visible/{identity}")
    return root


@pytest.fixture(scope="module")
def unknown(tree, tmp_path_factory):
    """Images without identities or a split, a run on them, its summary and what it logged."""
    folder = tmp_path_factory.mktemp("unknown")
    root = rearrange(tree, folder / "images", known=False)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("salcr")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        summary = train(load_config(overrides=tiny(root, *SHORT)), folder / "run")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return folder, summary, lines


def test_training_needs_no_identity_and_claims_nothing_about_any(unknown):
    folder, summary, lines = unknown
    assert summary == {"stage_one": {}, "final": {}}
    one, two = RunFolder(folder / "run").read_metrics()
    assert one["stage"] == 1 and one["loss"].keys() == {"visible", "augmented", "infrared"}
    assert two["stage"] == 2 and two["loss"].keys() == {"global", "parts", "global_instance", "part_instance"}
    for record in (one, two):
        assert record["visible"].keys() == record["infrared"].keys() == {"clusters", "noise"}
        assert record["visible"]["clusters"] >= 2 and record["infrared"]["clusters"] >= 2
        assert "cross_accuracy" not in record
    epochs = [line for line in lines if line.startswith("epoch")]
    assert len(epochs) == 2 and all(", noise" in line for line in epochs)
    assert not any("ARI" in line or "nan" in line for line in lines)
    assert cross_label_line(folder / "run") == ""
    assert summary_table(summary) == "not evaluated: the data set has no query and gallery"
    assert json.loads((folder / "run/summary.json").read_text()) == summary


def test_a_run_without_figures_goes_on_where_it_stopped(unknown, tmp_path):
    folder, summary, _ = unknown
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run/checkpoints/epoch_0001.pt").unlink()
    config = load_config(file=tmp_path / "run/config.yaml")
    assert train(config, tmp_path / "run", resume=True) == summary
    assert [record["epoch"] for record in RunFolder(tmp_path / "run").read_metrics()] == [0, 1]


def test_nothing_is_chosen_without_a_split(unknown, tmp_path):
    root = load_config(file=unknown[0] / "run/config.yaml").data.root
    best = "evaluation.every=1", "checkpoints.keep.best=mAP"
    with pytest.raises(
        ValueError, match=r"checkpoints\.keep\.best needs test images: .*images has no query and gallery"
    ):
        train(load_config(overrides=tiny(root, "data.name=folder", *best)), tmp_path / "run")
    assert not (tmp_path / "run/config.yaml").exists()


def test_the_trained_network_is_evaluated_on_a_split(unknown, tree, tmp_path):
    last = unknown[0] / "run/checkpoints/epoch_0001.pt"
    with pytest.raises(ValueError, match=r"nothing to evaluate: .*images has no query and gallery"):
        evaluate_checkpoint(last)
    with pytest.raises(ValueError, match=r"nothing to evaluate: .*images has no query and gallery"):
        extract_checkpoint(last, tmp_path / "features.npz")
    root = add_split(tree, tmp_path / "split")
    figures = evaluate_checkpoint(last, [f"data.root={root}"])
    assert figures.keys() == {"infrared-to-visible"}
    assert 0 < figures["infrared-to-visible"]["mAP"] <= 100 and "cmfp" in figures["infrared-to-visible"]
    extract_checkpoint(last, tmp_path / "features.npz", [f"data.root={root}"])
    with np.load(tmp_path / "features.npz") as written:
        assert sorted(set(written["ids"].tolist())) == list(TEST)
    with pytest.raises(ValueError, match=r"split has no images to train on"):
        train(load_config(overrides=tiny(root, *SHORT)), tmp_path / "run")


def test_known_identities_and_a_split_are_reported_and_change_nothing(unknown, tree, tmp_path):
    root = add_split(tree, rearrange(tree, tmp_path / "images", known=True))
    summary = train(load_config(overrides=tiny(root, *SHORT)), tmp_path / "run")
    assert summary["final"].keys() == {"infrared-to-visible"}
    assert "infrared-to-visible" in summary_table(summary)
    one, two = RunFolder(tmp_path / "run").read_metrics()
    assert [one["loss"], two["loss"]] == [record["loss"] for record in RunFolder(unknown[0] / "run").read_metrics()]
    assert two["visible"].keys() == {"clusters", "noise", "ari", "nmi"}
    assert two["cross_accuracy"].keys() == {"visible_to_infrared", "infrared_to_visible"}
    assert cross_label_line(tmp_path / "run").startswith("cross-label accuracy")
