"""A run that stops anywhere and goes on ends as one that never stopped."""

import errno
import json
import os
import shutil

import pytest
import torch

from salcr.engine import checkpoint, load_config, stage_one, stage_two, train
from salcr.engine import trainer as engine
from salcr.engine.config import dump_config
from salcr.engine.run_folder import RunFolder
from salcr.engine.steps import NonFiniteLoss
from salcr.objectives import GlobalObjective
from tests.engine.tree import tiny

SHORT = "schedule.iterations=2", "evaluation.refinements=[]"


class Crash(BaseException):
    """Nothing in the package may handle it."""


@pytest.fixture(scope="module")
def config(tree):
    return load_config(overrides=tiny(tree, *SHORT))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(config, folder)
    return folder


def assert_same_end(folder, whole):
    for name in ("summary.json", "config.yaml"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    got, expected = (RunFolder(path).read_metrics() for path in (folder, whole))
    for record in (*got, *expected):
        record.pop("seconds", None)
    assert got == expected
    assert sorted(os.listdir(folder)) == ["checkpoints", "config.yaml", "metrics.jsonl", "summary.json"]
    assert sorted(os.listdir(folder / "checkpoints")) == ["epoch_0002.pt", "epoch_0003.pt"]
    one, other = (checkpoint.load_newest(path / "checkpoints") for path in (folder, whole))
    for name, x in other["network"].items():
        assert torch.equal(one["network"][name], x), name


def newest_epoch(folder):
    state = checkpoint.load_newest(folder / "checkpoints")
    return None if state is None else state["epoch"]


@pytest.fixture
def crash_at_call(monkeypatch):
    """Replaces an attribute so that its n-th call (from 1) raises ``error``, before or after it has done its work."""

    def install(owner, attribute, n, error=Crash, after=False):
        real, calls = getattr(owner, attribute), []

        def call(*arguments, **options):
            calls.append(1)
            if len(calls) == n and not after:
                raise error
            result = real(*arguments, **options)
            if len(calls) == n:
                raise error
            return result

        monkeypatch.setattr(owner, attribute, call)

    return install


# The place, the call of it that stops the run, whether it has done its work, and the newest checkpoint that is left.
STOPS = {
    "before the first step": (stage_one, "optimise", 1, False, None),
    "between steps": (stage_one, "optimise", 3, True, 0),
    "after the log, before the checkpoint": (checkpoint, "save_epoch", 2, False, 0),
    "after stage one is evaluated": (engine, "evaluate", 1, True, 1),
    "in the last epoch": (stage_two, "optimise", 3, True, 2),
    "before the summary": (RunFolder, "write_summary", 1, False, 3),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_run_goes_on_from_anywhere(config, whole, tmp_path, crash_at_call, monkeypatch, stop):
    owner, attribute, n, after, newest = STOPS[stop]
    crash_at_call(owner, attribute, n, after=after)
    with pytest.raises(Crash):
        train(config, tmp_path)
    monkeypatch.undo()
    assert newest_epoch(tmp_path) == newest
    assert not (tmp_path / "summary.json").exists()
    torch.rand(5)  # another process has drawn other numbers
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


def test_a_run_that_stops_after_every_epoch(config, whole, tmp_path, monkeypatch, crash_at_call):
    for resume in (False, True, True, True):
        crash_at_call(checkpoint, "save_epoch", 1, after=True)
        with pytest.raises(Crash):
            train(config, tmp_path, resume=resume)
        monkeypatch.undo()
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


def test_a_finished_run_can_be_resumed(config, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    summary = train(config, folder, resume=True)
    assert summary == json.loads((whole / "summary.json").read_text())
    assert_same_end(folder, whole)


def test_resume_begins_where_there_is_nothing(config, whole, tmp_path):
    train(config, tmp_path / "new", resume=True)
    assert_same_end(tmp_path / "new", whole)


def test_a_truncated_checkpoint_is_noticed_and_the_one_before_it_used(config, whole, tmp_path, monkeypatch):
    saved = checkpoint.save_epoch

    def stop_after_two(folder, epoch, payload):
        path = saved(folder, epoch, payload)
        if epoch == 2:
            content = path.read_bytes()
            path.write_bytes(content[:-100])
            raise Crash
        return path

    monkeypatch.setattr(checkpoint, "save_epoch", stop_after_two)
    with pytest.raises(Crash):
        train(config, tmp_path)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"epoch_0002\.pt is not a readable checkpoint.*the one before it"):
        train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


def test_with_no_readable_checkpoint_a_run_begins_again_and_can_be_stopped_again(
    config, whole, tmp_path, crash_at_call, monkeypatch
):
    folder = shutil.copytree(whole, tmp_path / "run")
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    crash_at_call(checkpoint, "save_epoch", 2, after=True)
    with pytest.warns(UserWarning, match="not a readable checkpoint"), pytest.raises(Crash):
        train(config, folder, resume=True)
    monkeypatch.undo()
    assert newest_epoch(folder) == 1  # the damaged ones of later epochs are gone
    train(config, folder, resume=True)
    assert_same_end(folder, whole)


def test_a_line_of_metrics_that_was_cut_off(config, whole, tmp_path, crash_at_call, monkeypatch):
    crash_at_call(stage_two, "optimise", 1)
    with pytest.raises(Crash):
        train(config, tmp_path)
    monkeypatch.undo()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "stage": 2, "lo')
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


def test_an_existing_run_is_not_overwritten(config, whole):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="already holds a run: resume it or choose another folder"):
        train(config, whole)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("change", ["seed=1", "schedule.stage_two_epochs=3", "gpcr.weight=0.4", "data.root=elsewhere"])
def test_another_configuration_cannot_resume(tree, whole, change):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    other = load_config(overrides=tiny(tree, *SHORT, change))
    with pytest.raises(ValueError, match=r"the configuration differs from .*config\.yaml"):
        train(other, whole, resume=True)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_configuration_that_was_damaged_is_named(config, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: [")
    with pytest.raises(ValueError, match=r"config\.yaml is not YAML"):
        train(config, tmp_path, resume=True)
    (tmp_path / "config.yaml").write_text(dump_config(config).replace("seed", "sead"))
    with pytest.raises(ValueError, match="unknown key 'sead'"):
        train(config, tmp_path, resume=True)


@pytest.mark.parametrize(("epoch", "value"), [(2, float("nan")), (3, float("inf"))])
def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(config, whole, tree, tmp_path, monkeypatch, epoch, value):
    real, steps = GlobalObjective.loss, []

    def bad(self, f, labels):
        steps.append(1)
        loss = real(self, f, labels)
        return loss * value if len(steps) == 2 * (epoch - 2) + 1 else loss

    monkeypatch.setattr(GlobalObjective, "loss", bad)
    with pytest.raises(NonFiniteLoss, match=rf"epoch {epoch}, step 0: .*global (nan|inf).*cam\d/\d+/\d+\.png"):
        train(config, tmp_path)
    monkeypatch.undo()
    assert [record["epoch"] for record in RunFolder(tmp_path).read_metrics()] == list(range(epoch))
    state = checkpoint.load_newest(tmp_path / "checkpoints")
    assert state["epoch"] == epoch - 1
    assert all(torch.isfinite(x).all() for x in state["network"].values())
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


@pytest.mark.parametrize("flush", [3, 6, 10])
def test_a_disk_that_is_full_at_any_write(config, whole, tmp_path, monkeypatch, flush):
    """The n-th flush to disk fails: a checkpoint's, that of a line, the summary's."""
    real, flushes = os.fsync, []

    def full(file):
        flushes.append(file)
        if len(flushes) >= flush:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        train(config, tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob(".*.part"))
    assert newest_epoch(tmp_path) == (flush // 2 - 2 if flush > 3 else None)
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)
