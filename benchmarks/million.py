"""``python -m benchmarks.million``: exact search in an index of 1,000,000 features of 2048 in float16 on the disk.

Writes 4.1 GB and codes of 2.1 GB into a temporary folder (``TMPDIR``) and removes them. Searches of 32 queries take
turns: by the codes; in all features, as an index without codes is searched; and block by block, each converted to
float32, as one is searched where nothing compiled is there. All have to find what products of all features in float64
do. CPU seconds are those of all threads. Making the codes, and a search of either of the first two kinds, have to stay
below 500 MB of resident memory, mapped pages included.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.cases.knn import same_neighbours
from benchmarks.cases.retrieval import TOP, search_blocks, search_features, write_index
from benchmarks.memory import peak, reset_peak
from salcr.retrieval.codes import keep_codes
from salcr.retrieval.nearest import nearest
from salcr.retrieval.storage import Storage

LIMIT = 500_000_000  # bytes
BLOCK = 1000  # features that are converted at a time by the check


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.million", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="salcr-index-") as folder:
        storage, queries = write_index(Path(folder), options.rows, 2048)
        reset_peak()
        _, wall, cpu = timed(lambda: keep_codes(storage))
        peaks = {"making the codes": peak()}
        print(f"making the codes: {wall:.1f} s, {cpu:.1f} CPU s, peak {peak() / 1e6:.0f} MB", flush=True)
        forms = {"codes": nearest, "features": search_features, "blocks": search_blocks}
        times = measure(forms, storage, queries, options.rounds)
    for name, rounds in times.items():
        wall, cpu, most = zip(*rounds, strict=True)
        peaks[name] = max(most)
        seconds = f"{statistics.median(wall):.3f} s, {statistics.median(cpu):.3f} CPU s"
        print(f"{name}: {seconds}, peak {peaks[name] / 1e6:.0f} MB", flush=True)
    cpu = {name: statistics.median(x[1] for x in rounds) for name, rounds in times.items()}
    for name in ("features", "blocks"):
        print(f"CPU seconds of {name} over codes: {cpu[name] / cpu['codes']:.1f}")
    del peaks["blocks"]
    for name, most in peaks.items():
        if most > LIMIT:
            raise SystemExit(f"{name}: {most / 1e6:.0f} MB of resident memory, {LIMIT / 1e6:.0f} allowed")
    return 0


def measure(
    forms: dict[str, Callable], storage: Storage, queries: torch.Tensor, rounds: int
) -> dict[str, list[tuple[float, float, int]]]:
    """Of each form, interleaved: seconds by the clock, CPU seconds, and the peak of resident memory."""
    expected = by_products(storage, queries)
    times: dict[str, list[tuple[float, float, int]]] = {name: [] for name in forms}
    for _ in range(1 + rounds):  # the first also reads what the disk has
        for name, form in forms.items():
            reset_peak()
            found, wall, cpu = timed(lambda form=form: form(storage, queries, TOP))
            same_neighbours(found, expected)
            times[name].append((wall, cpu, peak()))
    return {name: found[1:] for name, found in times.items()}


def timed(function: Callable[[], Sequence[torch.Tensor]]) -> tuple[Sequence[torch.Tensor], float, float]:
    """Its result, seconds by the clock, and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = function()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def by_products(storage: Storage, queries: torch.Tensor) -> Sequence[torch.Tensor]:
    """The nearest by products of all features in float64."""
    queries, scores = F.normalize(queries.double(), dim=1), torch.empty(len(queries), storage.manifest.rows)
    for start in range(0, storage.manifest.rows, BLOCK):
        some = torch.from_numpy(storage.features(start, min(start + BLOCK, storage.manifest.rows))).double()
        scores[:, start : start + len(some)] = queries @ F.normalize(some, dim=1).T
    values, indices = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :TOP].clone(), indices[:, :TOP].clone()  # and let go of the rest


if __name__ == "__main__":
    raise SystemExit(main())
