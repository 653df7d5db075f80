"""``python -m benchmarks.report``: the README's table and the pictures of docs/benchmarks.md, from the records alone.

``--check`` writes nothing and exits with 1 where the README does not say what the records say.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.summary import factor, speed_up, summarise

BEGIN, END = "<!-- generated: python -m benchmarks.report -->", "<!-- end of what is generated -->"
DEVICES = ("cuda", "cpu")


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the README is up to date")
    check = parser.parse_args(arguments).check
    records = read_records(root)
    readme, page = root / "README.md", root / "docs" / "benchmarks.md"
    text = readme.read_text()
    expected = _filled(text, tables(records))
    if check:
        if text != expected:
            print("README.md differs from benchmarks/results: run python -m benchmarks.report", file=sys.stderr)
        return int(text != expected)
    from benchmarks.plots import write_plots

    readme.write_text(expected)
    scaling = read_json(root, "scaling")
    names = write_plots(records, scaling, page.with_suffix(""))
    pictures = "\n".join(f"![{name}](benchmarks/{name})" for name in names)
    page.write_text(_filled(page.read_text(), pictures + ("" if scaling is None else scaling_table(scaling))))
    return 0


def _filled(text: str, content: str) -> str:
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{content}\n{END}{rest.partition(END)[2]}"


def read_records(root: Path) -> list[dict]:
    """The records that there are, a GPU's first."""
    found = (read_json(root, device) for device in DEVICES)
    return [record for record in found if record is not None]


def read_json(root: Path, name: str) -> dict | None:
    path = root / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def tables(records: Sequence[dict]) -> str:
    """A table for each record: whole phases, then operators."""
    return "\n".join(line for record in records for line in _table(record))


def scaling_table(scaling: dict) -> str:
    """Of benchmarks/scaling.py's record: seconds by the clock."""
    lines = [
        "\n\nClustering, seconds (the bare product of all pairs computes both halves of it, the search one):\n",
        "| images | width | bare product | neighbours | after them | `salcr.cluster` | memory beyond the features |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in scaling["rows"]:
        seconds = " | ".join(f"{row[f'{step}_s']:.3g}" for step in ("gemm", "knn", "after", "cluster"))
        lines.append(f"| {row['images']:,} | {row['width']} | {seconds} | {_megabytes(row['peak_mb'])} |")
    return "\n".join([*lines, ""])


def _table(record: dict) -> list[str]:
    machine, versions = record["machine"], record["versions"]
    place = machine["gpu"] if record["device"] == "cuda" else f"{machine['cpu']}, {machine['cores']} cores"
    busy = f", on a busy machine (load {machine['load']:g})" if machine["load"] > machine["cores"] else ""
    lines = [
        f"**{place}**: torch {versions['torch']}, {record['date'][:10]}, commit {record['commit'][:8]}{busy}.",
        "",
        "| | baseline | fastest other | salcr | faster | memory |",
        "|---|---|---|---|---|---|",
    ]
    for phase in (True, False):
        lines += [_row(n, case) for n, case in record["cases"].items() if case.get("phase", False) == phase]
    return [*lines, ""]


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


def milliseconds(value: float) -> str:
    """Three digits, in the unit that suits."""
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.3g} ms" if value >= 1 else f"{1000 * value:.3g} µs"


def _megabytes(value: float) -> str:
    if value < 1:
        return "< 1 MB"
    return f"{value / 1000:.3g} GB" if value >= 1000 else f"{value:.3g} MB"


if __name__ == "__main__":
    sys.exit(main())
