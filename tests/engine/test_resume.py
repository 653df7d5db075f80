"""A run that stops anywhere and goes on ends as one that never stopped."""

import json
import os
import shutil
import signal

import pytest
import torch

from salcr.engine import checkpoint, load_config, session, stage_one, stage_two, train
from salcr.engine import trainer as engine
from salcr.engine.config import dump_config
from salcr.engine.interruption import Interrupted
from salcr.engine.run_folder import RunFolder, RunInUse
from salcr.engine.steps import NonFiniteLoss
from tests.engine.same_end import assert_same_end, interrupt
from tests.engine.tree import tiny

NO_REFINEMENTS = "evaluation.refinements=[]"


class Crash(BaseException):
    """Nothing in the package may handle it."""


@pytest.fixture(scope="module")
def config(tree):
    return load_config(overrides=tiny(tree, NO_REFINEMENTS, "checkpoints.keep.stage_one=false"))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(config, folder)
    return folder


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
    "after the steps, before the checkpoint": (checkpoint, "save_epoch", 2, False, 0),
    "after the checkpoint, before the record": (RunFolder, "log", 1, False, 0),
    "after stage one is evaluated": (engine, "evaluate", 1, True, 1),
    "after the last checkpoint, before an older one goes": (checkpoint, "prune", 4, False, 3),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_run_goes_on_from_anywhere(config, whole, tmp_path, crash_at_call, monkeypatch, stop):
    owner, attribute, n, after, newest = STOPS[stop]
    crash_at_call(owner, attribute, n, after=after)
    with pytest.raises(Crash):
        train(config, tmp_path, resume=True)  # there is nothing yet: it begins
    monkeypatch.undo()
    assert newest_epoch(tmp_path) == newest
    assert not (tmp_path / "summary.json").exists()
    torch.rand(5)  # another process has drawn other numbers
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


# Of a run that is stopped again and again: the place where a signal comes, the call of it, the checkpoint it leaves.
SIGNALS = [
    (stage_one, "optimise", 1, "epoch_0000_step_0001.pt"),
    (stage_one, "optimise", 1, "epoch_0000_step_0002.pt"),
    (stage_one, "optimise", 1, "epoch_0000.pt"),  # in the epoch's last step
    (session, "extract_features", 2, "epoch_0000.pt"),
    (engine, "evaluate", 1, "epoch_0001.pt"),
    (stage_two, "optimise", 2, "epoch_0002_step_0002.pt"),
    (engine, "snapshot", 1, "epoch_0002.pt"),  # of the checkpoint, which a thread then writes
    (engine, "evaluate", 1, "epoch_0002.pt"),
]


def test_a_run_that_is_interrupted_everywhere_and_made_longer(tree, config, whole, tmp_path, monkeypatch):
    short = load_config(overrides=tiny(tree, NO_REFINEMENTS, "schedule.stage_two_epochs=1"))
    for i, (owner, attribute, n, newest) in enumerate(SIGNALS):
        number = (signal.SIGTERM, signal.SIGINT)[i % 2]
        interrupt(monkeypatch, owner, attribute, n, number)
        with pytest.raises(Interrupted, match=f"ended by {number.name}: .*--resume.* goes on "):
            train(short, tmp_path, resume=True)
        monkeypatch.undo()
        assert checkpoint.files(tmp_path / "checkpoints")[0].name == newest
        torch.rand(5)  # another process has drawn other numbers
    assert not (tmp_path / "summary.json").exists()
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


