"""A run that is evaluated, keeps checkpoints and is shown on TensorBoard, beside one that only trains."""

import json
import logging
import re
import shutil

import pytest
import torch
import tqdm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from salcr.engine import best, checkpoint, load_config, session, stage_two, steps, tensorboard, train
from salcr.engine import trainer as engine
from salcr.engine.demo import summary_table
from salcr.engine.evaluation import evaluate_checkpoint
from salcr.engine.interruption import Interrupted
from salcr.engine.run_folder import RunFolder
from salcr.engine.sections import Checkpoints, Evaluation, Logging
from tests.engine.same_end import assert_same_end, interrupt
from tests.engine.tree import tiny

SMALL = "evaluation.refinements=[]", "schedule.iterations=2", "schedule.milestones=[1]"
WATCHED = (
    *("evaluation.every=1", "checkpoints.keep.last=1", "checkpoints.keep.every=3", "checkpoints.keep.best=mAP"),
    "logging.tensorboard=true",
)
PROTOCOL = "all-single"


@pytest.fixture(scope="module")
def plain(tree, tmp_path_factory):
    """The folder of a run that is only trained."""
    folder = tmp_path_factory.mktemp("plain")
    train(load_config(overrides=tiny(tree, *SMALL)), folder)
    return folder


@pytest.fixture(scope="module")
def config(tree):
    return load_config(overrides=tiny(tree, *SMALL, *WATCHED))


@pytest.fixture(scope="module")
def watched(config, tmp_path_factory):
    """The folder of one that is watched by all means, and its summary."""
    folder = tmp_path_factory.mktemp("watched")
    return folder, train(config, folder)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def board(folder):
    shown = EventAccumulator(str(folder / "tensorboard"))
    shown.Reload()
    return shown


def best_of(folder):
    values = {r["epoch"]: r["evaluation"][PROTOCOL]["mAP"] for r in RunFolder(folder).read_metrics()}
    return max(values, key=values.get)


def test_watching_changes_no_bit_of_the_training(plain, watched):
    one, other = (checkpoint.load_newest(folder / "checkpoints") for folder in (plain, watched[0]))
    for name, x in one["network"].items():
        assert torch.equal(x, other["network"][name]), name
    for name in ("generator", "torch_random"):
        assert torch.equal(one[name], other[name]), name
    assert str(one["optimiser"]) == str(other["optimiser"])
    before, after = (RunFolder(folder).read_metrics() for folder in (plain, watched[0]))
    assert [("evaluation" in one, "evaluation" in other) for one, other in zip(before, after, strict=True)] == [
        *((False, True), (True, True), (False, True), (True, True)),  # the last epochs of the two stages are always
    ]
    for one, other in zip(before, after, strict=True):
        for record in (one, other):
            for name in ("seconds", "evaluation", best.MARK):
                record.pop(name, None)
        assert one == other
    summary = json.loads((plain / "summary.json").read_text())
    assert summary == {name: figures for name, figures in watched[1].items() if name != best.MARK}


def test_the_checkpoints_that_stay(plain, watched):
    assert names(plain) == ["epoch_0001.pt", "epoch_0002.pt", "epoch_0003.pt"]  # the first is stage one's last
    chosen = f"best_mAP_on_test_data_epoch_{best_of(watched[0]):04d}.pt"
    assert names(watched[0]) == [chosen, "epoch_0001.pt", "epoch_0002.pt", "epoch_0003.pt"]


def test_the_best_is_marked_wherever_it_stands(watched, caplog):
    folder, summary = watched
    records = RunFolder(folder).read_metrics()
    mark = summary[best.MARK]
    assert summary == json.loads((folder / "summary.json").read_text())
    assert mark["epoch"] == best_of(folder) and mark["value"] == mark["figures"][PROTOCOL]["mAP"]
    so_far = [max(r["evaluation"][PROTOCOL]["mAP"] for r in records[: i + 1]) for i in range(len(records))]
    marked = [record for record in records if best.MARK in record]
    assert [record["epoch"] for record in marked] == [so_far.index(value) for value in sorted(set(so_far))]
    assert mark == marked[-1][best.MARK] | {"figures": marked[-1]["evaluation"]}
    assert "chosen on test data" in summary_table(summary).splitlines()[-1]
    (path,) = best.files(folder / "checkpoints")
    with caplog.at_level(logging.WARNING, logger="salcr"):
        figures = evaluate_checkpoint(path)
    assert figures == mark["figures"] | {best.MARK: {name: mark[name] for name in best.KINDS}}
    assert f"{path} was chosen on test data: of the evaluated epochs, epoch {mark['epoch']} has the best" in caplog.text
    assert best.MARK not in evaluate_checkpoint(folder / "checkpoints/epoch_0003.pt")


