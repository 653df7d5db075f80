import os
import re
import shutil

import pytest
import torch

from salcr.engine import checkpoint, demo, inspection, load_config
from salcr.engine.config import dump_config
from salcr.models import SALCRNetwork
from salcr.ops._dispatch import PREFERRED, check_impl
from salcr.retrieval import report_pictures
from tests.cli.conftest import assert_one_line
from tests.engine.tree import tiny
from tests.retrieval.run_folders import figures, write_run
from tests.retrieval.test_page import Elements

NUMBERS = torch.arange(3)


@pytest.fixture(scope="module")
def whole(tree, tmp_path_factory):
    """A run with two checkpoints of an untrained network and labels of which one cluster is impure."""
    torch.manual_seed(1)
    config, folder = load_config(overrides=tiny(tree)), tmp_path_factory.mktemp("whole") / "run"
    write_run(folder, settings=dump_config(config))
    visible, infrared = torch.arange(128) // 16, torch.arange(64) // 8
    visible[16] = 0
    state = {"config": config.model_dump(mode="json"), "network": SALCRNetwork("tiny").state_dict()}
    state["config"]["data"]["root"] = "/elsewhere"
    for epoch in (2, 3):
        content = state | {"epoch": epoch, "labels": (visible, infrared)}
        checkpoint.save_atomically(content, folder / f"checkpoints/epoch_{epoch:04d}.pt")
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


def written(salcr, *arguments):
    """The page's elements."""
    code, said, err = salcr("report", *arguments)
    assert code == 0, err
    (path,) = re.fullmatch(r"report: (.*)\n", said).groups()
    with open(path) as file:
        return Elements(file.read())


def test_the_page_of_a_run_has_everything(salcr, run):
    page = written(salcr, run)
    assert (run / "report.html").exists()
    for heading in ("Retrieval by protocol", "Over the epochs", "Ranked lists", "Worst queries", "Settings"):
        assert heading in page.text
    assert "Not shown" not in page.text
    assert "epoch_0003.pt, protocol all-single, first trial" in page.text
    assert "8 clusters, 1 impure; 0 images in none" in page.text and "8 clusters, 0 impure" in page.text
    assert "cluster 0: 17 images of 2 people, 1 not of the most frequent one" in page.text
    pictures = [a for tag, a in page.found if tag == "img"]
    assert len(pictures) > 100 and all(a["src"].startswith("data:image/jpeg") for a in pictures)