def test_a_finished_run_can_be_resumed(config, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    summary = train(config, folder, resume=True)
    assert summary == json.loads((whole / "summary.json").read_text())
    assert_same_end(folder, whole)


def test_files_that_were_cut_off_are_noticed_and_the_checkpoint_before_is_used(config, whole, tmp_path, monkeypatch):
    saved = checkpoint.save_epoch

    def stop_after_two(folder, epoch, payload, **options):
        path = saved(folder, epoch, payload, **options)
        if epoch == 2:
            content = path.read_bytes()
            path.write_bytes(content[:-100])
            raise Crash
        return path

    monkeypatch.setattr(checkpoint, "save_epoch", stop_after_two)
    with pytest.raises(Crash):
        train(config, tmp_path)
    monkeypatch.undo()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "stage": 2, "lo')
    with pytest.warns(UserWarning, match=r"epoch_0002\.pt is not a readable checkpoint.*the one before it"):
        train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


def test_with_no_readable_checkpoint_a_run_is_begun_again_where_that_is_wanted(
    config, whole, tmp_path, crash_at_call, monkeypatch
):
    folder = shutil.copytree(whole, tmp_path / "run")
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    (folder / "checkpoints/epoch_best.pt").write_bytes(b"a copy of one's own")
    with (
        pytest.warns(UserWarning, match="not a readable checkpoint"),
        pytest.raises(ValueError, match=r"start again from nothing, which `salcr train --restart --out .*run'?` does"),
    ):
        train(config, folder, resume=True)
    crash_at_call(checkpoint, "save_epoch", 2, after=True)
    with pytest.raises(Crash):
        train(config, folder, restart=True)
    monkeypatch.undo()
    assert newest_epoch(folder) == 1 and not (folder / "summary.json").exists()
    train(config, folder, resume=True)
    (folder / "checkpoints/epoch_best.pt").unlink()
    assert_same_end(folder, whole)


def test_an_existing_run_is_not_overwritten(config, whole):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(
        FileExistsError, match="already holds a run: resume it or choose another folder; `salcr train --restart --out"
    ):
        train(config, whole)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_another_configuration_cannot_resume(tree, whole):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    other = load_config(overrides=tiny(tree, NO_REFINEMENTS, "seed=1"))
    with pytest.raises(ValueError, match=r"the configuration differs from .*config\.yaml: seed is 1, there 0: "):
        train(other, whole, resume=True)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_one_run_at_a_time(config, whole):
    with RunFolder(whole).locked(), pytest.raises(RunInUse, match=rf"another run trains in .*process {os.getpid()} on"):
        train(config, whole, resume=True)


def test_a_configuration_that_was_damaged_is_named(config, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "config.yaml").write_text("seed: [")
    with pytest.raises(ValueError, match=r"config\.yaml is not YAML"):
        train(config, folder, resume=True)
    (folder / "config.yaml").write_text(dump_config(config).replace("seed", "sead"))
    with pytest.raises(ValueError, match="unknown key 'sead'"):
        train(config, folder, resume=True)


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(config, whole, tmp_path, monkeypatch):
    real, steps = stage_two.StageTwoObjective.losses, []

    def bad(self, features, queries):
        steps.append(1)
        losses = real(self, features, queries)
        return losses | {"global": losses["global"] * float("inf")} if len(steps) == 4 else losses

    monkeypatch.setattr(stage_two.StageTwoObjective, "losses", bad)
    with pytest.raises(NonFiniteLoss, match=r"epoch 3, step 0: .*global inf.*cam\d/\d+/\d+\.png"):
        train(config, tmp_path)
    monkeypatch.undo()
    assert [record["epoch"] for record in RunFolder(tmp_path).read_metrics()] == [0, 1, 2]
    state = checkpoint.load_newest(tmp_path / "checkpoints")
    assert state["epoch"] == 2
    assert all(torch.isfinite(x).all() for x in state["network"].values())
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)


FLUSHES = {3: r"checkpoints/epoch_0000\.pt", 6: r"metrics\.jsonl", 11: r"summary\.json"}


@pytest.mark.parametrize("flush", FLUSHES)
def test_a_disk_that_is_full_at_any_write(config, whole, tmp_path, monkeypatch, full_disk, flush):
    """The n-th flush to disk fails."""
    full_disk(after=flush - 1)
    with pytest.raises(OSError, match=f"No space left on device: .*{FLUSHES[flush]}"):
        train(config, tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob(".*.part"))
    assert newest_epoch(tmp_path) == {3: None, 6: 1, 11: 3}[flush]
    train(config, tmp_path, resume=True)
    assert_same_end(tmp_path, whole)
