"""``salcr train --profile``: what an epoch of each stage spends its time on, as a trace and as a page of tables."""

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from salcr.files import write_atomically

PHASE = "salcr: "
STEP = "step"
STEPS = 20  # of an epoch that are recorded: its phases before them are recorded whole
LONGEST = 12
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
Event = Mapping[str, Any]
Span = tuple[float, float]


def phase(name: str) -> record_function:
    """A context: what runs in it is ``name`` in traces."""
    return record_function(PHASE + name)


class Profiler:
    """Records the second epoch of each stage, which compiles nothing any more, or its only one.

    Args:
        folder: gets ``epoch_NNNN.json``, a trace for https://ui.perfetto.dev or ``chrome://tracing``, and
            ``epoch_NNNN.md``, see :func:`page`.
        device: where training computes.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self._seen: Counter[int] = Counter()
        self._running: tuple[profile, int] | None = None
        self._steps = 0

    @contextmanager
    def epoch(self, stage: int, epoch: int, *, last: bool) -> Iterator[None]:
        """An epoch of ``stage``; ``last``: no other one of it follows."""
        self._seen[stage] += 1
        if self._seen[stage] == 2 or (last and self._seen[stage] == 1):
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
            self._running, self._steps = (profile(activities=activities), epoch), 0
            with warnings.catch_warnings():  # PyTorch 2.11 says of every profiler that it keeps nothing for another one
                warnings.filterwarnings("ignore", "Warning: Profiler clears events", UserWarning)
                self._running[0].start()
        try:
            yield
        finally:
            self._finish()

    def after_step(self) -> None:
        """To be called after each step; the last of :data:`STEPS` ends the recording."""
        self._steps += 1
        if self._steps == STEPS:
            self._finish()

    def _finish(self) -> None:
        if self._running is None:
            return
        (recording, epoch), self._running = self._running, None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        recording.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        trace = self.folder / f"epoch_{epoch:04d}.json"
        recording.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
        write_atomically(trace.with_suffix(".md"), page(events, f"Epoch {epoch}, {self._steps} of its steps"))


class Row(NamedTuple):
    """What a phase took: seconds, those in which the device (without one: an operator) was busy, and counts."""

    name: str
    seconds: float
    busy: float
    kernels: int
    copies: int
    pageable: int
    waits: int


def page(events: Sequence[Event], title: str) -> str:
    """A page in Markdown of the ``traceEvents`` of a trace: a row a phase, then what ran longest.

    On a GPU a phase is busy while a kernel, copy or fill runs, and the rest are gaps. ``pageable`` are those of the
    copies for which the host waits, ``waits`` the calls by which it waits for the device. Without a GPU the outermost
    operators stand for kernels, ``copy_`` for copies and ``item`` for waits.
    """
    has_device = _has_device(events)
    ran = "kernels" if has_device else "operators"
    lines = [f"# {title}", "", f"| phase | seconds | busy | gaps | {ran} | copies | pageable | waits |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for row in rows(events):
        times = f"{row.seconds:.3f} | {row.busy:.3f} | {row.seconds - row.busy:.3f}"
        lines.append(f"| {row.name} | {times} | {row.kernels} | {row.copies} | {row.pageable} | {row.waits} |")
    lines += ["", f"| longest | ms | {'launches' if has_device else 'calls'} |", "|---|--:|--:|"]
    for name, (total, count) in _longest(_work(events)):
        lines.append(f"| `{name[:100]}` | {total / 1e3:.2f} | {count} |")
    return "\n".join([*lines, ""])


def rows(events: Sequence[Event]) -> list[Row]:
    """The phases of ``events`` in their order; all steps are one, from the first one's begin to the last one's end."""
    spans: dict[str, list[Span]] = defaultdict(list)
    for event in sorted((x for x in events if x.get("cat") == "user_annotation"), key=lambda x: x["ts"]):
        if event["name"].startswith(PHASE) and event["name"] != PHASE + "steps":
            spans[event["name"].removeprefix(PHASE)].append(_span(event))
    if STEP in spans:
        spans[STEP] = [(spans[STEP][0][0], spans[STEP][-1][1])]
    work, found = _work(events), []
    if _has_device(events):
        kernels, copies = ([x for x in work if x["cat"] == kind] for kind in ("kernel", "gpu_memcpy"))
        waits = [x for x in events if x.get("cat") == "cuda_runtime" and "Synchronize" in x["name"]]
    else:
        kernels, copies = work, [x for x in events if x.get("name") == "aten::copy_"]
        waits = [x for x in events if x.get("name") == "aten::item"]
    pageable = [x for x in copies if "Pageable" in x["name"]]
    for name, of_phase in spans.items():
        busy = sum(_covered(map(_span, work), span) for span in of_phase)
        counts = (_within(some, of_phase) for some in (kernels, copies, pageable, waits))
        found.append(Row(name, sum(b - a for a, b in of_phase) / 1e6, busy / 1e6, *counts))
    return found


def _has_device(events: Iterable[Event]) -> bool:
    """Whether a GPU was traced."""
    return any(event.get("cat") == "kernel" for event in events)


def _work(events: Sequence[Event]) -> list[Event]:
    """What ran on the device; without one the outermost operators of every thread."""
    if _has_device(events):
        return [event for event in events if event.get("cat") in ON_DEVICE]
    found, ends = [], defaultdict[Any, float](float)
    for event in sorted((x for x in events if x.get("cat") == "cpu_op"), key=lambda x: (x["ts"], -x["dur"])):
        if event["ts"] >= ends[event.get("tid")]:
            ends[event.get("tid")] = event["ts"] + event["dur"]
            found.append(event)
    return found


def _longest(work: Sequence[Event]) -> list[tuple[str, tuple[float, int]]]:
    times: dict[str, tuple[float, int]] = {}
    for event in work:
        total, count = times.get(event["name"], (0.0, 0))
        times[event["name"]] = total + event["dur"], count + 1
    return sorted(times.items(), key=lambda item: -item[1][0])[:LONGEST]


def _span(event: Event) -> Span:
    return event["ts"], event["ts"] + event["dur"]


def _covered(spans: Iterable[Span], phase: Span) -> float:
    """Of ``phase`` what the ``spans`` cover together."""
    total, end = 0.0, phase[0]
    for begin, stop in sorted(spans):
        begin, stop = max(begin, end), min(stop, phase[1])
        if stop > begin:
            total, end = total + stop - begin, stop
    return total


def _within(events: Iterable[Event], spans: Sequence[Span]) -> int:
    return sum(any(begin <= event["ts"] < end for begin, end in spans) for event in events)
