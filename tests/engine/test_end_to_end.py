"""The command line in processes of its own: train, be killed and resumed, evaluate, extract."""

import json
import re
import signal

import numpy as np
import pytest

from salcr.engine import load_config
from salcr.engine.images import open_dataset
from tests.engine.tree import tiny
from tests.kills import killed_runs, run_cli

pytestmark = pytest.mark.long  # all of them, beside each other: they share a run


@pytest.fixture(scope="module")
def train(tree, tmp_path_factory):
    """Arguments of a training with a file and overrides, but for its folder."""
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text("schedule: {stage_one_epochs: 2}\nevaluation: {refinements: [cmfp, aim]}\n")
    return "train", "--config", file, *tiny(tree)


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The folder of an uninterrupted run, and what it printed and logged."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    log = folder.with_suffix(".log")
    assert run_cli([*map(str, train), "--out", str(folder)], log) == 0, log.read_text()
    return folder, log.read_text()


def test_killed_runs_end_as_an_uninterrupted_one(train, whole, tmp_path, seed):
    kills = list(killed_runs([*map(str, train)], whole[0], tmp_path, kills=3, seed=seed))
    assert [kill.number for kill in kills] == [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    assert [kill.difference for kill in kills] == ["", "", ""], kills


def test_training_prints_a_table_and_plain_lines(whole):
    folder, said = whole
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() == {"stage_one", "final"}
    rows = [line.split() for line in said.splitlines()]
    for protocol, figures in summary["final"].items():
        assert figures.keys() == {"rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mINP", "cmfp", "aim"}
        row = next(row for row in rows if row[:2] == [protocol, "SALCR"])
        assert row[2:5] == [f"{figures[key]:.2f}" for key in ("rank-1", "mAP", "mINP")]
    *_, shares, last = said.splitlines()
    assert last == f"run folder: {folder}"
    assert re.fullmatch(r"cross-label accuracy \(ot\): visible to infrared [\d.]+, infrared to visible [\d.]+", shares)
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("epoch")] == [
        "epoch 0 (stage 1)",
        "epoch 1 (stage 1)",
        "epoch 2 (stage 2)",
        "epoch 3 (stage 2)",
    ]
    assert "\r" not in said and "it/s" not in said  # no progress bar without a terminal


def test_a_checkpoint_gives_the_final_figures_and_features(whole, tree, tmp_path):
    last = whole[0] / "checkpoints/epoch_0003.pt"
    for command, out in (("evaluate", "figures.json"), ("extract", "features.npz")):
        log = tmp_path / f"{command}.log"
        arguments = [command, "--checkpoint", str(last), "--out", str(tmp_path / out)]
        assert run_cli(arguments, log) == 0, log.read_text()
    final = json.loads((whole[0] / "summary.json").read_text())["final"]
    assert json.loads((tmp_path / "figures.json").read_text()) == final

    test = open_dataset(load_config(overrides=tiny(tree))).test
    with np.load(tmp_path / "features.npz") as written:
        assert written["features"].shape[0] == len(test) and written["features"].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(written["features"], axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(written["ids"], test.ids)
        np.testing.assert_array_equal(written["cams"], test.cams)
        np.testing.assert_array_equal(written["infrared"], test.infrared)
        assert tuple(written["paths"]) == test.paths
