"""The group's parts that need no second process; what several do together is in engine/test_distributed.py."""

import itertools
import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch import nn

from salcr import distributed
from salcr.engine.interruption import Signals
from salcr.models.features import pick_device
from salcr.nn import synchronised


@pytest.fixture
def second_of(monkeypatch):
    """Makes this process seem the second of several on one machine."""

    def pretend(count):
        monkeypatch.setattr(distributed, "world", lambda: count)
        monkeypatch.setattr(distributed, "rank", lambda: 1)
        monkeypatch.setattr(distributed, "local_rank", lambda: 1)

    return pretend


def test_alone_everything_is_given_back():
    x, network = torch.ones(6, 2, requires_grad=True), nn.BatchNorm1d(2)
    assert (distributed.world(), distributed.rank(), distributed.local_rank()) == (1, 0, 0)
    assert distributed.gather(x, runs=3) is distributed.total(x) is x
    assert distributed.data_parallel(network) is synchronised(network) is network and type(network) is nn.BatchNorm1d
    assert distributed.share(7) == slice(0, 7) and distributed.largest(3) == 3
    assert distributed.on_first(lambda: 5) == distributed.in_turn(lambda: 5) == 5
    assert distributed.spread(str, range(3)) == ["0", "1", "2"]
    with pytest.raises(KeyError):
        distributed.on_first(lambda: {}["absent"])


def test_without_all_of_the_launchers_variables_there_is_no_group(monkeypatch):
    for name in distributed.VARIABLES[1:]:
        monkeypatch.setenv(name, "2")
    monkeypatch.delenv("RANK", raising=False)  # some schedulers set a few of them for purposes of their own
    with distributed.joined():
        assert not dist.is_initialized()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 144])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_are_in_order_and_differ_by_one_at_most(second_of, count, processes):
    second_of(processes)
    bounds = distributed.shares(count)
    sizes = [end - begin for begin, end in itertools.pairwise(bounds)]
    assert bounds[0] == 0 and bounds[-1] == count and len(sizes) == processes
    assert max(sizes) - min(sizes) <= 1 and (count % processes or len(set(sizes)) == 1)


def test_each_process_gets_a_gpu_of_its_machine(second_of, monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert pick_device("cuda:1") == torch.device("cuda", 1) and not current
    second_of(2)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1) and current == [1, 1]
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'cuda:1' is one for 2 processes: set it to auto, cuda or cpu"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="no GPU for process 1 of this machine: it has 1"):
        pick_device("auto")


def test_torchrun_may_pass_on_a_signal_that_the_terminal_has_sent_already(second_of):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    second_of(2)
    try:
        with Signals() as signals:
            signals.hold()
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_total_leaves_what_is_added_up_as_it_is(second_of, monkeypatch):
    second_of(2)
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.mul_(2))  # the other process has the same
    x = torch.ones(3, requires_grad=True)
    found = distributed.total(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert x.tolist() == [1, 1, 1] and found.tolist() == gradient.tolist() == [2, 2, 2]


@pytest.mark.parametrize(("rank", "local_rank", "order"), [(2, 0, "called, met"), (3, 1, "met, called")])
def test_the_first_of_another_machine_does_not_wait_for_the_others(monkeypatch, rank, local_rank, order):
    happened = []
    for name, number in dict(world=4, rank=rank, local_rank=local_rank).items():
        monkeypatch.setattr(distributed, name, lambda number=number: number)
    monkeypatch.setattr(distributed, "on_first", lambda function: None)  # which another process has called
    monkeypatch.setattr(distributed, "_meet", lambda: happened.append("met"))
    assert distributed.in_turn(lambda: happened.append("called") or 5) == 5
    assert ", ".join(happened) == order


@pytest.mark.parametrize("change", ["swapped", "moved by a bit", "the generator draws"])
def test_a_checksum_tells_small_changes(change, generator):
    first = other = torch.randn(4, 3, generator=generator)
    if change == "swapped":
        other = first.flip(0)
    elif change == "moved by a bit":
        other = first.clone()
        other.view(torch.int32)[2, 1] += 1
    else:
        first = generator.get_state()
        torch.rand(1, generator=generator)
        other = generator.get_state()
    assert distributed._checksum(first) == distributed._checksum(first.clone()) != distributed._checksum(other)
