import csv
import json
import os
import re
import shutil
import sys

import pytest
import torch

from salcr.retrieval import cells
from tests import faiss_stand_in
from tests.cli.conftest import assert_one_line
from tests.retrieval.conftest import checkpoint, indexed, other_checkpoint, pictures  # noqa: F401
from tests.retrieval.pictures import PEOPLE


def test_from_pictures_to_a_ranking(salcr, pictures, checkpoint, tmp_path):  # noqa: F811
    out = tmp_path / "new/index"
    (pictures / "bad.png").write_bytes(b"no picture")
    code, said, _ = salcr("index", pictures, "--checkpoint", checkpoint, "--out", out)
    assert code == 0 and said.splitlines() == [
        f"images added: {PEOPLE} visible, {PEOPLE} infrared (told by their colours)",
        "files skipped, as they do not decode: 1",
        f"index: {out}, images: {2 * PEOPLE}",
    ]
    query = pictures / "night/p4/a.png"
    code, said, _ = salcr("search", out, query, "--top", 3)
    lines = said.splitlines()
    assert code == 0 and lines[0] == f"{query}: infrared (told by its colours)" and len(lines) == 4
    assert lines[1] == f"   1   1.000  infrared  {query}"
    code, said, _ = salcr("search", out, query, "--top", 3, "--json", "--modality", "infrared")
    (ranking,) = json.loads(said)
    assert ranking["query"] == str(query) and ranking["infrared"] is True and len(ranking["hits"]) == 3
    assert set(ranking["hits"][0]) == {"path", "score", "infrared", "row"} and ranking["hits"][0]["path"] == str(query)


def test_going_on_and_adding(salcr, pictures, checkpoint, tmp_path):  # noqa: F811
    arguments = "--checkpoint", checkpoint, "--out", tmp_path / "index"
    assert salcr("index", pictures / "day", *arguments, "--modality", "visible")[0] == 0
    assert_one_line(salcr("index", pictures, *arguments, "--modality", "visible"), "finished index", "--append")
    code, said, _ = salcr("index", pictures, *arguments, "--modality", "visible", "--append")
    assert code == 0 and f"images added: {PEOPLE} visible, 0 infrared (as said)" in said


def test_a_page(salcr, indexed, tmp_path):  # noqa: F811
    page = tmp_path / "new/page.html"
    query = indexed / "pictures/day/p0"
    code, said, _ = salcr("search", indexed / "index", query, "--html", page, "--refine", "k_reciprocal")
    assert code == 0 and said == f"page: {page}\n"
    assert page.read_text().count("<img") == 2 * PEOPLE + 1
    counts = "queries: 1, images: 12, refinement: k_reciprocal, modality of the queries told by their colours"
    assert counts in page.read_text()
    code, said, _ = salcr("search", indexed / "index", query, "--html", page, "--json")
    assert code == 0 and json.loads(said)


def test_approximate_search_says_its_recall(salcr, indexed, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "faiss", faiss_stand_in.make())
    shutil.copytree(indexed / "index", tmp_path / "index")
    arguments = "search", tmp_path / "index", "--approximate", "--top", 2
    code, said, err = salcr(*arguments, indexed / "pictures")
    assert code == 0 and len(said.split("\n\n")) == 2 * PEOPLE
    assert re.fullmatch(r"recall against the exact search: \d+\.\d%, of images of the index\n", err)
    assert (tmp_path / "index/cells.faiss").exists()
    monkeypatch.setattr(cells, "CHECKED", 3)
    code, said, err = salcr(*arguments, indexed / "pictures")
    assert re.fullmatch(r"recall against the exact search: \d+\.\d%, of the first 3 queries\n", err)


def test_without_faiss_it_says_how_to_get_it(salcr, indexed, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "faiss", None)
    query = indexed / "pictures/day/p0/a.png"
    assert_one_line(salcr("search", indexed / "index", query, "--approximate"), "pip install 'salcr[faiss]'")


