"""``python -m benchmarks.scaling``: ``salcr.cluster`` from 5,000 to 200,000 images (1,000,000 on request, for GPUs).

A row has the medians of three interleaved runs (one from 100,000 images on) of the bare matrix product of all pairs
(blocks of 1,024 rows), of the neighbour search, of everything after it and of the whole; the high-water mark of memory
beyond the features during the whole (resident memory on Linux, allocated memory on a GPU); what was found. CPU seconds
are those of all threads: on a busy machine they say more than the clock.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.cases import clustering
from benchmarks.features import pedestrians
from benchmarks.machine import commit, machine, versions
from benchmarks.memory import peak, reset_peak
from benchmarks.records import write_json
from salcr import ops

SIZES = (  # images, width of a feature: lower where the product of all pairs would take many minutes
    (5000, 2048),
    (11909, 2048),
    (22258, 2048),
    (50000, 256),
    (100000, 64),
    (200000, 64),
    (1000000, 256),
)
BACKENDS = {"cpu": "cpp", "cuda": "triton"}
MEMORY = {
    "cpu": (reset_peak, peak),
    "cuda": (torch.cuda.reset_peak_memory_stats, torch.cuda.max_memory_allocated),
}
ROUNDS, LARGE = 3, 100000  # from so many images on once


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a JSON record")
    parser.add_argument("--device", default="cpu", choices=tuple(BACKENDS))
    parser.add_argument("--largest", type=int, default=200000, help="leave larger numbers of images out")
    parser.add_argument("--hubs", action="store_true", help="images of which more than half are noise")
    options = parser.parse_args(arguments)
    made = clustering.HUBS if options.hubs else {}
    rows = []
    for count, width in SIZES:
        if count <= options.largest:
            rows.append(measure(pedestrians(count, width, **made).to(options.device)))
            print(rows[-1], flush=True)
    if options.out is not None:
        record = {"commit": commit(), "machine": machine(), "versions": versions(), "features": made, "rows": rows}
        write_json(options.out, record)
    return 0


def measure(features: torch.Tensor) -> dict:
    """Seconds by the clock and of all CPUs, megabytes, clusters and share of noise."""
    device = features.device.type
    impl = BACKENDS[device]
    search = partial(ops.knn, features, clustering.K1, impl=impl)
    reset, high_water = MEMORY[device]
    reset()
    before = high_water()
    labels = clustering.cluster(impl, features)
    row = {
        "images": len(features),
        "width": features.shape[1],
        "clusters": int(labels.max()) + 1,
        "noise": round(float((labels < 0).float().mean()), 4),
        "peak_mb": round((high_water() - before) / 1e6),
    }
    steps: dict[str, Callable] = {
        "gemm": partial(bare_product, features),
        "knn": search,
        "after": partial(clustering.cluster, impl, features, *search()),
        "cluster": partial(clustering.cluster, impl, features),
    }
    clock: dict[str, list[float]] = {name: [] for name in steps}
    used: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS if len(features) < LARGE else 1):
        for name, step in steps.items():
            start = time.perf_counter(), time.process_time()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            clock[name].append(time.perf_counter() - start[0])
            used[name].append(time.process_time() - start[1])
    for name in steps:
        row[f"{name}_s"] = round(statistics.median(clock[name]), 4)
        row[f"{name}_cpu_s"] = round(statistics.median(used[name]), 4)
    return row


def bare_product(features: torch.Tensor) -> None:
    block = features.new_empty(min(1024, len(features)), len(features))
    for rows in features.split(len(block)):
        torch.mm(rows, features.T, out=block[: len(rows)])


if __name__ == "__main__":
    sys.exit(main())
