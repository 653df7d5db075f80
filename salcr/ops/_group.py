"""Rows that are spread over the processes of a torch.distributed group, a block each, in the order of ranks."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Shards:
    """Who has which rows; ``starts[r]`` to ``starts[r + 1]`` are those of rank ``r``."""

    group: "dist.ProcessGroup"
    starts: tuple[int, ...]

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    @property
    def ranks(self) -> int:
        return len(self.starts) - 1

    @property
    def total(self) -> int:
        return self.starts[-1]

    @property
    def own(self) -> slice:
        return slice(*self.starts[self.rank : self.rank + 2])

    def agree(self, call: Callable[[], T]) -> list[T]:
        """What ``call`` returns on each rank; where it raises on one, that error on all of them."""
        return _agree(self.group, call)

    def visits(
        self, pieces: Sequence[tuple[torch.Tensor, ...]], by_turns: bool = False
    ) -> Iterator[tuple[int, tuple[torch.Tensor, ...]]]:
        """All pieces of all ranks in order, each with its rank. While the caller works on one, the next is sent.

        Args:
            pieces: this rank's, at least one; contiguous tensors of any sizes, the same dtypes on all ranks.
            by_turns: the first piece of every rank, then the second of every rank, and so on. As many are sent ahead as
                there are ranks, so that a rank that works longer on a piece does not hold up the others.
        """
        shapes = _gathered(self.group, [[tuple(x.shape) for x in piece] for piece in pieces])
        plan = [(rank, n) for rank, of_rank in enumerate(shapes) for n in range(len(of_rank))]
        plan = sorted(plan, key=itemgetter(1)) if by_turns else plan

        def send(rank: int, n: int):
            if rank == self.rank:
                tensors = tuple(pieces[n])
            else:
                tensors = tuple(x.new_empty(shape) for x, shape in zip(pieces[0], shapes[rank][n], strict=True))
            return rank, tensors, [self._broadcast(x, rank, async_op=True) for x in tensors if x.numel()]

        ahead = self.ranks if by_turns else 1
        under_way = deque(send(*place) for place in plan[:ahead])
        for step in range(len(plan)):
            under_way.extend(send(*place) for place in plan[step + ahead : step + ahead + 1])
            rank, tensors, works = under_way.popleft()
            for work in works:
                work.wait()
            yield rank, tensors

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all ranks."""
        everything = rows.new_empty(self.total, *rows.shape[1:])
        everything[self.own] = rows
        for rank, (start, stop) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            if start < stop:
                self._broadcast(everything[start:stop], rank)
        return everything

    def collect(self, x: torch.Tensor, rank: int) -> "tuple[dist.Work, list[torch.Tensor]]":
        """Every rank's contiguous ``x`` on its way to ``rank``, where the list holds them once the work is done."""
        arrived = [torch.empty_like(x) for _ in range(dist.get_world_size(self.group))] if rank == self.rank else []
        to = dist.get_global_rank(self.group, rank)
        return dist.gather(x, arrived or None, dst=to, group=self.group, async_op=True), arrived

    def sum_(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, summed over the ranks in place."""
        dist.all_reduce(x, dist.ReduceOp.SUM, group=self.group)
        return x

    def min_(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, its smallest over the ranks, in place."""
        dist.all_reduce(x, dist.ReduceOp.MIN, group=self.group)
        return x

    def _broadcast(self, x: torch.Tensor, rank: int, async_op: bool = False):
        source = dist.get_global_rank(self.group, rank)
        return dist.broadcast(x.view(torch.uint8), source, group=self.group, async_op=async_op)  # bytes: of any dtype


def join(group: "dist.ProcessGroup", describe: Callable[[], tuple[int, Mapping[str, Any]]]) -> Shards:
    """The shards of a group whose ranks call the same operator.

    Args:
        describe: how many rows this rank has, and by name what has to be the same on all ranks.

    Raises:
        TypeError, ValueError: ``group`` is none, or this process is not in it; on every rank, what ``describe`` raises
            on one of them; ranks that differ.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError("group needs torch.distributed.init_process_group")
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("this process is not a member of group")
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed.ProcessGroup, got {type(group).__name__}")
    counts, facts = zip(*_agree(group, describe), strict=True)
    for rank, said in enumerate(facts):
        for name, value in said.items():
            if value != facts[0][name]:
                raise ValueError(f"{name} must be the same on all ranks: rank 0 has {facts[0][name]}, {rank} {value}")
    if sum(counts) == 0:
        raise ValueError("no rank of the group has a row")
    return Shards(group, tuple(accumulate(counts, initial=0)))


def _agree(group: "dist.ProcessGroup", call: Callable[[], T]) -> list[T]:
    found: Any
    try:
        found = call()
    except (TypeError, ValueError) as error:
        found = error
    gathered = _gathered(group, found)
    for rank, said in enumerate(gathered):
        if isinstance(said, Exception):
            raise type(said)(f"rank {rank}: {said}") from (found if rank == dist.get_rank(group) else None)
    return gathered


def _gathered(group: "dist.ProcessGroup", found: Any) -> list[Any]:
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, found, group=group)
    return gathered
