"""What is written while training goes on."""

import threading
from typing import NamedTuple

import pytest
import torch

from salcr.engine.writing import Writer, snapshot


def test_calls_are_made_in_order_in_one_other_thread():
    done, gate = [], threading.Event()

    def call(n):
        gate.wait(10)
        done.append((n, threading.current_thread()))

    with Writer() as writer:
        for n in range(3):
            writer.call(lambda n=n: call(n))
        assert done == []  # the caller goes on
        gate.set()
    assert [n for n, _ in done] == [0, 1, 2]
    assert len({thread for _, thread in done}) == 1 and done[0][1] is not threading.current_thread()


@pytest.mark.parametrize("at_the_end", [False, True])
def test_what_failed_is_raised_once_and_nothing_after_it_is_called(caplog, at_the_end):
    def fail():
        raise OSError("full")

    done = []
    with pytest.raises(OSError, match="full"), Writer() as writer:
        writer.call(fail)
        writer.call(lambda: done.append(1))
        if not at_the_end:
            writer.wait()
            done.append(2)
    assert done == [] and not caplog.records


def test_beside_another_error_it_is_told_in_the_log(caplog):
    def fail():
        raise OSError("full")

    done = []
    with pytest.raises(KeyboardInterrupt), Writer() as writer:
        writer.call(lambda: done.append(1))
        writer.call(fail)
        raise KeyboardInterrupt
    assert done == [1] and "full" in caplog.text


class Best(NamedTuple):
    """Made of its fields, not of one sequence."""

    epoch: int
    scores: dict


def test_a_snapshot_does_not_change_any_more():
    weight = torch.nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))
    state = {"a": [weight, {"b": (torch.arange(3), "text", None)}], "c": {"seconds": {"steps": 1.0}}}
    found = snapshot(state)
    with torch.no_grad():
        weight.zero_()
    state["a"][1]["b"][0].zero_()
    state["c"]["seconds"]["steps"] = 2.0
    assert found["a"][0].eq(1).all() and not found["a"][0].requires_grad
    assert found["a"][0].is_contiguous(memory_format=torch.channels_last)
    assert found["a"][1]["b"][0].tolist() == [0, 1, 2] and found["a"][1]["b"][1:] == ("text", None)
    assert found["c"] == {"seconds": {"steps": 1.0}}
    assert snapshot([Best(3, {"mAP": 0.5})]) == [Best(3, {"mAP": 0.5})]


class OnSecondGpu(torch.Tensor):
    """Says so; holds numbers of the CPU."""

    device, is_cuda = torch.device("cuda", 1), True

    def detach(self):
        return self

    def to(self, *_, **__):
        return self.as_subclass(torch.Tensor).clone()


def test_a_snapshot_waits_for_the_device_that_copies(monkeypatch):
    """Which need not be the current one, for which ``torch.cuda.synchronize()`` would wait."""
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(device))
    state = {"a": torch.ones(2).as_subclass(OnSecondGpu), "b": [torch.ones(3).as_subclass(OnSecondGpu), torch.zeros(1)]}
    assert [x.sum().item() for x in (snapshot(state)["a"], *snapshot(state)["b"])] == [2, 3, 0]
    assert waited == [OnSecondGpu.device] * 2
