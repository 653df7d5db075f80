"""Several processes train as one does: gloo, float64, a tiny network; what they do is in processes.py."""

import json
import socket

import pytest
import torch

from salcr.engine import checkpoint, train
from salcr.engine.run_folder import RunFolder
from tests import forked
from tests.engine.processes import DRIFTS, STEPS, configuration, interrupt, launch, recorded

PATIENCE = 500
pytestmark = pytest.mark.long  # all of them, beside each other: they share what the processes found
WORLDS = pytest.mark.parametrize(("world", "size"), [("two", 2), ("three", 3)])


def free_port():
    """Of this machine, as is the next one."""
    while True:
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                next_one.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


@pytest.fixture(scope="module")
def alone(tree, tmp_path_factory):
    """What a single process finds, and the folder of its run."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return recorded(configuration(tree), folder), folder


@pytest.fixture(scope="module")
def several(tree, tmp_path_factory):
    """The folder of what three processes found, and what their launcher said, one of them having been killed."""
    folder = tmp_path_factory.mktemp("several")
    interrupt(configuration(tree), folder / "interrupted_alone")
    log = folder / "launcher.log"
    launcher = forked.start(launch, tree, folder, free_port(), log=log)
    launcher.join(PATIENCE)
    assert launcher.exitcode == 1 and len(list(folder.glob("said_*.json"))) == 3, log.read_text()
    return folder, log.read_text()


def said(folder, rank):
    return json.loads((folder / f"said_{rank}.json").read_text())


@WORLDS
def test_steps_are_those_of_one_process(alone, several, world, size):
    one, found = alone[0], torch.load(several[0] / f"{world}_0.pt")
    assert len(one["epochs"]) == len(found["epochs"]) == 2
    for expected, epoch in zip(one["epochs"], found["epochs"], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(expected["labels"], epoch["labels"], strict=True))
        assert torch.equal(expected["generator"], epoch["generator"])
        assert len(expected["steps"]) == len(epoch["steps"]) == STEPS
        for before, after in zip(expected["steps"], epoch["steps"], strict=True):
            torch.testing.assert_close(after["losses"], before["losses"], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(after["gradients"], before["gradients"], rtol=1e-10, atol=1e-10)
        assert any(name.startswith("memories.") for name in epoch["end"])
        torch.testing.assert_close(epoch["end"], expected["end"], rtol=1e-9, atol=1e-9)


@WORLDS
def test_all_processes_hold_the_same_bits(several, world, size):
    first, *others = (torch.load(several[0] / f"{world}_{rank}.pt") for rank in range(size))
    for other in others:
        assert other["summary"] == first["summary"]
        for one, its in zip(first["epochs"], other["epochs"], strict=True):
            assert torch.equal(one["generator"], its["generator"])
            assert all(torch.equal(x, y) for x, y in zip(one["labels"], its["labels"], strict=True))
            assert one["end"].keys() == its["end"].keys()
            assert all(torch.equal(x, its["end"][name]) for name, x in one["end"].items())


@pytest.mark.parametrize("name", ["two", "three", "interrupted_alone", "interrupted"])
def test_a_training_is_that_of_one_process(alone, several, tree, name):
    """``interrupted_alone``: two processes went on with it; ``interrupted``: one goes on with that of two."""
    folder = several[0] / name
    if name == "interrupted":  # by a signal to one of the two: both have ended after the same step
        assert [path.name for path in (folder / "checkpoints").glob("*_step_*")] == ["epoch_0001_step_0002.pt"]
        train(configuration(tree), folder, resume=True)
    got, expected = (RunFolder(path).read_metrics() for path in (folder, alone[1]))
    assert [record["epoch"] for record in got] == [0, 1]
    for one, other in zip(got, expected, strict=True):
        assert one.pop("loss") == pytest.approx(other.pop("loss"), abs=2e-5)  # written with five decimals
        del one["seconds"], other["seconds"]
        assert one == other
    assert (folder / "summary.json").read_bytes() == (alone[1] / "summary.json").read_bytes()
    assert (folder / "config.yaml").read_bytes() == (alone[1] / "config.yaml").read_bytes()
    one, other = (checkpoint.load_newest(path / "checkpoints") for path in (folder, alone[1]))
    assert all(torch.equal(x, y) for x, y in zip(one["labels"], other["labels"], strict=True))
    assert torch.equal(one["generator"], other["generator"])
    torch.testing.assert_close(one["network"], other["network"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one["optimiser"], other["optimiser"], rtol=1e-9, atol=1e-9)


def test_a_checkpoint_is_evaluated_by_several(alone, several):
    assert [said(several[0], rank)["evaluated"] for rank in (0, 1)] == [alone[0]["summary"]["final"]] * 2


@pytest.mark.parametrize("what", DRIFTS)
def test_processes_that_drift_apart_end_the_run(several, what):
    for rank in (0, 1):
        assert said(several[0], rank)[what].endswith(f" differ between the 2 processes, first {what}")
    assert not list((several[0] / what).glob("checkpoints/*"))


def test_a_program_may_train_and_evaluate_as_often_as_it_likes(several):
    """Each time in a group of its own, which does not take the addresses of the one before for its."""
    for rank in (0, 1):
        assert said(several[0], rank)["one group after the other"] == [1] * 10


def test_a_programs_group_may_serve_gpus_alone(several):
    """As NCCL does, whatever lies in the host's memory."""
    for rank in (0, 1):
        differ = "1 of 1 values differ between the 2 processes, first x"
        assert said(several[0], rank)["of hosts"] == [5, 1, rank, differ, "0", "1", "2"]


def test_a_batch_without_equal_shares_is_refused_with_the_numbers(several):
    message = "3 processes cannot share 10 batch positions (schedule.identities 5 x schedule.images 2) equally"
    assert [said(several[0], rank)["refused"] for rank in range(3)] == [
        f"ValueError('{message}')",
        "SystemExit(1)",
        "SystemExit(1)",
    ]
    assert not (several[0] / "refused/config.yaml").exists()


def test_a_process_that_is_killed_ends_the_run_and_is_named(several):
    folder, err = several
    assert "Signal 9 (SIGKILL) received" in err
    assert not (folder / "killed/summary.json").exists() and not (folder / "killed/.holder.json").exists()
    assert err.count("starts from random weights") == 7  # one line a run, of the first process