def test_several_runs_and_no_images(salcr, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = write_run(tmp_path / "other")
    page = written(salcr, whole, other, "--no-images")
    assert (tmp_path / "report.html").exists() and not (whole / "report.html").exists()
    assert "run, other: no pictures: left out by --no-images" in page.text
    assert not [tag for tag, _ in page.found if tag == "img"]


def test_a_run_that_died_shows_what_there_is_and_says_why_not_more(salcr, run):
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "los')
    page = written(salcr, run)
    assert "metrics.jsonl: 1 line left out" in page.text and "stopped before its end" in page.text
    assert f"no pictures: no checkpoint in {run}/checkpoints" in page.text
    assert "Over the epochs" in page.text and "epoch 3" in page.text
    assert not (run / "checkpoints").exists()


def test_a_damaged_checkpoint_is_passed_over(salcr, run):
    os.truncate(run / "checkpoints/epoch_0003.pt", 1000)
    page = written(salcr, run)
    assert "passed over: " in page.text and "epoch_0003.pt is not a readable checkpoint" in page.text
    assert "epoch_0002.pt, protocol all-single" in page.text
    os.truncate(run / "checkpoints/epoch_0002.pt", 0)
    page = written(salcr, run)
    assert "no pictures: no checkpoint can be read: " in page.text and "Settings" in page.text


def test_a_checkpoint_that_training_has_removed_since_is_passed_over(salcr, run, monkeypatch):
    files = checkpoint.files
    monkeypatch.setattr(checkpoint, "files", lambda folder: [folder / "epoch_0009.pt", *files(folder)])
    page = written(salcr, run)
    assert "passed over: " in page.text and "epoch_0003.pt, protocol all-single" in page.text


def test_many_runs_have_no_pictures(salcr, run, monkeypatch):
    monkeypatch.setattr(report_pictures, "PICTURES", 30)
    assert "no pictures: 1 runs are too many for them" in written(salcr, run).text


def test_without_the_data_set_there_are_no_pictures(salcr, run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub("root: .*", "root: /nowhere/at/all", text))
    page = written(salcr, run)
    assert "no pictures: no data set folder /nowhere/at/all" in page.text
    assert not [tag for tag, _ in page.found if tag == "img"]


def test_its_network_runs_on_the_backend_of_the_run(salcr, run, monkeypatch):
    newest = run / "checkpoints/epoch_0003.pt"
    state = torch.load(newest, weights_only=True)
    torch.save(state | {"config": state["config"] | {"backend": "reference"}}, newest)
    seen, features = [], inspection.retrieval_features
    monkeypatch.setattr(inspection, "retrieval_features", lambda *of: seen.append(check_impl("auto")) or features(*of))
    written(salcr, run)
    assert seen == [f"reference{PREFERRED}"]


@pytest.mark.parametrize(
    "labels",
    [(NUMBERS.float(), NUMBERS), (NUMBERS, None), (NUMBERS,), (NUMBERS,) * 3, (NUMBERS.to_sparse(), NUMBERS), "labels"],
)
def test_labels_that_are_none_leave_the_ranked_lists(salcr, run, labels):
    for path in checkpoint.files(run / "checkpoints"):
        state = torch.load(path, weights_only=True)
        torch.save(state | {"labels": labels}, path)
    page = written(salcr, run)
    assert "no clusters: epoch_0003.pt holds no pseudo labels" in page.text and "Worst queries" in page.text


@pytest.mark.parametrize(
    ("error", "said"),
    [(torch.OutOfMemoryError("no room\nfor it"), "no room for it"), (MemoryError(), "MemoryError")],
)
def test_a_device_that_a_training_fills_costs_the_pictures_alone(salcr, run, monkeypatch, error, said):
    def fails(folder):
        raise error

    monkeypatch.setattr(inspection, "inspect_newest", fails)
    page = written(salcr, run)
    assert f"no pictures: {said}" in page.text and "Over the epochs" in page.text and "Settings" in page.text


def test_without_test_images_clusters_are_left(salcr, run, monkeypatch):
    inspect = inspection.inspect_newest
    monkeypatch.setattr(inspection, "inspect_newest", lambda folder: inspect(folder)._replace(features=None))
    page = written(salcr, run)
    assert "no ranked lists: the data set has no query and gallery" in page.text
    assert "Worst queries" not in page.text and "8 clusters, 1 impure" in page.text


@pytest.mark.parametrize("settings", ["seed: [", "colour: red\n", "data: {name: mine}\n"])
def test_settings_that_cannot_be_read(salcr, run, settings):
    (run / "config.yaml").write_text(settings)
    page = written(salcr, run)
    assert "no settings and no pictures: " in page.text and "Over the epochs" in page.text


def test_what_cannot_be_reported(salcr, whole, tmp_path):
    assert_one_line(salcr("report", tmp_path / "absent"), "no run folder", tmp_path / "absent")
    assert_one_line(salcr("report", tmp_path), tmp_path, "is no run folder")
    assert_one_line(salcr("report", whole / "config.yaml"), whole / "config.yaml", "is a file")
    assert_one_line(salcr("report", whole, f"{whole}/."), whole, "is named twice")
    assert salcr("report")[0] == 2


def test_a_page_that_cannot_be_written_is_an_error_before_the_network_runs(salcr, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "inspect_newest", lambda folder: pytest.fail("the work has begun"))
    assert_one_line(salcr("report", whole, "--out", tmp_path), tmp_path)


def test_the_demo_ends_by_naming_its_report(salcr, tmp_path, monkeypatch):
    summary = {"stage_one": {"all-single": figures(20.0)}, "final": {"all-single": figures(40.0)}}
    monkeypatch.setattr(demo, "demo", lambda out, **_: write_run(out) and summary)
    code, said, _ = salcr("demo", "--out", tmp_path / "demo")
    assert code == 0 and said.splitlines()[-1] == f"report: {tmp_path}/demo/report.html"
    assert "Run demo" in (tmp_path / "demo/report.html").read_text()
