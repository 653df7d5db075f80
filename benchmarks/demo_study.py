"""``python -m benchmarks.demo_study``: the demo with seeds 0, 1 and 2, and with modules left out; fills docs/demo.md.

Every run is ``salcr demo --seed SEED SETTINGS``. A run that is already recorded in ``benchmarks/results/demo.json`` is
taken from there unless ``--again`` is given.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks import ledger
from benchmarks.machine import commit, machine, versions

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "results" / "demo.json"
PAGE = ROOT / "docs" / "demo.md"
BEGIN, END = "<!-- tables: python -m benchmarks.demo_study -->", "<!-- end of tables -->"
SEEDS = (0, 1, 2)
SHORT = ("schedule.iterations=30", "schedule.milestones=[20]")
BOTH = (*SHORT, "schedule.stage_one_epochs=6", "schedule.stage_two_epochs=18")
VARIANTS = {
    "the demo": (),
    "DAGI + FGSAL + GPCR (SALCR)": BOTH,
    "DAGI + FGSAL": (*BOTH, "gpcr.enabled=false"),
    "DAGI": (*BOTH, "fgsal.enabled=false", "gpcr.enabled=false"),
    "stage one, as many epochs": (*SHORT, "schedule.stage_one_epochs=24", "schedule.stage_two_epochs=0"),
}
PROTOCOL = "all-single"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_study", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder for the runs")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS, help="of the runs to do; none: only the page")
    parser.add_argument("--again", action="store_true", help="run what is already recorded too")
    options = parser.parse_args(arguments)
    for variant, settings in VARIANTS.items():
        for seed in options.seeds:
            name = f"{variant}, seed {seed}"
            if options.again or name not in ledger.read(RECORD):
                done = run(options.out, variant, settings, seed)
                ledger.write(RECORD, ledger.read(RECORD) | {name: done})
    record = ledger.read(RECORD)
    if any(f"{variant}, seed {seed}" not in record for variant in VARIANTS for seed in SEEDS):
        return
    page = PAGE.read_text()
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n\n{tables(record)}\n{END}{tail}")


def run(out: Path, variant: str, settings: Sequence[str], seed: int) -> dict:
    """Train one variant; its figures, the pixel baselines of its data, and where and how it ran."""
    from salcr.data.synthetic import baseline_rank1
    from salcr.engine.demo import demo

    folder = out / f"{re.sub(r'[^A-Za-z]+', '_', variant)}_{seed}"
    start = time.perf_counter()
    summary = demo(folder, seed=seed, overrides=tuple(settings))
    seconds = time.perf_counter() - start
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "command": " ".join(["salcr demo", f"--seed {seed}", *settings]),
        "summary": summary,
        "cross_accuracy": last.get("cross_accuracy"),
        "baselines": baseline_rank1(folder / "data"),
        "seconds": round(seconds, 1),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def tables(record: dict[str, dict]) -> str:
    """The tables of the page from the records."""
    found = {(name.rpartition(", seed ")[0], int(name.rpartition(" ")[2])): run for name, run in record.items()}
    full = [found["the demo", seed] for seed in SEEDS]

    def figure(run: dict, stage: str, *keys: str) -> float:
        value = run["summary"][stage][PROTOCOL]
        for key in keys:
            value = value[key]
        return value

    lines = [
        f"Protocol `{PROTOCOL}`, held-out identities, per cent. First the demo itself, with three seeds:",
        "",
        "| seed | stage one rank-1 / mAP | SALCR rank-1 / mAP | gain in mAP | with CMFP at test | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for seed, one in zip(SEEDS, full, strict=True):
        first, last = figure(one, "stage_one", "mAP"), figure(one, "final", "mAP")
        lines.append(
            f"| {seed} | {figure(one, 'stage_one', 'rank-1'):.1f} / {first:.1f} "
            f"| {figure(one, 'final', 'rank-1'):.1f} / {last:.1f} | {last - first:+.1f} "
            f"| {figure(one, 'final', 'cmfp', 'rank-1'):.1f} / {figure(one, 'final', 'cmfp', 'mAP'):.1f} "
            f"| {one['seconds']:.0f} |"
        )
    lines += [
        "",
        "Ablation at half the steps (6 and 18 epochs of 30 iterations), rank-1 / mAP after the last epoch:",
        "",
        f"| modules | {' | '.join(f'seed {seed}' for seed in SEEDS)} | mean mAP |",
        f"|---|{'---|' * len(SEEDS)}---|",
    ]
    ablation = {v: [found[v, seed] for seed in SEEDS] for v in reversed(VARIANTS) if v != "the demo"}
    rows = [("stage one", ablation["DAGI"], "stage_one")]
    rows += [(variant, runs, "final") for variant, runs in ablation.items()]
    for title, runs, stage in rows:
        cells = [f"{figure(one, stage, 'rank-1'):.1f} / {figure(one, stage, 'mAP'):.1f}" for one in runs]
        average = mean(figure(one, stage, "mAP") for one in runs)
        lines.append(f"| {title} | {' | '.join(cells)} | {average:.1f} |")
    baselines = [one["baselines"] for one in full]
    lines += [
        "",
        "Cross-modality rank-1 without learning, same held-out people, one gallery image an identity and camera:",
        "",
        f"| method | {' | '.join(f'seed {seed}' for seed in SEEDS)} |",
        f"|---|{'---|' * len(SEEDS)}",
    ]
    for name in baselines[0]:
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(f'{one[name]:.1f}' for one in baselines)} |")
    commits = sorted({one["commit"] for one in record.values()})
    versions = ", ".join(f"{name} {version}" for name, version in full[0]["versions"].items() if version)
    ran_on = "{cpu}, {cores} cores, {threads} thread(s) a run, load {load}".format(**full[0]["machine"])
    lines += ["", f"Recorded with {versions} on {ran_on}.", ""]
    lines += [f"Commits: {', '.join(commits)} (`benchmarks/results/demo.json` says which run is of which).", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
