"""What a run says of itself after every epoch: what it found, and how long it will still take."""

from collections.abc import Mapping, Sequence
from typing import Any

from salcr.engine.best import MARK
from salcr.engine.config import Schedule
from salcr.engine.session import stage_of

LATELY = 5  # epochs of a stage that tell how long one takes


def epoch_line(record: Mapping[str, Any]) -> str:
    """An epoch's record as a line of the log."""
    losses = " ".join(f"{name} {value:.3f}" for name, value in record["loss"].items())
    labels = ", ".join(
        f"{side} clusters {record[side]['clusters']}, noise {record[side]['noise']:.0%}"
        + (f", ARI {record[side]['ari']:.2f}" if "ari" in record[side] else "")
        for side in ("visible", "infrared")
    )
    found = [losses, labels]
    if "evaluation" in record:
        protocol, figures = next(iter(record["evaluation"].items()))
        found.append(f"{protocol} rank-1 {figures['rank-1']:.2f}, mAP {figures['mAP']:.2f}")
    if MARK in record:
        found.append(f"the best {record[MARK]['metric']} so far, chosen on test data")
    found.append(f"{sum(record['seconds'].values()):.1f} s")
    return f"epoch {record['epoch']} (stage {record['stage']}): {'; '.join(found)}"


def time_left(records: Sequence[Mapping[str, Any]], schedule: Schedule) -> str:
    """``about 1:02:03 left`` after the epochs of ``records``, by the last ones of each stage; empty after the last.

    While stage two has no epoch to go by, its epochs count as stage one's, which do less: ``at least …``.
    """
    from tqdm import tqdm

    rest = range(records[-1]["epoch"] + 1, schedule.epochs)
    if not rest:
        return ""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for record in records:
        if record.get("stage") in seconds and "seconds" in record:
            seconds[record["stage"]].append(sum(record["seconds"].values()))
    known = {stage: sum(found[-LATELY:]) / len(found[-LATELY:]) for stage, found in seconds.items() if found}
    stages = [stage_of(schedule, epoch) for epoch in rest]
    left = sum(known.get(stage, known.get(1, 0.0)) for stage in stages)
    return f"{'about' if set(stages) <= known.keys() else 'at least'} {tqdm.format_interval(left)} left"
