"""What a record says in short: where it was made; of a case the baseline, the fastest backend, their ratio."""

from collections.abc import Sequence

OURS = ("auto", "cpp", "numba", "triton", "cuda")
BASELINES = ("published", "reference", "eager")  # the first that has a time
HEADLINE = (  # whole phases of training, then operators: the rows and the picture of the README
    "clustering_phase",
    "training_step",
    "labels-visible",
    "semantic_pool",
    "linear_assignment-uniform-2000x2000",
    "linear_assignment-family-uniform-30x1000",  # of the assignments the one that a rival beats most
    "evaluate_ranking-sysu",
)
BOUNDS = ("bare_products",)  # no solutions: part of the work alone, for its time


def summarise(case: dict) -> dict[str, tuple[str, dict] | None]:
    """Of the variants that have a time: ``baseline`` (the first of ``BASELINES``), ``ours`` (the fastest backend) and
    ``other`` (the fastest of everything else)."""
    timed = {name: result for name, result in case["variants"].items() if "median_ms" in result}

    def fastest(names: Sequence[str]) -> tuple[str, dict] | None:
        found = [(name, timed[name]) for name in names if name in timed]
        return min(found, key=lambda pair: pair[1]["median_ms"], default=None)

    baseline = next(((name, timed[name]) for name in BASELINES if name in timed), None)
    others = [name for name in timed if name not in (*OURS, *BOUNDS) and (baseline is None or name != baseline[0])]
    return {"baseline": baseline, "ours": fastest(OURS), "other": fastest(others)}


def speed_up(case: dict) -> float | None:
    """How many times faster than the baseline; None where one of both has no time."""
    found = summarise(case)
    if found["baseline"] is None or found["ours"] is None:
        return None
    return found["baseline"][1]["median_ms"] / found["ours"][1]["median_ms"]


def factor(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 100 else f"{ratio:.3g}×"


def milliseconds(value: float) -> str:
    """Three digits, in the unit that suits."""
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.3g} ms" if value >= 1 else f"{1000 * value:.3g} µs"


def place(record: dict) -> str:
    """The processor that was measured."""
    machine = record["machine"]
    return machine["gpu"] if record["device"] == "cuda" else f"{machine['cpu']}, {machine['cores']} cores"
