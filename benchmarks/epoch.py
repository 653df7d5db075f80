"""``python -m benchmarks.epoch``: seconds of an epoch of stage two at SYSU-MM01's size, by phase, without its images.

``salcr train`` with the data set's settings, on images drawn so simply that an untrained network finds clusters. Of
three epochs the first compiles, chooses algorithms and tries a CUDA graph, the second is traced, and the third counts.

    python -m benchmarks.epoch --out benchmarks/results/epoch.json
    python -m benchmarks.epoch --out benchmarks/results/epoch.json model.compile=false schedule.graph=off
    python -m benchmarks.epoch --quick    # small images and few steps: shows that it works, measures nothing
"""

import argparse
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import ROOT, commit, machine, versions
from benchmarks.records import read_json, write_json
from benchmarks.report import epoch_table
from salcr.data.sysu import SYSU
from salcr.engine.profiling import ON_DEVICE, PHASE, STEP, rows

SIDES = "visible", "infrared"
COUNTS, IDENTITIES = tuple(SYSU.counts[f"{side} train images"] for side in SIDES), SYSU.counts["train identities"]
QUICK_COUNTS, QUICK_IDENTITIES = (72, 48), 6
EPOCHS, TRACED = 3, 1
SETTINGS = "data.name=folder", "schedule.stage_one_epochs=0", f"schedule.stage_two_epochs={EPOCHS}"
QUICK = (
    *("model.architecture=tiny", "data.height=96", "data.width=48", "schedule.iterations=4", "schedule.identities=3"),
    *("schedule.images=4", "clustering.k1=10", "dagi.k=8", "gpcr.k=8"),
)
BLOCKS, PIXELS = (12, 6), 8  # that a person is drawn of, and of a block's side
OTHERS = "network, PyTorch's own"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epoch", description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="over those of SYSU-MM01")
    parser.add_argument("--out", type=Path, help="JSON file to add the record to, under its settings")
    parser.add_argument("--images", type=Path, help="folder that keeps the images for other calls")
    parser.add_argument("--quick", action="store_true", help="small sizes, which are not written")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="salcr-epoch-") as folder:
        images = (options.images or Path(folder) / "images") / ("small" if options.quick else "whole")
        draw(images, *((QUICK_COUNTS, QUICK_IDENTITIES) if options.quick else (COUNTS, IDENTITIES)))
        entry = measure(images, Path(folder) / "run", [*(QUICK if options.quick else ()), *options.settings])
    name = " ".join(options.settings)
    print(epoch_table({name: entry}))
    if options.out is not None and not options.quick:
        write_json(options.out, read_json(options.out) | {name: entry})
    return 0


def draw(folder: Path, counts: tuple[int, int], identities: int) -> None:
    """JPEG files of as many people of random blocks, an image of each in turn, unless ``folder`` has them."""
    from PIL import Image

    done, generator = folder / "done", np.random.default_rng(0)
    if done.exists():
        return
    for side, count in zip(SIDES, counts, strict=True):
        channels = 3 if side == "visible" else 1
        people = generator.integers(0, 256, (identities, *BLOCKS, channels), np.uint8)
        people = people.repeat(PIXELS, 1).repeat(PIXELS, 2).repeat(3 // channels, 3)
        for number in range(count):
            identity = number % identities
            pixels = people[identity] * generator.uniform(0.8, 1.1) + generator.normal(0, 8, people.shape[1:])
            file = folder / side / f"{identity:04d}" / f"{number:05d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    done.touch()


def measure(images: Path, folder: Path, settings: Sequence[str]) -> dict:
    """Train on ``images`` in ``folder``; what the record says of that."""
    from salcr.engine import load_config, train
    from salcr.engine.run_folder import RunFolder

    config = load_config(preset=SYSU.preset, overrides=[*SETTINGS, f"data.root={images}", *settings])
    train(config, folder, profile=True)
    epoch = RunFolder(folder).read_metrics()[-1]
    trace = json.loads((folder / f"profile/epoch_{TRACED:04d}.json").read_bytes())["traceEvents"]
    entry = {"seconds": epoch["seconds"], "steps": config.schedule.iterations, **of_steps(trace)}
    entry |= {"clusters": [epoch[side]["clusters"] for side in SIDES]}
    return entry | {"commit": commit(), "machine": machine(), "versions": versions()}


def of_steps(events: Sequence[Mapping]) -> dict:
    """Of each step in a trace: milliseconds of the device by what they went to, kernels, and how often the host waits.

    ``waits_before`` are those of the epoch's phases before its steps.
    """
    steps = [event["ts"] for event in events if event.get("name") == PHASE + STEP and event["cat"] == "user_annotation"]
    families, found, kernels = kernel_families(), defaultdict[str, float](float), 0
    for event in events:
        if event.get("cat") in ON_DEVICE and event["ts"] >= min(steps):
            is_kernel = event["cat"] == "kernel"
            kernels += is_kernel
            found[family(event["name"], families) if is_kernel else "copies"] += event["dur"] / 1e3
    waits = {row.name: row.waits for row in rows(events)}
    return {
        "step_ms": {name: round(total / len(steps), 3) for name, total in found.items()},
        "kernels": kernels / len(steps),
        "waits": waits.pop(STEP) / len(steps),
        "waits_before": sum(waits.values()),
    }


def family(kernel: str, families: Mapping[str, str]) -> str:
    """What the kernel of this name belongs to."""
    return "optimiser" if "adam" in kernel.lower() else families.get(kernel, OTHERS)


def kernel_families() -> dict[str, str]:
    """The file below ``kernels`` of every Triton kernel."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "kernels").glob("*.py")):
        names = re.findall(r"^@triton\.jit[^\n]*\ndef (\w+)", path.read_text(), re.MULTILINE)
        found |= dict.fromkeys(names, path.stem)
    return found


if __name__ == "__main__":
    sys.exit(main())
