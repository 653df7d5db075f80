"""``python -m benchmarks.report``: what README and docs say of speed, and their pictures, from records alone.

``--check`` writes nothing, needs no matplotlib, and exits with 1 where a page does not say what the records say.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.plots import picture_names, write_plots
from benchmarks.records import read_json, read_record
from benchmarks.summary import HEADLINE, factor, milliseconds, place, speed_up, summarise

BEGIN, END = "<!-- generated: python -m benchmarks.report -->", "<!-- end of what is generated -->"
DEVICES = ("cuda", "cpu")
EPOCH = "An epoch of stage two at SYSU-MM01's size (`python -m benchmarks.epoch`)"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
    check = parser.parse_args(arguments).check
    try:
        records = read_records(root)
        scaling, epochs, groups = (read_json(_path(root, name)) for name in ("scaling", "epoch", "groups"))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    texts = {
        "README.md": tables(records, HEADLINE),
        "docs/benchmarks.md": results(records, scaling, epochs),
        "docs/distributed.md": groups_tables(groups),
    }
    stale = {name: text for name, text in texts.items() if (root / name).read_text() != _filled(root / name, text)}
    if check:
        for name in stale:
            print(f"{name} differs from benchmarks/results: run python -m benchmarks.report", file=sys.stderr)
        return int(bool(stale))
    for name, text in stale.items():
        (root / name).write_text(_filled(root / name, text))
    write_plots(records, scaling, root / "docs" / "benchmarks")
    return 0


def results(records: Mapping[str, dict], scaling: dict, epochs: dict[str, dict]) -> str:
    """Pictures and tables of everything that is recorded."""
    pictures = "\n".join(f"![{name}](benchmarks/{name})" for name in picture_names(records, scaling))
    found = [pictures, tables(records), *([scaling_table(scaling)] if scaling else [])]
    return "\n\n".join([*found, *([f"{EPOCH}:\n\n{epoch_table(epochs)}"] if epochs else [])])


def tables(records: Mapping[str, dict], names: Sequence[str] | None = None) -> str:
    """A table for each machine and version of PyTorch: the cases of these names, or whole phases and then operators."""
    alike: dict[str, list[dict]] = {}
    for record in records.values():
        if names is None or record["cases"].keys() & set(names):
            where = f"**{place(record)}**: torch {record['versions']['torch']}"
            alike.setdefault(where, []).append(record)
    return "\n\n".join(_table(where, some, names) for where, some in alike.items())


def read_records(root: Path) -> dict[str, dict]:
    """The records that there are, by name: a GPU's first, and of a device the newest.

    A record may have a part of the cases; of each case the newest stands.
    """
    found = {}
    for device in DEVICES:
        paths = (root / "benchmarks" / "results").glob(f"{device}*.json")
        of_device = {path.stem: read_record(path) for path in paths}
        newer: set[str] = set()
        for name, record in sorted(of_device.items(), key=lambda item: item[1]["date"], reverse=True):
            record["cases"] = {case: result for case, result in record["cases"].items() if case not in newer}
            newer |= record["cases"].keys()
            found |= {name: record} if record["cases"] else {}
    return found


def scaling_table(scaling: dict) -> str:
    """Of benchmarks/scaling.py's record: seconds by the clock."""
    lines = [
        "Clustering, seconds (the bare product of all pairs computes both halves of it, the search one):\n",
        "| images | width | bare product | neighbours | after them | `salcr.cluster` | memory beyond the features |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in scaling["rows"]:
        seconds = " | ".join(f"{row[f'{step}_s']:.3g}" for step in ("gemm", "knn", "after", "cluster"))
        lines.append(f"| {row['images']:,} | {row['width']} | {seconds} | {_megabytes(row['peak_mb'])} |")
    return "\n".join(lines)


def epoch_table(epochs: Mapping[str, dict]) -> str:
    """Of benchmarks/epoch.py's record: a column for each settings, an epoch's phases and then a step's work."""
    entries = list(epochs.values())
    titles = [f"{x['machine']['gpu'] or x['machine']['cpu']}: {name or 'as by default'}" for name, x in epochs.items()]
    clusters = (" and ".join(map(str, x["clusters"])) for x in entries)
    lines = [f"| | {' | '.join(titles)} |", "|---|" + "--:|" * len(entries), f"| clusters | {' | '.join(clusters)} |"]

    def add(title: str, values: Sequence[float | None], digits: int) -> None:
        cells = ("–" if value is None else f"{value:.{digits}f}" for value in values)
        lines.append(f"| {title} | {' | '.join(cells)} |")

    add("**an epoch, seconds**", [sum(x["seconds"].values()) for x in entries], 1)
    for phase in dict.fromkeys(phase for x in entries for phase in x["seconds"]):
        add(phase, [x["seconds"].get(phase) for x in entries], 2)
    add("**a step, milliseconds**", [1e3 * x["seconds"]["steps"] / x["steps"] for x in entries], 1)
    for kind in dict.fromkeys(kind for x in entries for kind in x["step_ms"]):
        add(f"on the device: {kind}", [x["step_ms"].get(kind) for x in entries], 2)
    add("kernels a step", [x["kernels"] for x in entries], 0)
    add("waits a step", [x["waits"] for x in entries], 2)
    add("waits before the steps", [x["waits_before"] for x in entries], 0)
    return "\n".join(lines)


def groups_tables(groups: dict[str, dict]) -> str:
    """Of benchmarks/groups.py's record: a table of each measurement, processes beside each other."""
    return "\n\n".join(_groups_table(name, found) for name, found in groups.items()) or "Nothing is recorded yet."


def _groups_table(name: str, found: dict) -> str:
    counts = [key for key in found if key.isdigit()]
    machine, commit = found["machine"], found["commit"] or "unknown"
    on = f"{machine['cpu']}, {machine['cores']} cores, commit {commit[:8]}{_busy(machine)}"
    lines = [
        f"`{name}`, {on}:",
        "",
        f"| | {' | '.join('1 process' if n == '1' else f'{n} processes' for n in counts)} |",
        f"|---|{'---|' * len(counts)}",
    ]
    rows = ((key.replace("_", " "), *(f"{found[n][key]:,.4g}" for n in counts)) for key in found[counts[0]])
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _busy(machine: dict) -> str:
    return f", on a busy machine (load {machine['load']:g})" if machine["load"] > machine["cores"] else ""


def _path(root: Path, name: str) -> Path:
    return root / "benchmarks" / "results" / f"{name}.json"


def _filled(page: Path, content: str) -> str:
    head, _, rest = page.read_text().partition(BEGIN)
    return f"{head}{BEGIN}\n\n{content}\n\n{END}{rest.partition(END)[2]}"


def _table(where: str, records: Sequence[dict], names: Sequence[str] | None) -> str:
    cases, made = {}, []
    for record in records:
        cases |= record["cases"]
        commit = (record["commit"] or "unknown")[:8]
        made.append(f"{record['date'][:10]}, commit {commit}{_busy(record['machine'])}")
    lines = [
        f"{where}, {'; '.join(made)}.",
        "",
        "| | baseline | fastest other | salcr | faster | memory |",
        "|---|---|---|---|---|---|",
    ]
    if names is None:
        names = sorted(cases, key=lambda name: not cases[name].get("phase", False))
    return "\n".join(lines + [_row(name, cases[name]) for name in names if name in cases])


def _row(name: str, case: dict) -> str:
    found = summarise(case)
    baseline, ours, ratio = found["baseline"], found["ours"], speed_up(case)
    memory = [pair and pair[1].get("peak_mb") for pair in (baseline, ours)]
    cells = [
        f"**{name}**" if case.get("phase", False) else f"`{name}`",
        *(_cell(found[kind]) for kind in ("baseline", "other", "ours")),
        "–" if ratio is None else factor(ratio),
        "–" if None in memory else f"{_megabytes(memory[0])} → {_megabytes(memory[1])}",
    ]
    cells[0] += f"<br><sub>{case['note']}</sub>"
    return f"| {' | '.join(cells)} |"


def _cell(pair: tuple[str, dict] | None) -> str:
    return "–" if pair is None else f"{milliseconds(pair[1]['median_ms'])} ({pair[0]})"


def _megabytes(value: float) -> str:
    if value < 1:
        return "< 1 MB"
    return f"{value / 1000:.3g} GB" if value >= 1000 else f"{value:.3g} MB"


if __name__ == "__main__":
    sys.exit(main())
