"""Files of a run that are written while training goes on."""

import copy
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch

logger = logging.getLogger("salcr")


class Writer:
    """Calls functions in a thread, one after the other; after one that failed it calls no more.

    As a context it ends when all are done. What failed is raised by :meth:`wait` or at the end, and where another error
    ends the context, told in the log.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._tasks: list[Future[None]] = []
        self._failed = False

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        if kind is None:
            self.wait()
        for task in self._tasks:
            if (other := task.exception()) is not None:
                logger.error("%s", other)

    def call(self, function: Callable[[], object]) -> None:
        """Have ``function`` called when those before it are done."""
        self._tasks.append(self._pool.submit(self._run, function))

    def wait(self) -> None:
        """Until all are done.

        Raises:
            BaseException: what one of them raised.
        """
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.result()

    def _run(self, function: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            function()
        except BaseException:
            self._failed = True
            raise


def snapshot(state: Any) -> Any:
    """A copy of plain values and tensors, these on the CPU, that training changes no more."""
    gpus: set[torch.device] = set()
    copies = _copied(state, gpus)
    for gpu in gpus:  # of which none needs to be the current one
        torch.cuda.synchronize(gpu)  # once for all of the copies
    return copies


def _copied(x: Any, gpus: set[torch.device]) -> Any:
    """A copy of ``x``, complete once the GPUs it was on are done with their work; these are added to ``gpus``."""
    if isinstance(x, torch.Tensor):
        if x.is_cuda:
            gpus.add(x.device)
        return x.detach().to("cpu", non_blocking=x.is_cuda, copy=True)
    if isinstance(x, dict):
        return {key: _copied(value, gpus) for key, value in x.items()}
    if isinstance(x, (list, tuple)) and type(x) in (list, tuple):
        return type(x)(_copied(value, gpus) for value in x)
    return copy.deepcopy(x)
