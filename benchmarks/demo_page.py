"""What docs/demo.md says of the record of :mod:`benchmarks.demo_study`: nothing that is not in it."""

from collections.abc import Sequence
from math import sqrt
from statistics import mean, stdev

BEGIN, END = "<!-- tables: python -m benchmarks.demo_study -->", "<!-- end of tables -->"
PROTOCOL = "all-single"
METHOD = "SALCR"
STEPS = [
    ("FGSAL", "DAGI + FGSAL", "DAGI"),
    ("GPCR", METHOD, "DAGI + FGSAL"),
    ("bfloat16, as GPUs train by default", "SALCR in bfloat16", METHOD),
]


def tables(
    record: dict[str, dict], size: str, seeds: Sequence[int], rows: Sequence[str], controls: Sequence[str]
) -> str:
    """Headline, table of ``rows``, rounding, cross labels and origin of the study ``size``; what is missing is named.

    Args:
        record: runs by name, ``"SIZE: ROW, seed SEED"`` and, for rounding, the arithmetic in brackets behind it.
        size, seeds, rows, controls: of the study; the headline compares with the best of the ``controls``.
    """
    runs = {
        (row, seed): record[name] for row in rows for seed in seeds if (name := f"{size}: {row}, seed {seed}") in record
    }
    title = {"demo": "### The demo"}.get(size, f"### The {size} study (`--size {size}`)")
    if not runs:
        return f"{title}\n\nNo run of it is recorded yet.\n"
    figures = {key: run["figures"][PROTOCOL] for key, run in runs.items()}
    parts = [title, _headline(figures, seeds, controls), _rows(figures, seeds, rows)]
    parts += [_steps(figures, seeds, controls), _cross_labels(runs, seeds)]
    parts += [_rounding(record, size, figures), _baselines(runs, seeds)]
    parts += [_missing(runs, seeds, rows), _origin(runs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def gains(figures: dict, seeds: Sequence[int], controls: Sequence[str]) -> tuple[str, list[float]] | None:
    """The control of the highest mean mAP, and SALCR's gain over it, over the seeds that have SALCR and all controls.

    None where no seed has them all: which control is best is not known.
    """
    done = [seed for seed in seeds if all((row, seed) in figures for row in (METHOD, *controls))]
    if not done:
        return None
    best = max(controls, key=lambda control: mean(figures[control, seed]["mAP"] for seed in done))
    return best, [figures[METHOD, seed]["mAP"] - figures[best, seed]["mAP"] for seed in done]


def _headline(figures, seeds, controls) -> str:
    found = gains(figures, seeds, controls)
    if found is None:
        return "SALCR cannot be compared with the best control yet: runs are missing, see below."
    best, values = found
    return f"**SALCR against the best control (*{best}*): {_average(values)}"


def _average(values: list[float]) -> str:
    """The rest of a sentence in bold."""
    if len(values) < 2:
        return f"{values[0]:+.1f} mAP**, one seed."
    error, each = stdev(values) / sqrt(len(values)), ", ".join(f"{value:+.1f}" for value in values)
    average = f"{mean(values):+.1f} mAP on average over {len(values)} seeds"
    return f"{average}, standard error {error:.1f}** (seed by seed: {each})."


def _steps(figures, seeds, controls) -> str:
    """What a row gains over the one before it."""
    best = gains(figures, seeds, controls)
    lines = []
    for title, row, before in [("DAGI", "DAGI", best[0]), *STEPS] if best else STEPS:
        done = [seed for seed in seeds if (row, seed) in figures and (before, seed) in figures]
        if done:
            values = [figures[row, seed]["mAP"] - figures[before, seed]["mAP"] for seed in done]
            lines.append(f"- **{title}, over *{before}*: {_average(values)}")
    return "\n".join(["What each adds:", "", *lines]) if lines else ""


def _rows(figures, seeds, rows) -> str:
    lines = [
        f"mAP by seed, then mean ± standard deviation over the recorded seeds; protocol `{PROTOCOL}`, per cent.",
        "",
        f"| | {' | '.join(f'seed {seed}' for seed in seeds)} | mAP | rank-1 | mAP with CMFP at test |",
        "|---|" + "---|" * (len(seeds) + 3),
    ]
    for row in rows:
        found = [figures[row, seed] for seed in seeds if (row, seed) in figures]
        if found:
            cells = [f"{figures[row, seed]['mAP']:.1f}" if (row, seed) in figures else "–" for seed in seeds]
            spreads = [
                _spread([one["mAP"] for one in found]),
                _spread([one["rank-1"] for one in found]),
                _spread([one["cmfp"]["mAP"] for one in found]),
            ]
            lines.append(f"| {row} | {' | '.join(cells)} | {' | '.join(spreads)} |")
    return "\n".join(lines)


def _cross_labels(runs, seeds) -> str:
    found = [(seed, runs[METHOD, seed]["cross_accuracy"]) for seed in seeds if (METHOD, seed) in runs]
    if not found:
        return ""
    lines = [
        "Cross labels that are right by the hidden identities, SALCR, first → last epoch of stage two, per cent:",
        "",
        "| | " + " | ".join(f"seed {seed}" for seed, _ in found) + " |",
        "|---|" + "---|" * len(found),
    ]
    for way in found[0][1][0]:
        cells = [f"{100 * epochs[0][way]:.0f} → {100 * epochs[-1][way]:.0f}" for _, epochs in found]
        lines.append(f"| {way.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rounding(record, size, figures) -> str:
    """Runs of one seed that differ in rounding alone; the study's own run is one of them."""
    lines = []
    for row, seed in figures:
        name = f"{size}: {row}, seed {seed}"
        others = {key: run for key, run in record.items() if key.startswith(f"{name} (")}
        if not others:
            continue
        values = {run["arithmetic"]: run["figures"][PROTOCOL]["mAP"] for run in (record[name], *others.values())}
        cells = "; ".join(f"{arithmetic}: {value:.1f}" for arithmetic, value in values.items())
        spread = max(values.values()) - min(values.values())
        lines.append(f"- {row}, seed {seed}: {cells}. Largest difference {spread:.1f}.")
    text = "What rounding alone changes (the same seed with other vector instructions or threads), mAP:"
    return "\n".join([text, "", *lines]) if lines else ""


def _baselines(runs, seeds) -> str:
    found = [runs["untrained", seed]["baselines"] for seed in seeds if ("untrained", seed) in runs]
    if not found:
        return ""
    cells = ", ".join(
        f"{name.replace('_', ' ')} {min(one[name] for one in found):.1f}-{max(one[name] for one in found):.1f}"
        for name in found[0]
        if name != "chance"
    )
    return (
        "Rank-1 without a network, one gallery image an identity and camera, lowest and highest seed: "
        f"{cells}; chance {found[0]['chance']:.1f}."
    )


def _missing(runs, seeds, rows) -> str:
    gaps = {row: [str(seed) for seed in seeds if (row, seed) not in runs] for row in rows}
    gaps = {row: missing for row, missing in gaps.items() if missing}
    if not gaps:
        return ""
    return (
        "Not recorded yet: "
        + "; ".join(
            row if len(missing) == len(seeds) else f"{row} (seed{'s' * (len(missing) > 1)} {', '.join(missing)})"
            for row, missing in gaps.items()
        )
        + "."
    )


def _origin(runs) -> str:
    places = sorted({f"{run['machine']['cpu']}, {run['arithmetic']}" for run in runs.values()})
    versions = sorted(
        {f"Python {run['versions']['python']}, torch {run['versions']['torch']}" for run in runs.values()}
    )
    return f"Recorded with {'; '.join(versions)} on {'; '.join(places)}. The record says which commit each run is of."


def _spread(values: list[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"
