"""The command line in processes of its own: train, kill, resume, evaluate, extract."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from salcr.engine import load_config
from salcr.engine.images import open_dataset
from tests.engine.tree import tiny

SALCR = [sys.executable, "-c", "from salcr.cli import main; main()"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
PATIENCE = 300


def start(*arguments):
    return subprocess.Popen(
        [*SALCR, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def finish(process):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out, err


def kill_once_there(process, path):
    """Kill -9 as soon as ``path`` exists."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert path.exists(), err
    return process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def train(tree, tmp_path_factory):
    """Arguments of a training with a file and overrides, but for its folder."""
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text("schedule: {stage_one_epochs: 2}\nevaluation: {refinements: [cmfp, aim]}\n")
    return "train", "--config", file, *tiny(tree)


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """An uninterrupted run, and one killed in either stage, beside it at first; and what the former printed."""
    folder = tmp_path_factory.mktemp("runs")
    whole, killed = folder / "whole", folder / "killed"
    uninterrupted = start(*train, "--out", whole)
    kills = []
    for n, epoch in enumerate((0, 2)):  # test_resume.py stops everywhere between, within one process
        process = start(*train, "--out", killed, *(["--resume"] if n else []))
        kills.append(kill_once_there(process, killed / f"checkpoints/epoch_{epoch:04d}.pt"))
        if n == 0:
            assert not (killed / "summary.json").exists()
    printed = finish(uninterrupted)
    _, err = finish(start(*train, "--out", killed, "--resume"))
    assert kills[0]
    assert f"resuming {killed} at epoch" in err
    return whole, killed, printed


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_run_ends_as_an_uninterrupted_one(runs):
    whole, killed, _ = runs
    assert (killed / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    assert (killed / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()
    assert [record["epoch"] for record in records(killed)] == [0, 1, 2, 3]
    for one, other in zip(records(whole), records(killed), strict=True):
        assert {key: one[key] for key in one if key != "seconds"} == {
            key: other[key] for key in other if key != "seconds"
        }
    for folder in (whole, killed):
        assert sorted(os.listdir(folder)) == ["checkpoints", "config.yaml", "metrics.jsonl", "summary.json"]
        assert sorted(os.listdir(folder / "checkpoints")) == ["epoch_0002.pt", "epoch_0003.pt"]


def test_training_prints_a_table_and_plain_lines(runs):
    whole, _, (out, err) = runs
    summary = json.loads((whole / "summary.json").read_text())
    assert summary.keys() == {"stage_one", "final"}
    rows = [line.split() for line in out.splitlines()]
    for protocol, figures in summary["final"].items():
        assert figures.keys() == {"rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mINP", "cmfp", "aim"}
        row = next(row for row in rows if row[:2] == [protocol, "SALCR"])
        assert row[2:5] == [f"{figures[key]:.2f}" for key in ("rank-1", "mAP", "mINP")]
    *_, shares, folder = out.splitlines()
    assert folder == f"run folder: {whole}"
    assert re.fullmatch(r"cross-label accuracy \(ot\): visible to infrared [\d.]+, infrared to visible [\d.]+", shares)
    assert [line.split(":")[0] for line in err.splitlines() if line.startswith("epoch")] == [
        "epoch 0 (stage 1)",
        "epoch 1 (stage 1)",
        "epoch 2 (stage 2)",
        "epoch 3 (stage 2)",
    ]
    assert "\r" not in err and "it/s" not in err  # no progress bar without a terminal


def test_a_checkpoint_gives_the_final_figures_and_features(runs, tree, tmp_path):
    _, killed, _ = runs
    last = killed / "checkpoints/epoch_0003.pt"
    evaluating = start("evaluate", "--checkpoint", last)
    finish(start("extract", "--checkpoint", last, "--out", tmp_path / "features.npz"))
    final = json.loads((killed / "summary.json").read_text())["final"]
    assert json.loads(finish(evaluating)[0]) == final

    test = open_dataset(load_config(overrides=tiny(tree))).test
    with np.load(tmp_path / "features.npz") as written:
        assert written["features"].shape[0] == len(test) and written["features"].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(written["features"], axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(written["ids"], test.ids)
        np.testing.assert_array_equal(written["cams"], test.cams)
        np.testing.assert_array_equal(written["infrared"], test.infrared)
        assert tuple(written["paths"]) == test.paths
