"""Checkpoints of the authors' code on the command line."""

import json
import logging

import numpy as np
import pytest
import torch

from salcr.models import ARCHITECTURES, SALCRNetwork
from tests.cli.conftest import assert_one_line
from tests.engine.tree import HEIGHT, WIDTH
from tests.models.files import write
from tests.models.published import behind_module, related_state, wrapped
from tests.retrieval.conftest import pictures  # noqa: F401
from tests.retrieval.pictures import PEOPLE

SIZE = "--height", HEIGHT, "--width", WIDTH


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A file of the family, without part modules."""
    torch.manual_seed(1)
    state = wrapped(behind_module(related_state(SALCRNetwork("tiny"))))
    return write(state, tmp_path_factory.mktemp("theirs") / "checkpoint.pth.tar")


def test_evaluate_and_extract(salcr, tree, theirs, tmp_path):
    settings = f"data.root={tree}", f"data.height={HEIGHT}", f"data.width={WIDTH}", "device=cpu"
    source = "--checkpoint", theirs, "--layout", "authors", "--preset", "sysu"
    assert salcr("extract", *source, "--out", tmp_path / "f.npz", *settings)[0] == 0
    with np.load(tmp_path / "f.npz") as written:
        assert np.isfinite(written["features"]).all()
    assert_one_line(salcr("evaluate", *source[:2], "--layout", "salcr"), theirs, "is not a training checkpoint")
    assert_one_line(salcr("evaluate", *source[:2], "--layout", "timm"), "layout must be one of auto, salcr, authors")
    assert_one_line(salcr("evaluate", *source[:2], "--preset", "market"), "preset must be one of demo, sysu")


def test_index_search_cluster_and_export(salcr, pictures, theirs, tmp_path):  # noqa: F811
    index = tmp_path / "index"
    code, said, _ = salcr("index", pictures, "--checkpoint", theirs, "--out", index, *SIZE, "--device", "cpu")
    assert code == 0 and f"images: {2 * PEOPLE}" in said
    manifest = json.loads((index / "manifest.json").read_text())
    assert (manifest["height"], manifest["width"]) == (HEIGHT, WIDTH)
    query = pictures / "night/p1/a.png"
    code, said, _ = salcr("search", index, query, "--top", 1, "--layout", "authors", "--device", "cpu")
    assert code == 0 and said.endswith(f"infrared  {query}\n")
    assert_one_line(salcr("search", index, query, "--layout", "salcr"), theirs, "is not a training checkpoint")
    assert salcr("cluster", index, "--out", tmp_path / "people", "--k1", 3, "--device", "cpu")[0] == 0
    options = "--checkpoint", theirs, "--out", tmp_path / "net.pt2", "--format", "torch", "--modality", "visible"
    assert salcr("export", *options, *SIZE)[0] == 0
    program = torch.export.load(tmp_path / "net.pt2").module()
    assert program(torch.zeros(3, HEIGHT, WIDTH, 3, dtype=torch.uint8)).shape == (3, ARCHITECTURES["tiny"].width)
    assert_one_line(salcr("export", *options, "--height", 0), "height must be a whole number from 1 to 4096, got 0")


def test_the_whole_list_is_in_the_log(salcr, theirs, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "salcr")
    caplog.handler.setLevel(logging.DEBUG)
    command = "evaluate", "--checkpoint", theirs
    assert_one_line(salcr(*command), "data.root is not set")
    brief = caplog.text
    assert "checkpoint.pth.tar has a tiny without part modules under the published names: " in brief
    assert "start fresh" in brief and "thermal_module.thermal.layer4.0.conv1.weight" not in brief
    monkeypatch.setenv("SALCR_LOG", "debug")
    assert_one_line(salcr(*command), "data.root is not set")
    assert "thermal_module.thermal.layer4.0.conv1.weight" in caplog.text
    monkeypatch.setenv("SALCR_LOG", "loud")
    assert_one_line(salcr(*command), "SALCR_LOG must be one of debug, info, warning, error, got 'loud'")
