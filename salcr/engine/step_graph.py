"""The steps of an epoch replayed as one CUDA graph, where that is faster (``schedule.graph``).

A step is thousands of launches, and the host prepares each of them again although only the batch has changed. A graph
is that work recorded once: a replay is a single call that runs the same kernels on the same memory. So a step takes
what changes from memory that all steps share (:class:`salcr.engine.steps.BatchMemory`), and asks for no value. What is
fixed within an epoch and differs in the next one, the learning rate and the numbers of clusters, is part of the
recording: each epoch makes its own. Recording computes nothing, so that training is the same with and without.

None of this has run on a GPU yet.
"""

import logging
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from salcr import distributed

WARM_UP = 3  # steps of an epoch that are called first: compile, choose algorithms, make the optimiser's state
TIMED = 10  # steps called and steps replayed that ``auto`` compares

logger = logging.getLogger("salcr")

Losses = dict[str, torch.Tensor]
Step = Callable[[], Losses]


class StepGraphs:
    """Whether the steps of a stage are replayed, and their replays.

    Args:
        choice: ``schedule.graph``; ``"auto"`` compares a few steps of the stage's first epoch that is long enough, and
            calls all of them without a GPU and in several processes.
        device: where training computes.

    Raises:
        ValueError: True, without a GPU or in several processes.
    """

    def __init__(self, choice: Literal["auto"] | bool, device: torch.device) -> None:
        obstacle = None if device.type == "cuda" else f"training is on {device}: CUDA graphs need a GPU"
        if obstacle is None and distributed.world() > 1:
            obstacle = "several processes train together, whose steps are not captured"
        if obstacle and choice is True:
            raise ValueError(f"schedule.graph is on, and {obstacle}; set it to auto or off")
        self._recorder = CudaRecorder(device)
        self._first = False if obstacle else None if choice == "auto" else choice
        self.faster: bool | None = self._first
        """Whether steps are replayed; None: not known yet."""

    def begin_stage(self) -> None:
        """The steps to come are others."""
        self.faster = self._first

    def losses(self, step: Step, optimiser: torch.optim.Optimizer) -> Generator[Losses, None, None]:
        """The losses of an epoch's steps, one after the other, each computed when it is asked for.

        Unless it is known that all are called, first come :data:`WARM_UP` steps that are called, :data:`TIMED` more to
        compare with where ``auto`` asks for it, then replays, to the end of the epoch if they are faster.

        Losses are overwritten by the next. Close the iterator at the end of the epoch: that frees the graph's memory.

        Args:
            step: computes the losses, trains, and differs from call to call only in the contents of its memory.
            optimiser: the step's.
        """
        recorder = self._recorder
        while self.faster is False:
            yield step()
        for _ in range(WARM_UP):
            yield recorder.called(step)
        times = []
        if self.faster is None:
            begin = recorder.mark()
            for _ in range(TIMED):
                yield recorder.called(step)
            times.append((begin, recorder.mark()))
        replayed = self._recorded(step, optimiser)
        try:
            if replayed is not None:
                yield replayed()  # the first one takes the graph to the device
            if self.faster is None:
                begin = recorder.mark()
                for _ in range(TIMED):
                    yield replayed()
                times.append((begin, recorder.mark()))
                self.faster = _second_is_faster(times)
            while self.faster:
                yield replayed()
        finally:
            del replayed
            optimiser.zero_grad(set_to_none=True)  # gradients lie in the graph's memory
        while True:  # replays are slower, or a step could not be captured
            yield step()

    def _recorded(self, step: Step, optimiser: torch.optim.Optimizer) -> Step | None:
        """None after a failure; the process is not asked for a second capture."""
        try:
            return self._recorder.record(step, optimiser)
        except RuntimeError as error:
            first = error.__context__  # a capture that an error ends raises one of its own
            text = str(first if isinstance(first, RuntimeError) else error).partition("\n")[0]
            logger.warning("training goes on without a CUDA graph: a step could not be captured (%s)", text)
            self._first = self.faster = False
            return None


def _second_is_faster(times: Sequence[tuple[torch.cuda.Event, torch.cuda.Event]]) -> bool:
    """Of :data:`TIMED` steps each, called and replayed; the one time that the host waits for the device."""
    times[-1][-1].synchronize()
    called, replayed = (begin.elapsed_time(end) / TIMED for begin, end in times)
    logger.info("a step takes %.1f ms called and %.1f ms as a CUDA graph", called, replayed)
    return replayed < called


class CudaRecorder:
    """Captures steps as CUDA graphs, on the stream on which they are called before.

    Source: https://pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs".
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None
        self._waits: list[str] = []  # of the last step that was called

    def called(self, step: Step) -> Losses:
        """``step()``, as it is called before it is recorded."""
        with self._aside(), _waits() as self._waits:
            return step()

    def record(self, step: Step, optimiser: torch.optim.Optimizer) -> Step:
        """What does the work of ``step()`` again, which is called without doing any; raises RuntimeError."""
        if self._waits:  # after a capture that fails, some versions of PyTorch cannot free its memory any more
            raise RuntimeError(f"it waits for the device in {self._waits[0]}")
        optimiser.zero_grad(set_to_none=True)  # the step makes its gradients in the graph's own memory
        graph = torch.cuda.CUDAGraph()
        # Threads that gather images or write checkpoints may allocate and copy meanwhile.
        capture = torch.cuda.graph(graph, stream=self._side, capture_error_mode="thread_local")
        with self._aside(), _capturable(optimiser), capture:
            losses = {name: loss.detach() for name, loss in step().items()}

        def replayed() -> Losses:
            graph.replay()
            return losses

        return replayed

    def mark(self) -> torch.cuda.Event:
        """Now, in the device's work."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @property
    def _side(self) -> torch.cuda.Stream:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        return self._stream

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On the side stream, between what was asked of the current one before and what will be after.

        A capture that fails leaves its stream the current one: this takes that back.
        """
        current = torch.cuda.current_stream(self.device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            yield
        current.wait_stream(self._side)


@contextmanager
def _waits() -> Iterator[list[str]]:
    """Where PyTorch waits for the device inside: ``file:line``, known at the end."""
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        if "called a synchronizing CUDA operation" in str(warning.message):
            found.append(f"{warning.filename}:{warning.lineno}")
        elif "Synchronization debug mode" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@contextmanager
def _capturable(optimiser: torch.optim.Optimizer) -> Iterator[None]:
    """``optimiser`` as one whose step may be captured, which a fused one keeps in any case.

    Adam asks for that word, and warns where it has it and is called: it has it during a capture only.
    """
    if not all(group["fused"] for group in optimiser.param_groups):
        raise RuntimeError("the optimiser is not fused, and computes with numbers of the host")
    for group in optimiser.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimiser.param_groups:
            group["capturable"] = False
