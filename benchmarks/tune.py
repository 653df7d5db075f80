"""``python -m benchmarks.tune [--only FAMILY] [--minutes M]``: measure and rewrite the launch table for this GPU.

A row of the table is timed by a case of the registry, at its full size. From the entry that the device has now, one
number at a time is halved or doubled (stages: one less or more), and what ``CANDIDATES`` names is tried, where several
numbers change together; the fastest of these is the next to start from, until none is faster by ``MARGIN``. Before an
entry is timed its outputs have to match those of the entry it would replace, which in float32 have to match the case's
reference first. What was measured is kept in ``--out``, so that a call goes on where the time of the one before ran
out.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from unittest import mock

import torch

from benchmarks import work
from benchmarks.machine import ROOT, machine, versions
from benchmarks.records import read_json, write_json
from salcr.files import write_atomically

LAUNCH = ROOT / "kernels/launch.py"
MARGIN = 0.03  # of the time, that a new entry has to save
RUNS = 15
LEAST = dict(M=32, N=32, K=16, BLOCK=16, ELEMENTS=64, SCAN=32, maxnreg=32)
MOST = dict(M=256, N=256, K=128, num_warps=16, MANY=32, maxnreg=255)
STAGES = 1, 6
UNFINISHED = "its process ended before"
Entry = dict[str, int]


class Job(NamedTuple):
    """What times a row: a case of the registry, with floating-point inputs of ``dtype``."""

    case: str
    dtype: torch.dtype | None = None


JOBS = {
    "products.half": Job("cluster_contrast", torch.bfloat16),
    "products.tf32": Job("cluster_contrast-tf32"),
    "products.tf32x3": Job("cluster_contrast"),
    "products.float16x3": Job("instance_search"),
    "products.norms": Job("cluster_contrast", torch.bfloat16),
    "cluster_memory.losses": Job("set_contrast"),
    "cluster_memory.mean": Job("set_contrast"),
    "cluster_memory.gradient": Job("set_contrast"),
    "cluster_memory_update": Job("update_cluster_memory_-step"),
    "instance_memory.select": Job("instance_search"),
    "instance_memory.neighbors": Job("instance_search"),
    "index_sets": Job("index_sets"),
    **{f"knn.{row}": Job("knn") for row in ("products", "round", "narrow", "rescore", "order")},
    **{f"jaccard_encodings.{row}": Job("jaccard_graph") for row in ("reciprocal", "expand", "weights", "mean")},
    **{f"jaccard.{row}": Job("jaccard_graph") for row in ("rows", "pairs", "order")},
    "dbscan.pairs": Job("labels-visible"),
    "dbscan.roots": Job("labels-visible"),
    "centroids": Job("cluster-visible"),
    "augmentation": Job("augment-stage-two"),
    "augmentation.chains": Job("augment-stage-one"),
    "sinkhorn.rows": Job("sinkhorn"),
    "sinkhorn.columns": Job("sinkhorn"),
    **{f"batch_norm.{row}": Job("batch_norm_relu-bfloat16") for row in ("blocks", "merge", "tiles")},
    "pooling.half": Job("semantic_pool-bfloat16"),
    "pooling.single": Job("semantic_pool"),
    "pooling_attention.half": Job("semantic_pool-bfloat16"),
    "pooling_attention.single": Job("semantic_pool"),
    "pooling_backward.half": Job("semantic_pool-bfloat16"),
    "pooling_backward.single": Job("semantic_pool"),
}
CANDIDATES = {  # that single changes reach only by way of slower ones, if at all
    "knn.products": [
        dict(M=128, N=128, K=64, num_warps=4, num_stages=3),
        dict(M=128, N=256, K=64, num_warps=8, num_stages=3),
        dict(M=256, N=128, K=64, num_warps=8, num_stages=4),
    ],
    "jaccard_encodings.mean": [dict(ROWS=8, BLOCK=16, num_warps=1, num_stages=1)],
    "jaccard.pairs": [
        dict(COLUMNS=1, BLOCK=64, MANY=4, num_warps=1, num_stages=1),
        dict(COLUMNS=8, BLOCK=16, MANY=8, num_warps=1, num_stages=1),
    ],
}


class DeviceLost(Exception):
    """CUDA answers every call of this process with the error of an earlier one; a new process can go on."""


class Bench(Protocol):
    """Times entries of one row: by a GPU, or in tests by something that knows the answer."""

    def milliseconds(self, entry: Entry) -> float:
        """Time with ``entry``. Raises where the kernel does not compile or fit, or its outputs are wrong.

        Raises:
            DeviceLost: after an illegal access or the like, this process can use its GPU no more.
        """

    def predicted(self) -> dict[str, float]:
        """What :mod:`benchmarks.work` says of the case, or else ``bytes`` and ``flops`` that it cannot do without."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every row is tuned. 1: something is left, call again. 2: there is no GPU here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose name begins so, such as products or knn")
    parser.add_argument("--minutes", type=float, default=8.0, help="start nothing new after these")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/tune.json", help="what was measured")
    options = parser.parse_args(arguments)
    names = [name for name in JOBS if name.startswith(options.only)]
    if not names:
        parser.error(f"no row begins with {options.only!r}; rows are {', '.join(JOBS)}")
    if not torch.cuda.is_available():
        print(
            f"tune needs an NVIDIA GPU and a CUDA build of torch: torch {torch.__version__} sees no CUDA device. "
            "Nothing was measured and the table was not touched.",
            file=sys.stderr,
        )
        return 2
    major, minor = torch.cuda.get_device_capability()
    stamp = {"device": machine()["gpu"], "versions": versions(), "kernels": fingerprint(LAUNCH.parent)}
    deadline = time.monotonic() + 60 * options.minutes
    left = tune(names, 10 * major + minor, gpu_bench, LAUNCH, options.out, stamp, lambda: time.monotonic() > deadline)
    print(f"left: {', '.join(left)}; call again" if left else "every row is tuned")
    return 1 if left else 0


