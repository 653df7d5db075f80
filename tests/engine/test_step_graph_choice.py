"""Which steps of an epoch are called and which replayed, by stand-ins for a clock, a recorder and torch.cuda."""

import logging
import warnings
from contextlib import nullcontext
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from salcr import distributed
from salcr.engine import load_config, step_graph, train
from salcr.engine.step_graph import TIMED, WARM_UP, CudaRecorder, StepGraphs
from tests.engine.recording import Recorder
from tests.engine.tree import tiny

GPU = torch.device("cuda")


class Counted:
    """A step that counts its calls, and a recorder whose clock advances by what calls and replays take."""

    def __init__(self, called=2.0, replayed=1.0, error=None):
        self.durations, self.error = dict(called=called, replayed=replayed), error
        self.now, self.done, self.recorded = 0.0, [], 0
        self.optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)])

    def step(self):
        return self.take("plain")

    def take(self, how):
        self.now += self.durations.get(how, 0)
        self.done.append(how)
        return {"loss": torch.tensor(self.now)}

    def called(self, step):
        return self.take("called")

    def record(self, step, optimiser):
        assert step == self.step and optimiser is self.optimiser
        self.recorded += 1
        if self.error is not None:
            try:
                raise self.error
            finally:
                raise RuntimeError("capture ended by an error")
        return lambda: self.take("replayed")

    def mark(self):
        now = self.now
        return SimpleNamespace(now=now, synchronize=lambda: None, elapsed_time=lambda end: end.now - now)

    def epoch(self, graphs, steps):
        """How each step of an epoch was done."""
        self.done.clear()
        losses = graphs.losses(self.step, self.optimiser)
        assert len(list(islice(losses, steps))) == len(self.done) == steps
        losses.close()
        return self.done.copy()


TRIAL = ["called"] * (WARM_UP + TIMED) + ["replayed"] * (1 + TIMED)
LONG = len(TRIAL) + 5


@pytest.mark.parametrize(("replayed", "faster"), [(1.0, True), (2.0, False), (3.0, False)])
def test_auto_keeps_what_is_faster(graphs, caplog, replayed, faster):
    caplog.set_level(logging.INFO, "salcr")
    steps = Counted(called=2.0, replayed=replayed)
    chosen = graphs("auto", steps)
    rest = "replayed" if faster else "plain"
    later = ["called"] * WARM_UP + ["replayed"] * (LONG - WARM_UP) if faster else ["plain"] * LONG
    for _ in range(2):  # stages
        assert chosen.faster is None
        assert steps.epoch(chosen, len(TRIAL)) == TRIAL and chosen.faster is None  # too short to tell
        assert steps.epoch(chosen, LONG) == TRIAL + [rest] * 5 and chosen.faster is faster
        assert steps.epoch(chosen, LONG) == later
        chosen.begin_stage()
    expected = f"a step takes 2.0 ms called and {replayed:.1f} ms as a CUDA graph"
    assert [record.getMessage() for record in caplog.records] == [expected] * 2


def test_on_compares_nothing(graphs):
    steps = Counted(called=1.0, replayed=9.0)
    chosen = graphs(True, steps)
    for _ in range(2):
        assert steps.epoch(chosen, LONG) == ["called"] * WARM_UP + ["replayed"] * (LONG - WARM_UP)
        assert steps.epoch(chosen, WARM_UP) == ["called"] * WARM_UP
        chosen.begin_stage()
    assert steps.recorded == 2


@pytest.mark.parametrize("choice", ["auto", True])
def test_training_goes_on_where_a_capture_fails(graphs, caplog, choice):
    """One warning names the first error; no second capture is tried, in whatever stage."""
    steps = Counted(error=RuntimeError("operation not permitted when stream is capturing\nand more"))
    chosen = graphs(choice, steps)
    called = WARM_UP if choice is True else WARM_UP + TIMED
    assert steps.epoch(chosen, LONG) == ["called"] * called + ["plain"] * (LONG - called)
    chosen.begin_stage()
    assert steps.epoch(chosen, LONG) == ["plain"] * LONG and steps.recorded == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("could not be captured (operation not permitted when stream is capturing)")


def test_other_errors_of_a_capture_are_not_hidden(graphs):
    steps = Counted()
    steps.record = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        steps.epoch(graphs(True, steps), LONG)


def train_line(chosen, fused):
    """A line through points by Adam, as a step; the weight after each step."""
    weight = torch.nn.Parameter(torch.zeros(3))
    optimiser, x = torch.optim.Adam([weight], lr=0.1, fused=fused), torch.zeros(8, 3)

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss = ((x @ weight).sub(1) ** 2).mean()
        loss.backward()
        optimiser.step()
        return {"loss": loss}

    generator, found = torch.Generator().manual_seed(0), []
    losses = chosen.losses(step, optimiser)
    for _ in range(WARM_UP + 5):
        x.copy_(torch.rand(8, 3, generator=generator))
        found.append((next(losses)["loss"].item(), *weight.tolist()))
    losses.close()
    assert (weight.grad is None) == (chosen.faster is True)  # gradients lie in a graph's memory
    return found