def test_what_cannot_be_searched(salcr, indexed, other_checkpoint, tmp_path):  # noqa: F811
    query = indexed / "pictures/day/p0/a.png"
    assert_one_line(salcr("search", tmp_path, query), "no index in", tmp_path)
    other = "--checkpoint", other_checkpoint
    assert_one_line(salcr("search", indexed / "index", query, *other), "index of another network")
    assert_one_line(salcr("search", indexed / "index", tmp_path / "absent.png"), "absent.png")
    assert_one_line(salcr("search", indexed / "index", query, "--refine", "aim"), "refine must be one of none, cmfp")
    assert_one_line(salcr("search", indexed / "index", query, "--html", tmp_path), tmp_path)
    shutil.copytree(indexed / "index", tmp_path / "index")
    os.truncate(tmp_path / "index/features.npy", 200)
    assert_one_line(salcr("search", tmp_path / "index", query), "features.npy is damaged: it has 200 bytes")
    assert salcr("search", indexed / "index", query, "--top", 0)[0] == 2


def test_an_unfinished_index_is_searched_and_said_to_be_one(salcr, indexed, tmp_path):  # noqa: F811
    shutil.copytree(indexed / "index", tmp_path / "index")
    manifest = tmp_path / "index/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"complete": False}))
    code, said, err = salcr("search", tmp_path / "index", indexed / "pictures/day/p0/a.png")
    assert code == 0 and said and "is not finished, images so far: 12" in err


@pytest.mark.parametrize("name", [b"\x1b[2Jcaf\xe9.png"])
def test_names_never_steer_the_terminal(salcr, pictures, indexed, name):  # noqa: F811
    odd = pictures / os.fsdecode(name)
    shutil.copy(pictures / "day/p0/a.png", odd)
    code, said, _ = salcr("search", indexed / "index", odd, "--top", 1)
    assert code == 0 and "\x1b" not in said and r"\x1b[2Jcaf\udce9.png: visible" in said


def test_pseudo_identities(salcr, indexed, tmp_path):  # noqa: F811
    out = tmp_path / "new/clusters"
    arguments = "cluster", indexed / "index", "--out", out
    code, said, _ = salcr(*arguments, "--min-samples", 2, "--k1", 3, "--k2", 1)
    labels = [int(row["label"]) for row in csv.DictReader((out / "clusters.csv").read_text().splitlines())]
    inside = [label for label in labels if label >= 0]
    counts = f"clusters: {len(set(inside))}, images in them: {len(inside)}"
    counts += f", in the largest: {max(map(inside.count, inside))}, in none: {len(labels) - len(inside)}\n"
    assert code == 0 and said.startswith(counts)
    assert {path.name for path in out.iterdir()} == {"clusters.csv", "clusters.html"}
    assert (out / "clusters.csv").read_text().count("\n") == 2 * PEOPLE + 1
    code, said, _ = salcr(*arguments, "--min-samples", 13)
    assert code == 0 and said.startswith(f"clusters: 0, images in them: 0, in none: {2 * PEOPLE}\n")
    assert_one_line(salcr(*arguments, "--eps", 0), "eps must be positive")
    (tmp_path / "file").write_text("")
    assert_one_line(salcr("cluster", "absent", "--out", tmp_path / "file"), tmp_path / "file")


def test_a_network_is_handed_on(salcr, checkpoint, tmp_path):  # noqa: F811
    arguments = "export", "--checkpoint", checkpoint, "--out", tmp_path / "net"
    code, said, _ = salcr(*arguments, "--format", "torch", "--modality", "visible", "--dtype", "float16")
    lines = said.splitlines()
    assert code == 0 and lines[1] == f"torch: {tmp_path / 'net'}"
    assert re.fullmatch(
        r"run by torch \S+ on 10 pictures: features differ from the network's by at most \d\.\de-\d\d, "
        r"smallest cosine \d\.\d{7}",
        lines[0],
    )
    assert salcr(*arguments, "--format", "authors")[:2] == (0, f"authors: {tmp_path / 'net'}\n")
    state = torch.load(tmp_path / "net", weights_only=True)
    assert set(state) == {"state_dict", "epoch", "best_mAP"} and "bottleneck.weight" in state["state_dict"]
    assert_one_line(salcr(*arguments, "--format", "tflite"), "format must be one of onnx, torch, authors, got 'tflite'")
