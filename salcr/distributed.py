"""Several processes that train one network, as ``torchrun`` starts them (docs/distributed.md).

All of them draw the same random numbers and keep the same state; each computes the network for its share of a batch's
positions. In a single process every function here gives back what it was given.
"""

import functools
import itertools
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(hours=12)  # of the others, while the first decodes a data set or clusters its images
_HOSTS: "weakref.WeakKeyDictionary[dist.ProcessGroup, Callable[[], Any]]" = weakref.WeakKeyDictionary()

T = TypeVar("T")
Item = TypeVar("Item")


class Drifted(RuntimeError):
    """Processes that should hold the same numbers do not; the message names what differs."""


@contextmanager
def joined() -> Iterator[None]:
    """Inside, this process is one of the group that ``torchrun`` started; without its variables nothing happens.

    All processes but the first log errors alone. A group that is there already is used and stays.
    """
    if not all(name in os.environ for name in VARIABLES) or dist.is_initialized():
        yield
        return
    on_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    store, joins = _rendezvous(*(os.environ[name] for name in VARIABLES))
    store = dist.PrefixStore(f"salcr/{next(joins)}", store)  # else this group would meet addresses of the one before
    numbers = dict(rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", store=store, **numbers)
    logger = logging.getLogger("salcr")
    level = logger.level
    if rank():
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
    dist.destroy_process_group()  # after an error it would wait for the others, and they notice when the process ends


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def local_rank() -> int:
    """The number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank())) if world() > 1 else 0


def share(count: int) -> slice:
    """Which of ``count`` items, in order, are this process's."""
    bounds = shares(count)
    return slice(bounds[rank()], bounds[rank() + 1])


def shares(count: int) -> list[int]:
    """Where the share of each process begins, and at last ``count``."""
    return [count * number // world() for number in range(world() + 1)]


def on_first(function: Callable[[], T]) -> T:
    """``function()`` of the first process, for all; the others do not call it. What it returns can be pickled.

    Where it raises, the others end without a word: the first says what happened.
    """
    if world() == 1:
        return function()
    outcome: list[Any] = [False, None]
    group = _hosts()
    if rank() == 0:
        try:
            outcome = [True, function()]
        finally:
            dist.broadcast_object_list(outcome, src=0, group=group)
        return outcome[1]
    dist.broadcast_object_list(outcome, src=0, group=group)
    if not outcome[0]:
        with suppress(Exception):
            _meet()  # until the first is gone: torchrun ends all others as soon as one of them has
        raise SystemExit(1)
    return outcome[1]


@contextmanager
def held_by_first(context: Callable[[], AbstractContextManager]) -> Iterator[None]:
    """``with context()`` for the first process alone."""
    with ExitStack() as stack:
        on_first(lambda: stack.enter_context(context()) and None)
        yield


def in_turn(function: Callable[[], T]) -> T:
    """``function()`` of every process: of the first, then of the first on each machine, then of the others.

    What one of them leaves in a file system, those after it find.
    """
    found: list[T] = []
    on_first(lambda: found.append(function()))
    if local_rank() == 0 and not found:
        found.append(function())
    _meet()
    return found[0] if found else function()


def spread(function: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    """``[function(x) for x in items]``, each call by one of the processes. What they return can be pickled."""
    own = [function(item) for item in items[rank() :: world()]]
    if world() == 1:
        return own
    found = _everyones(own)
    return [found[i % world()][i // world()] for i in range(len(items))]


def largest(number: int) -> int:
    """The largest of the processes' numbers. The device does not take part."""
    if world() == 1:
        return number
    found = torch.tensor(number, device="cpu")
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_hosts())
    return int(found)


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum of the processes' ``x``; differentiable."""
    return x if world() == 1 else _Total.apply(x)


def mean(x: torch.Tensor) -> torch.Tensor:
    """The mean of the processes' ``x``; differentiable."""
    return x if world() == 1 else total(x) / world()


def gather(x: torch.Tensor, dim: int = 0, runs: int = 1) -> torch.Tensor:
    """The processes' shares of a batch together, in the order of its positions, without a gradient.

    Args:
        x: this process's share, its positions along axis ``dim``.
        dim: the axis.
        runs: how often the positions stand there one behind the other, as views do in ``[v, a, r]``; the result has all
            positions in each run.
    """
    if world() == 1:
        return x
    own = x.detach().unflatten(dim, (runs, -1)).contiguous()
    found = own.new_empty(world() * len(own), *own.shape[1:])
    gather_into = dist.all_gather_single if hasattr(dist, "all_gather_single") else dist.all_gather_into_tensor
    gather_into(found, own)
    return found.unflatten(0, (world(), -1)).movedim(0, dim + 1).flatten(dim, dim + 2)


def complete_(x: torch.Tensor, bounds: Sequence[int]) -> None:
    """Every process has filled its rows ``x[bounds[rank] : bounds[rank + 1]]``; afterwards each has all."""
    for number in range(world() if world() > 1 else 0):
        rows = x[bounds[number] : bounds[number + 1]]
        if len(rows):
            dist.broadcast(rows, src=number)


def data_parallel(network: nn.Module) -> nn.Module:
    """``network`` with gradients that are averaged over the processes; all that requires one must get one."""
    if world() == 1:
        return network
    parallel = nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
    parallel.broadcast_buffers = False  # norms of all have the same averages; PyTorch 2.13 calls the argument otherwise
    return parallel


def check_same(tensors: Mapping[str, torch.Tensor]) -> None:
    """All processes hold the same bits.

    Raises:
        Drifted: they do not.
    """
    if world() == 1:
        return
    sums = zip(*_everyones([int(_checksum(x)) for x in tensors.values()]), strict=True)
    if different := [name for name, of in zip(tensors, sums, strict=True) if len(set(of)) > 1]:
        raise Drifted(
            f"{len(different)} of {len(tensors)} values differ between the {world()} processes, first {different[0]}"
        )


@functools.cache
def _rendezvous(*variables: str) -> tuple["dist.Store", Iterator[int]]:
    """Where the processes of these ``VARIABLES`` find each other, as long as they live, and a number for each group."""
    return next(dist.rendezvous("env://"))[0], itertools.count()


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return _Total.apply(gradient)


def _meet() -> None:
    """Wait for all processes."""
    if world() > 1:
        largest(0)


def _everyones(own: T) -> list[T]:
    """What each process has, which can be pickled."""
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, own, group=_hosts())
    return found


def _hosts() -> "dist.ProcessGroup":
    """The same processes, for what lies in the host's memory: their group may serve GPUs alone, and waits less."""
    everyone = dist.group.WORLD
    if everyone not in _HOSTS:
        _HOSTS[everyone] = weakref.ref(dist.new_group(backend="gloo", timeout=PATIENCE))
    return _HOSTS[everyone]()


def _checksum(x: torch.Tensor) -> torch.Tensor:
    """The bits of ``x`` as whole numbers, summed over each row, and the rows' sums times the rows' numbers summed."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    rows = x.detach().view(whole).reshape(len(x) if x.ndim else 1, -1).sum(1, dtype=torch.int64)
    return (rows * torch.arange(1, len(rows) + 1, device=rows.device)).sum()