def test_a_step_that_asks_for_a_value_is_called(graphs, caplog):
    """Adam that is not fused does. Half a recording leaves no trace."""
    off = StepGraphs(False, torch.device("cpu"))
    assert train_line(graphs(True, Recorder()), fused=False) == train_line(off, fused=False)
    assert "asks for a value" in caplog.text
    caplog.clear()
    assert train_line(graphs(True, Recorder()), fused=True) == train_line(off, fused=True)
    assert not caplog.text


def test_a_recording_holds_fast_what_comes_from_python(graphs):
    """Otherwise nothing here could fail."""
    x, numbers, losses = torch.zeros(()), iter(range(100)), []
    chosen = graphs(True, Recorder())
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    replays = chosen.losses(lambda: {"loss": x.add_(next(numbers))}, optimiser)
    losses = [next(replays)["loss"].item() for _ in range(WARM_UP + 3)]
    assert losses == [0, 1, 3, 6, 9, 12]


def test_steps_are_called_where_they_cannot_be_captured(monkeypatch):
    cpu = torch.device("cpu")
    assert StepGraphs("auto", cpu).faster is False and StepGraphs(False, GPU).faster is False
    assert StepGraphs("auto", GPU).faster is None and StepGraphs(True, GPU).faster is True
    with pytest.raises(
        ValueError, match=r"schedule\.graph is on, and training is on cpu: CUDA graphs need a GPU; set it"
    ):
        StepGraphs(True, cpu)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    assert StepGraphs("auto", GPU).faster is False
    with pytest.raises(ValueError, match="and several processes train together, whose steps are not captured; set it"):
        StepGraphs(True, GPU)


def test_on_without_a_gpu_ends_a_run_before_it_begins(tree, tmp_path):
    with pytest.raises(ValueError, match=r"schedule\.graph is on, and training is on cpu"):
        train(load_config(overrides=tiny(tree, "schedule.graph=on")), tmp_path)
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_is_aside_and_the_optimiser_gives_its_word_for_it(monkeypatch, fails):
    """Without a GPU: what is asked of torch.cuda, in which order. A capture that fails leaves its stream current."""
    done, current = [], ["default"]

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            done.append(f"{self.name} waits for {other.name}")

    class On:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            self.before, current[0] = current[0], self.stream.name

        def __exit__(self, *_):
            current[0] = self.before

    class Capture(On):
        def __init__(self, graph, stream, capture_error_mode):
            assert capture_error_mode == "thread_local"
            super().__init__(stream)

        def __exit__(self, kind, *_):
            if kind is None:
                super().__exit__()

    graph = SimpleNamespace(replay=lambda: done.append("replay"))
    streams = {
        "Stream": lambda device: Stream("side"),
        "current_stream": lambda device: Stream(current[0]),
        "stream": On,
    }
    modes = {"get_sync_debug_mode": lambda: 0, "set_sync_debug_mode": lambda mode: None}
    for name, stand_in in (streams | modes | {"CUDAGraph": lambda: graph, "graph": Capture}).items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    weight = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.Adam([weight], fused=True)
    weight.grad = torch.ones(2)

    def step():
        done.append((current[0], optimiser.param_groups[0]["capturable"], weight.grad))
        if fails:
            raise RuntimeError("no")
        return {"loss": weight}

    recorder = CudaRecorder(GPU)
    if fails:
        with pytest.raises(RuntimeError, match="no"):
            recorder.record(step, optimiser)
        assert done == ["side waits for default", ("side", True, None)]
    else:
        (loss,) = recorder.record(step, optimiser)().values()
        assert loss.data_ptr() == weight.data_ptr() and not loss.requires_grad
        assert done == ["side waits for default", ("side", True, None), "default waits for side", "replay"]
        done.clear()
        recorder.called(step)
        assert done == ["side waits for default", ("side", False, None), "default waits for side"]
    assert current == ["default"] and optimiser.param_groups[0]["capturable"] is False


def test_a_step_that_waits_for_the_device_is_not_captured(monkeypatch):
    """PyTorch's own watch says so while the step is called. Warnings of others pass."""
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    recorder = CudaRecorder(GPU)
    monkeypatch.setattr(CudaRecorder, "_aside", lambda self: nullcontext())

    def step(*texts):
        assert modes[-1] == "warn"
        for text in texts:
            warnings.warn(text, UserWarning, stacklevel=1)
        return {}

    with pytest.warns(UserWarning, match="another") as caught:
        recorder.called(lambda: step("Synchronization debug mode is a prototype", "another"))
    assert len(caught) == 1 and modes == [0, "warn", 0]
    assert recorder._waits == []
    recorder.called(lambda: step("called a synchronizing CUDA operation (Triggered internally at ...)"))
    with pytest.raises(RuntimeError, match=r"it waits for the device in .*test_step_graph_choice\.py:\d+$"):
        recorder.record(None, None)
    recorder.called(step)
    assert recorder._waits == []


def test_an_optimiser_of_the_host_is_not_captured():
    with pytest.raises(RuntimeError, match="not fused"), step_graph._capturable(torch.optim.Adam([torch.zeros(1)])):
        pass
