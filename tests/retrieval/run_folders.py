"""Run folders as training leaves them, made up: their files without any training."""

import json
import math
from pathlib import Path

FIGURES = {"rank-1": 30.0, "rank-5": 50.0, "rank-10": 60.5, "rank-20": 80.0, "mAP": 25.25, "mINP": 10.0}


def figures(mean_precision: float) -> dict:
    return FIGURES | {"mAP": mean_precision, "cmfp": FIGURES | {"mAP": mean_precision + 10}}


def record(epoch: int, stage_one: int = 2, *, every: int = 2) -> dict:
    """A line of ``metrics.jsonl``: evaluated after each ``every``-th epoch."""
    stage = 1 if epoch < stage_one else 2
    terms = ("visible", "augmented", "infrared") if stage == 1 else ("global", "parts", "global_instance")
    labels = {"clusters": 50 + epoch, "noise": 0.01 * epoch % 1, "ari": 0.5, "nmi": 0.75}
    found = {"epoch": epoch, "stage": stage, "lr": 0.1**stage, "loss": dict.fromkeys(terms, 5 / (epoch + 1))}
    found |= {"visible": labels, "infrared": labels, "seconds": {"features": 36.0, "steps": 324.0}}
    if stage == 2:
        found["cross_accuracy"] = {"visible_to_infrared": 0.5, "infrared_to_visible": 0.625}
    if (epoch + 1) % every == 0:
        found["evaluation"] = {"all-single": figures(20 + 5 * math.sin(epoch)), "indoor-single": figures(30 + epoch)}
    return found


def write_run(folder: Path, epochs: int = 4, *, finished: bool = True, settings: str = "seed: 0\n") -> Path:
    """``config.yaml``, ``metrics.jsonl`` and, of a finished run, ``summary.json``."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(settings)
    lines = [json.dumps(record(epoch, epochs // 2)) + "\n" for epoch in range(epochs)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    if finished:
        summary = {"stage_one": {"all-single": figures(20.0)}, "final": {"all-single": figures(40.0)}}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder
