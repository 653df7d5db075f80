"""Every option of a command reaches the function that does its work, under its own name."""

from pathlib import Path

import numpy as np
import pytest

from salcr import engine, retrieval
from salcr.data import check, synthetic
from salcr.engine import demo, evaluation, pretrain
from salcr.retrieval import Index, export
from salcr.retrieval.build import Summary
from tests.retrieval.conftest import checkpoint, indexed  # noqa: F401

SIZED = ["--layout", "authors", "--height", "64", "--width", "32"]
ALSO_SIZED = dict(layout="authors", height=64, width=32)


@pytest.fixture
def asked(monkeypatch):
    """Has a function note its arguments, in the list that it returns, and return something else than its own."""
    calls = []

    def instead_of(owner, name, result=None):
        monkeypatch.setattr(owner, name, lambda *given, **options: calls.append((given, options)) or result)
        return calls

    return instead_of


@pytest.mark.parametrize("command", ["evaluate", "extract"])
def test_of_commands_on_a_checkpoint(salcr, asked, tmp_path, command):
    calls = asked(evaluation, f"{command}_checkpoint", {})
    options = "--layout", "authors", "--preset", "demo", "--out", tmp_path / "out"
    assert salcr(command, "--checkpoint", "net.pt", *options, "device=cpu")[0] == 0
    places = (Path("net.pt"), *([tmp_path / "out"] if command == "extract" else []))
    assert calls == [((*places, ["device=cpu"]), dict(layout="authors", preset="demo"))]


def test_of_index(salcr, asked):
    calls = asked(retrieval, "build_index", Summary(added=3, known=4, bad=0, infrared=1))
    options = ["--modality", "visible", "--dtype", "float32", "--append", "--batch", "5", "--device", "cpu", *SIZED]
    _, said, _ = salcr("index", "a", "b", "--checkpoint", "net.pt", "--out", "people", *options)
    assert said == "images added: 2 visible, 1 infrared (as said)\nindex: people, images: 7\n"
    ((given, found),) = calls
    assert found.pop("progress") and given == ([Path("a"), Path("b")], Path("net.pt"), Path("people"))
    assert found == dict(modality="visible", dtype="float32", append=True, batch=5, device="cpu") | ALSO_SIZED


def test_of_search(salcr, asked, indexed):  # noqa: F811
    opened = Index.open(indexed / "index")
    calls = asked(Index, "open", opened)
    asked(Index, "search", [])
    place = "--checkpoint", "moved.pt", "--layout", "authors", "--device", "cpu"
    how = "--top", "3", "--modality", "visible", "--refine", "cmfp", "--approximate"
    assert salcr("search", "people", "query.png", *place, *how)[0] == 0
    assert calls == [
        ((Path("people"),), dict(checkpoint=Path("moved.pt"), layout="authors", device="cpu")),
        ((opened, [Path("query.png")]), dict(top=3, modality="visible", refine="cmfp", approximate=True)),
    ]


def test_of_cluster(salcr, asked, indexed, tmp_path):  # noqa: F811
    calls = asked(Index, "cluster", np.array([0, 0, 1, -1]))
    asked(Index, "write_clusters")
    options = ["--eps", "0.3", "--min-samples", "2", "--k1", "9", "--k2", "4", "--across", "--device", "cpu"]
    _, said, _ = salcr("cluster", indexed / "index", "--out", tmp_path / "out", *options)
    assert said.startswith("clusters: 2, images in them: 3, in the largest: 2, in none: 1\n")
    assert calls[0][1] == dict(eps=0.3, min_samples=2, k1=9, k2=4, across=True)


def test_of_export(salcr, asked):
    calls = asked(export, "export_network")
    options = ["--modality", "visible", "--dtype", "float16", "--input", "float32", "--mirror", *SIZED]
    assert salcr("export", "--checkpoint", "net.pt", "--out", "net", "--format", "torch", *options)[0] == 0
    expected = dict(format="torch", modality="visible", dtype="float16", input="float32", mirror=True) | ALSO_SIZED
    assert calls == [((Path("net.pt"), Path("net")), expected)]


def test_of_synth_pretrain_and_demo(salcr, asked, monkeypatch):
    calls = asked(synthetic, "write_dataset")
    options = "--layout", "regdb", "--ids", "5", "--images-per-camera", "2", "--seed", "7"
    assert salcr("synth", "--out", "people", *options)[0] == 0
    ((given, found),) = calls
    assert found.pop("progress") and given == ("regdb", Path("people"))
    assert found == dict(ids=5, images_per_camera=2, seed=7)
    asked(pretrain, "pretrain", 0.5)
    assert salcr("pretrain", "--out", "small.pt", "--seed", "7")[0] == 0
    asked(demo, "demo", {"final": {}})
    monkeypatch.setattr("salcr.cli.write_page", lambda *_: None)
    assert salcr("demo", "--out", "run", "--seed", "7", "--resume", "device=cpu")[0] == 0
    assert calls[1:] == [
        ((Path("small.pt"),), dict(seed=7)),
        ((Path("run"),), dict(seed=7, overrides=("device=cpu",), resume=True)),
    ]


def test_of_check_data(salcr, asked):
    calls = asked(check, "check_dataset", [])
    assert salcr("check-data", "--dataset", "sysu", "--root", "data", "--no-published-counts")[0] == 0
    ((given, found),) = calls
    assert given == ("sysu", Path("data")) and found["published_counts"] is False


def test_of_train(salcr, asked):
    calls = asked(engine, "train", {"final": {}})
    assert salcr("train", "--out", "run", "--preset", "demo", "--restart", "--profile", "data.root=x")[0] == 0
    ((given, options),) = calls
    assert given[1] == Path("run") and options == dict(resume=False, restart=True, profile=True)
