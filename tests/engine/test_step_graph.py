"""Steps that are replayed train as steps that are called: a recording of operators on the CPU stands for a graph."""

import json
import logging
import math

import pytest
import torch

from salcr.engine import load_config, session, stage_one, stage_two, train
from salcr.engine.interruption import Interrupted
from salcr.engine.run_folder import RunFolder
from salcr.engine.session import Session
from salcr.engine.step_graph import TIMED, WARM_UP
from salcr.engine.steps import NonFiniteLoss
from salcr.engine.trainer import Trainer
from salcr.models.checkpoints import load
from tests.engine.processes import at_step, terminate
from tests.engine.recording import Recorder, Recording
from tests.engine.tree import tiny

STEPS = WARM_UP + 3
SETTINGS = (f"schedule.iterations={STEPS}", "evaluation.refinements=[]")


@pytest.fixture
def recorder(graphs, monkeypatch):
    """Trainings have this recorder, and the optimiser of a GPU."""
    recorder, fresh = Recorder(), Session.fresh_optimiser

    def fused(self):
        optimiser = fresh(self)
        return torch.optim.Adam(optimiser.param_groups[0]["params"], **optimiser.defaults | {"fused": True})

    monkeypatch.setattr(session, "StepGraphs", lambda choice, device: graphs(choice, recorder))
    monkeypatch.setattr(Session, "fresh_optimiser", fused)
    return recorder


def end_of(folder):
    """Weights, moments and losses of all epochs."""
    state = load(folder / "checkpoints/epoch_0003.pt")
    moments = {f"{n}.{name}": x for n, of in state["optimiser"]["state"].items() for name, x in of.items()}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return state["network"] | moments, [record["loss"] for record in records], records


def test_a_replayed_training_ends_as_one_that_is_called(tree, tmp_path, recorder):
    """Both stages, two epochs each with other numbers of clusters; it is interrupted after a step that was replayed."""
    train(load_config(overrides=tiny(tree, *SETTINGS, "schedule.graph=off")), tmp_path / "called")
    assert not recorder.recordings
    config = load_config(overrides=tiny(tree, *SETTINGS, "schedule.graph=on"))
    with at_step(3 * STEPS - 1, terminate), pytest.raises(Interrupted):
        train(config, tmp_path / "replayed")
    assert (recorder.replays, len(recorder.recordings)) == (3 * 3 - 1, 3)
    train(config, tmp_path / "replayed", resume=True)
    assert (recorder.replays, len(recorder.recordings)) == (4 * 3 - 1, 4)
    (called, losses, records), (replayed, again, _) = (end_of(tmp_path / name) for name in ("called", "replayed"))
    clusters = [(record["visible"]["clusters"], record["infrared"]["clusters"]) for record in records]
    assert clusters[0] != clusters[1] and clusters[2] != clusters[3]
    assert losses == again and called.keys() == replayed.keys()
    assert [name for name, x in called.items() if not torch.equal(x, replayed[name])] == []


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_step_after_the_other_is_the_same_work(tree, tmp_path, recorder, monkeypatch, stage, precision):
    """The same operators on the same memory with the same numbers; the first one makes the optimiser's state."""
    recordings = []

    def called(step):
        with Recording() as recording:
            losses = step()
        recordings.append(recording)
        return losses

    monkeypatch.setattr(recorder, "called", called)
    config = load_config(overrides=tiny(tree, f"schedule.precision={precision}", f"schedule.iterations={WARM_UP}"))
    trainer = Trainer(config, RunFolder(tmp_path))
    (stage_one.stage_one_epoch if stage == 1 else stage_two.stage_two_epoch)(trainer, 0)
    first, *works = (recording.work() for recording in recordings)
    assert len(first) > len(works[0]) and works[0] == works[1]
    names = {name for name, *_ in works[0]}
    assert names > {"salcr.augment.default", "salcr.update_cluster_memories_.default", "aten._fused_adam_.default"}
    assert any("convolution_backward" in name for name in names)


def test_a_loss_that_is_not_finite_is_named_where_steps_are_replayed(tree, tmp_path, recorder):
    config = load_config(overrides=tiny(tree, *SETTINGS, "schedule.graph=on"))
    trainer = Trainer(config, RunFolder(tmp_path))
    weight = next(trainer.network.parameters())
    bad = WARM_UP + 1
    with at_step(bad + 1, lambda _: weight.data.fill_(math.nan)), pytest.raises(NonFiniteLoss, match=f"step {bad}:"):
        stage_one.stage_one_epoch(trainer, 0)
    assert recorder.replays == STEPS - WARM_UP


def test_a_run_that_moves_to_a_gpu_has_the_optimiser_of_a_gpu(tree, tmp_path):
    """Moments are the checkpoint's, options the device's."""
    trainer = Trainer(load_config(overrides=tiny(tree)), RunFolder(tmp_path))
    for p in trainer.network.parameters():
        p.grad = torch.ones_like(p)
    trainer.optimiser.step()
    state = trainer.optimiser.state_dict()
    parameters = trainer.optimiser.param_groups[0]["params"]
    trainer.optimiser = torch.optim.Adam(parameters, lr=0.5, fused=True)
    trainer.load_optimiser(state)
    (group,) = trainer.optimiser.param_groups
    assert (group["fused"], group["lr"], group["params"]) == (True, 0.5, parameters)
    for p, of in zip(parameters, state["state"].values(), strict=True):
        assert all(torch.equal(x, of[name]) for name, x in trainer.optimiser.state[p].items())


@pytest.mark.cuda
@pytest.mark.parametrize("settings", [["schedule.precision=float32"], [], ["model.compile=true"]])
def test_a_graph_trains_as_calls_do_on_a_gpu(tree, tmp_path, monkeypatch, caplog, settings):
    """Both stages, two epochs each with other numbers of clusters.

    Gradients of max pooling are summed in any order there. Steps too short to change a weight keep that out of what
    follows, so that losses are the same and moments nearly.
    """
    torch.use_deterministic_algorithms(False)  # not asked of all of PyTorch's operators, but of convolutions
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    for choice in ("off", "on"):
        more = "device=cuda", "model.compile=false", f"schedule.graph={choice}", "schedule.lr=1e-30", *settings
        train(load_config(overrides=tiny(tree, *SETTINGS, *more)), tmp_path / choice)
    assert "could not be captured" not in caplog.text
    (called, losses, records), (replayed, again, _) = (end_of(tmp_path / name) for name in ("off", "on"))
    assert len({(record["visible"]["clusters"], record["infrared"]["clusters"]) for record in records}) > 1
    assert losses == again
    for name, x in called.items():
        torch.testing.assert_close(replayed[name], x, rtol=0, atol=1e-4 * float(x.abs().max()), msg=name)


@pytest.mark.cuda
def test_auto_decides_on_a_gpu(tree, tmp_path, caplog):
    torch.use_deterministic_algorithms(False)
    caplog.set_level(logging.INFO, "salcr")
    more = "device=cuda", "model.compile=false", f"schedule.iterations={WARM_UP + 2 * TIMED + 2}"
    short = "schedule.stage_one_epochs=1", "schedule.stage_two_epochs=1", "evaluation.refinements=[]"
    train(load_config(overrides=tiny(tree, *more, *short)), tmp_path)
    assert caplog.text.count("ms as a CUDA graph") == 2