def tune(
    names: Sequence[str],
    capability: int,
    bench: Callable[[str], contextlib.AbstractContextManager[Bench]],
    source: Path,
    out: Path,
    stamp: Mapping,
    expired: Callable[[], bool],
) -> list[str]:
    """Tune the rows ``names`` and write the table in ``source`` after each; the names of what is left.

    Times of before count if they were measured under the same ``stamp``. An entry with which the process or its use of
    the GPU ended is not tried again.
    """
    from salcr.kernels import launch

    table = {name: {key: dict(entry) for key, entry in row.items()} for name, row in launch.TABLE.items()}
    state = read_json(out)
    if {key: state.get(key) for key in stamp} != dict(stamp):
        state = {**stamp, "times": {}}
    for place, name in enumerate(names):
        if expired():
            return list(names[place:])
        times = state["times"].setdefault(name, {})
        start = table[name][launch.nearest(table[name], capability)]
        try:
            with bench(name) as this:
                save = functools.partial(write_json, out, state)
                best = search(start, this, times, save, expired, CANDIDATES.get(name, ()))
                if best is None:
                    return list(names[place:])
                report(name, capability, start, best, times, this.predicted())
        except DeviceLost as error:
            print(f"{name}: {error}", flush=True)
            return list(names[place:])
        except Exception as error:  # of the case or of the entry there is: other rows can still be tuned
            print(f"{name}: left as it is, {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
            continue
        if best != start:
            table[name] = with_entry(table[name], capability, best, launch.SHARED_BYTES)
            launch.TABLE[name] = table[name]
            rewrite(source, table)
    return []


def search(
    start: Entry,
    bench: Bench,
    times: dict[str, float | str],
    save: Callable[[], None],
    expired: Callable[[], bool],
    candidates: Sequence[Entry] = (),
) -> Entry | None:
    """The fastest entry that single changes lead to from ``start`` or a candidate; None where time ran out before."""

    def known(entry: Entry) -> bool:
        return _key(entry) in times

    def measured(entry: Entry) -> float:
        if not known(entry):
            if entry != start:
                times[_key(entry)] = UNFINISHED
                save()
            try:
                times[_key(entry)] = bench.milliseconds(entry)
            except DeviceLost:
                raise
            except Exception as error:
                if entry == start:
                    raise
                times[_key(entry)] = f"{type(error).__name__}: {str(error)[:200]}"
            save()
        found = times[_key(entry)]
        return math.inf if isinstance(found, str) else found

    best = start
    while True:
        others = [*candidates, *alternatives(best)]
        for entry in (best, *others):
            if not known(entry) and expired():
                return None
            measured(entry)
        fastest = min(others, key=measured, default=best)
        if measured(fastest) > (1 - MARGIN) * measured(best):
            return best
        best = fastest


def alternatives(entry: Entry) -> Iterator[Entry]:
    """``entry`` with one number changed."""
    for name, value in entry.items():
        stages = name == "num_stages"
        least, most = STAGES if stages else (LEAST.get(name, 1), MOST.get(name, 16_384))
        for changed in (value - 1, value + 1) if stages else (value // 2, 2 * value):
            if least <= changed <= most:
                yield entry | {name: changed}


def with_entry(row: Mapping[int, Entry], capability: int, entry: Entry, known: Mapping[int, object]) -> dict:
    """``row`` with ``entry`` for ``capability`` alone: ``known`` architectures above it keep the entry they have."""
    from salcr.kernels.launch import nearest

    changed = dict(row)
    for other in sorted(key for key in known if key > capability):
        changed.setdefault(other, row[nearest(row, other)])
        break  # those further above follow this one
    return dict(sorted({**changed, capability: entry}.items()))


def rewrite(source: Path, table: Mapping[str, Mapping[int, Entry]]) -> None:
    """Replace the lines between the markers of ``source``; readers see the old file or the new one."""
    pattern = re.compile(r"(?<=^# table begins\n).*?(?=^# table ends$)", re.M | re.S)
    text, count = pattern.subn(lambda _: render(table), source.read_text())
    if count != 1:
        raise ValueError(f"{source} has {count} tables between markers, not one")
    write_atomically(source, text)


def render(table: Mapping[str, Mapping[int, Entry]]) -> str:
    """The table as source."""
    lines = ["TABLE = {"]
    for name, row in table.items():
        lines.append(f'    "{name}": {{')
        for capability, entry in row.items():
            lines.append(f"        {capability}: dict({', '.join(f'{key}={n}' for key, n in entry.items())}),")
        lines.append("    },")
    return "\n".join([*lines, "}", ""])


def report(
    name: str, capability: int, start: Entry, best: Entry, times: Mapping, predicted: Mapping[str, float]
) -> None:
    """Time before and after, and what was predicted beside the rate that was measured."""
    before, after = times[_key(start)], times[_key(best)]
    kinds = {"bytes": ("B", ""), "fetched": ("B", " from the cache"), "flops": ("FLOP", "")}
    rates = [
        f"{predicted[what] / 1e9:.3g} G{unit}{where} predicted, {predicted[what] / after / 1e9:.3g} T{unit}/s measured"
        for what, (unit, where) in kinds.items()
        if predicted.get(what)
    ]
    change = f"{before:.3f} -> {after:.3f} ms, {best}" if best != start else f"{after:.3f} ms, kept"
    print("; ".join([f"{name} sm_{capability}: {change} ({len(times)} tried)", *rates]), flush=True)


def fingerprint(folder: Path) -> str:
    """SHA-256 of the kernels without the table, which tuning changes."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        text = re.sub(r"^# table begins\n.*?^# table ends$", "", path.read_text(), flags=re.M | re.S)
        digest.update(path.name.encode() + b"\0" + text.encode() + b"\0")
    return digest.hexdigest()


@contextlib.contextmanager
def gpu_bench(name: str) -> Iterator[Bench]:
    """A row's case on the current GPU."""
    from benchmarks.registry import CASES

    job = JOBS[name]
    yield GpuBench(name, next(case for case in CASES if case.name == job.case), job.dtype)


class GpuBench:
    """See :class:`Bench`; by the clock from an idle device to an idle device."""

    def __init__(self, name: str, case, dtype: torch.dtype | None) -> None:
        from benchmarks.devices import Cuda

        self.name, self.case, self.device, self.dtype = name, case, Cuda(), dtype
        with _noticing_loss():
            self.inputs = self._inputs()
            self.expected = self._run()
            if dtype is None:
                reference = case.variants[next(iter(case.variants))]
                case.check(self.expected, reference(*self._inputs()))

    def milliseconds(self, entry: Entry) -> float:
        from salcr.kernels import launch

        row = launch.TABLE[self.name] | {launch.architecture(torch.device("cuda")): entry}
        with _noticing_loss(), mock.patch.dict(launch.TABLE, {self.name: row}):
            self.case.check(self._run(), self.expected)
            runs = [self.device.run(self.case.variants["triton"], self.inputs).seconds for _ in range(RUNS)]
        return 1000 * statistics.median(runs)

    def predicted(self) -> dict[str, float]:
        if kernels := work.of_case(self.case.name, *self.inputs):
            return work.together(kernels)._asdict()
        floors = {"bytes": self.case.floor_bytes, "flops": self.case.floor_flops}
        return {what: floor(*self.inputs) for what, floor in floors.items() if floor is not None}

    def _inputs(self) -> list:
        inputs = self.case.make_inputs("cuda", False)
        cast = self.dtype is not None
        return [x.to(self.dtype) if cast and torch.is_tensor(x) and x.is_floating_point() else x for x in inputs]

    def _run(self) -> object:
        """On inputs of its own, which a case may change."""
        return self.case.variants["triton"](*self._inputs())


@contextlib.contextmanager
def _noticing_loss() -> Iterator[None]:
    """Inside, an error after which the GPU does not answer either is DeviceLost."""
    try:
        yield
    except Exception as error:
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise DeviceLost(f"the GPU is lost to this process: {str(error).partition(chr(10))[0]}") from error
        raise


def _key(entry: Entry) -> str:
    return json.dumps(entry, sort_keys=True)


if __name__ == "__main__":
    sys.exit(main())
