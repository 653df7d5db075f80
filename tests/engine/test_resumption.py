"""Which configuration a run goes on with, and which checkpoint; that it ends the same is in test_resume.py."""

import logging
import os
from pathlib import Path

import pytest

from salcr.engine import checkpoint, load_config
from salcr.engine.config import dump_config
from salcr.engine.resumption import KEYS, check_resumable, newest_state, way_on
from salcr.engine.run_folder import RunFolder

SCHEDULE = ("schedule.stage_one_epochs=3", "schedule.stage_two_epochs=4", "schedule.milestones=[2, 5]")


def config(*changes):
    return load_config(overrides=["data.root=images", *SCHEDULE, *changes])


def check(*changes, begun=2):
    check_resumable(config(*changes), config(), begun, "runs/x/config.yaml")


@pytest.mark.parametrize(
    "change",
    ["device=cuda:1", "backend=eager", "data.cache=/tmp/cache", "schedule.graph=off"]
    + ["evaluation.refinements=[aim]", "evaluation.batch=7"]
    + ["evaluation.every=5", "checkpoints.keep.last=7", "checkpoints.keep.stage_one=false", "logging.tensorboard=true"]
    + [f"data.root={form}" for form in (os.path.abspath("images"), "images/../images")],
)
def test_what_cannot_change_the_result_may_change(change):
    assert config(change) != config()
    check(change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("seed=1", "seed is 1, there 0"),
        ("data.root=elsewhere", "data.root is 'elsewhere', there 'images'"),
        ("data.trial=2", "data.trial is 2, there 1"),
        ("model.weights=resnet50.pth", "model.weights is 'resnet50.pth', there None"),
        ("schedule.iterations=5", "schedule.iterations is 5, there 300"),
        ("gpcr.weight=0.4", "gpcr.weight is 0.4, there 0.5"),
        ("dagi.sinkhorn.lam=4", "dagi.sinkhorn.lam is 4.0, there 5.0"),
    ],
)
def test_anything_else_is_named_with_both_values(change, named):
    with pytest.raises(ValueError, match="the configuration differs from") as caught:
        check(change, "device=cpu")
    assert f"runs/x/config.yaml: {named}: resume with that one" in str(caught.value)


def test_all_that_differs_is_named():
    with pytest.raises(ValueError, match=r"seed is 1, there 0; clustering\.eps is 0\.3, there 0\.6: resume"):
        check("seed=1", "clustering.eps=0.3")


@pytest.mark.parametrize(
    ("begun", "changes"),
    [
        (7, ["schedule.stage_two_epochs=9"]),
        (7, ["schedule.stage_two_epochs=9", "schedule.milestones=[2, 5, 7]"]),
        (3, ["schedule.stage_one_epochs=4"]),  # stage two has not begun
        (3, ["schedule.stage_one_epochs=3", "schedule.stage_two_epochs=0"]),
        (2, ["schedule.milestones=[3, 5]"]),
        (2, ["schedule.gamma=0.5"]),
    ],
)
def test_epochs_that_have_not_begun_may_be_others(begun, changes):
    check(*changes, begun=begun)


@pytest.mark.parametrize(
    ("begun", "change"),
    [
        (7, "schedule.stage_two_epochs=3"),  # fewer than there are
        (4, "schedule.stage_one_epochs=4"),  # the fourth was of stage two
        (3, "schedule.stage_one_epochs=2"),
        (3, "schedule.milestones=[1, 5]"),
        (3, "schedule.gamma=0.5"),
        (1, "schedule.lr=0.1"),
    ],
)
def test_epochs_that_have_begun_may_not(begun, change):
    key = change.partition("=")[0]
    with pytest.raises(ValueError, match=rf"differs from .*{key} is .*, there "):
        check(change, begun=begun)


def state(epoch, **more):
    """A checkpoint's content, of which only the position, the configuration and the results are read here."""
    return dict.fromkeys(KEYS) | {"epoch": epoch, "config": config().model_dump(mode="json"), "results": {}} | more


@pytest.fixture
def run(tmp_path):
    """A run folder with two epochs, as small as one can be."""
    run = RunFolder(tmp_path / "a run")
    run.config.write_text(dump_config(config()))
    for epoch in (0, 1):
        checkpoint.save_epoch(run.checkpoints, epoch, state(epoch))
    return run


def test_the_checkpoints_own_configuration_is_compared(run):
    assert newest_state(config(), run)["epoch"] == 1
    run.config.write_text(dump_config(config("memory.momentum=0.3")))
    with pytest.raises(ValueError, match=r"newest checkpoint in .*: memory\.momentum is 0\.3, there 0\.1"):
        newest_state(config("memory.momentum=0.3"), run)
    with pytest.raises(ValueError, match=r"config\.yaml: data\.root is .*moved"):
        newest_state(config("memory.momentum=0.3", "data.root=moved"), run)
    run.config.unlink()
    assert newest_state(config("data.root=moved"), run)["epoch"] == 1  # a checkpoint has no say in paths
    with pytest.raises(ValueError, match=r"newest checkpoint in .*: seed is 1, there 0"):
        newest_state(config("seed=1"), run)


def test_an_epoch_in_its_middle_has_begun(run):
    changed = config("schedule.milestones=[5]")  # of epoch 2 and later
    assert newest_state(changed, run)["epoch"] == 1
    checkpoint.save_epoch(run.checkpoints, 2, state(2), steps=1)
    with pytest.raises(ValueError, match=r"schedule\.milestones is \[5\], there \[2, 5\]"):
        newest_state(changed, run)


def test_other_settings_of_evaluation_are_said(run, caplog):
    with caplog.at_level(logging.WARNING, logger="salcr"):
        newest_state(config("evaluation.refinements=[]"), run)
        assert not caplog.records  # stage one is not evaluated yet
        checkpoint.save_epoch(run.checkpoints, 3, state(3, results={"stage_one": {}}))
        newest_state(config("evaluation.every=3"), run)
        assert not caplog.records
        newest_state(config("evaluation.refinements=[]"), run)
    assert "stage one was evaluated with other settings" in caplog.text


def test_a_run_without_a_readable_checkpoint(run):
    for path in checkpoint.files(run.checkpoints):
        path.write_bytes(b"damaged")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"`salcr train --restart --out '.*/a run'` does"):
        newest_state(config(), run)
    for path in checkpoint.files(run.checkpoints):
        path.unlink()
    assert newest_state(config("seed=1"), run) is None  # it failed before its first checkpoint
    run.write_summary({})  # it did not: somebody has removed them
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read"):
        newest_state(config(), run)


def test_a_strange_checkpoint_of_the_name_is_no_traceback(run):
    checkpoint.save_epoch(run.checkpoints, 5, {"epoch": 5, "state_dict": {}})
    with pytest.raises(ValueError, match=r"newest checkpoint in .* is none of a training: no config"):
        newest_state(config(), run)


def test_the_way_on(run):
    command = f"`salcr train --resume --out '{run.path}'` goes on "
    assert way_on(config(), run) == command + "at epoch 2"
    checkpoint.save_epoch(run.checkpoints, 2, {}, steps=17)
    assert way_on(config(), run) == command + "at epoch 2, step 17"
    checkpoint.save_epoch(run.checkpoints, 6, {})
    assert way_on(config(), run) == command + "with the final evaluation"
    for path in checkpoint.files(run.checkpoints):
        path.unlink()
    assert way_on(config(), run) == command + "at epoch 0"
    Path(run.config).unlink()
    assert way_on(config(), run) == "nothing was trained yet, the same command starts again"