def test_a_best_epoch_that_was_over_before_it_was_asked_for_is_not_called_kept(plain, config, tmp_path, caplog):
    folder = shutil.copytree(plain, tmp_path / "run")
    with caplog.at_level(logging.WARNING, logger="salcr"):
        summary = train(config.model_copy(update={"logging": Logging()}), folder, resume=True)
    assert not best.files(folder / "checkpoints") and best.MARK not in summary
    assert "chosen" not in summary_table(summary)
    assert re.search(r"no checkpoint of the epoch with the best mAP, [13], was kept", caplog.text)


def test_the_board_shows_every_figure_once_an_epoch(watched):
    shown, records = board(watched[0]), RunFolder(watched[0]).read_metrics()
    for tag, numbers in {
        "lr": [record["lr"] for record in records],
        "loss/visible": [record["loss"]["visible"] for record in records[:2]],
        "loss/part_instance": [record["loss"]["part_instance"] for record in records[2:]],
        "infrared/clusters": [record["infrared"]["clusters"] for record in records],
        "visible/noise": [record["visible"]["noise"] for record in records],
        "visible/ari": [record["visible"]["ari"] for record in records],
        "cross_accuracy/visible_to_infrared": [r["cross_accuracy"]["visible_to_infrared"] for r in records[2:]],
        f"evaluation/{PROTOCOL}/mAP": [record["evaluation"][PROTOCOL]["mAP"] for record in records],
        "seconds/steps": [record["seconds"]["steps"] for record in records],
    }.items():
        assert [event.value for event in shown.Scalars(tag)] == pytest.approx(numbers, rel=1e-6), tag
        first = 4 - len(numbers) if tag != "loss/visible" else 0
        assert [event.step for event in shown.Scalars(tag)] == [*range(first, first + len(numbers))], tag
    for tag in ("views", "clusters/visible", "clusters/infrared"):  # of the first epochs of both stages
        assert [event.step for event in shown.Images(tag)] == [0, 2], tag


class DrawnAtEveryStep(tqdm.tqdm):
    """However quick a step is."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, mininterval=0, miniters=1, **options)


def test_the_bar_shows_the_loss_and_the_time_left_of_the_run(config, watched, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(session, "shows_bars", lambda: True)
    monkeypatch.setattr(steps, "CHECK_EVERY", 1)
    monkeypatch.setattr("tqdm.std.TMonitor", None)  # its thread would outlive the test
    monkeypatch.setattr("tqdm.tqdm", DrawnAtEveryStep)
    quiet = dict(logging=Logging(), checkpoints=Checkpoints(), evaluation=Evaluation(refinements=()))
    with caplog.at_level(logging.INFO, logger="salcr"):
        train(config.model_copy(update=quiet), tmp_path)
    lines = [line for line in caplog.messages if line.startswith("epoch")]
    left = [re.fullmatch(r"epoch \d .* s(?:; ((?:at least|about) [\d:]+ left))?", line)[1] for line in lines]
    assert [text and text.split()[0] for text in left] == ["at", "at", "about", None]
    drawn = capsys.readouterr().err
    assert "epoch 0:" in drawn and f"epoch 3, {left[2]} of the run:" in drawn
    shown = re.findall(r"epoch 1,[^\r]*2/2 [^\r]*loss=([\d.]+)", drawn)
    assert shown and all(float(loss) > 0 for loss in shown)


# The place where a signal comes, the call of it since the run went on, and the epochs that have a record then.
STOPS = [
    (engine, "evaluate", 1, 0),  # after the checkpoint of epoch 0
    (best, "save_atomically", 1, 1),  # the record is written, too
    (tensorboard.Board, "write", 1, 2),
    (stage_two, "optimise", 1, 2),
    (session, "extract_features", 1, 3),
    (engine, "evaluate", 1, 3),
]


def test_a_watched_run_that_is_interrupted_ends_as_one_that_is_not(config, watched, tmp_path, monkeypatch):
    # Event files of one process and second are read by name, which ends with a count: 10 comes before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(10))
    for owner, attribute, n, written in STOPS:
        with monkeypatch.context() as stopped, pytest.raises(Interrupted):
            interrupt(stopped, owner, attribute, n)
            train(config, tmp_path, resume=True)
        assert len(RunFolder(tmp_path).read_metrics()) == written, attribute
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, watched[0])
    assert best.mark_of(*best.files(tmp_path / "checkpoints")) == best.mark_of(*best.files(watched[0] / "checkpoints"))
    shown = board(tmp_path)
    for tag in ("lr", f"evaluation/{PROTOCOL}/mAP"):
        assert [event.step for event in shown.Scalars(tag)] == [0, 1, 2, 3]
