"""Pictures of the records: how much faster, how near to the ceilings, how much memory, how it grows with N."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks.summary import HEADLINE, factor, milliseconds, place, speed_up, summarise

BLUE, GREY, RED = "#1f6feb", "#9aa4af", "#d1495b"
HEADLINE_PICTURE = "headline.svg"  # of the newest record, a GPU's where there is one, for the README


def picture_names(records: Mapping[str, dict], scaling: dict) -> list[str]:
    """The pictures of docs/benchmarks.md."""
    return [name for name in _pictures(records, scaling) if name != HEADLINE_PICTURE]


def write_plots(records: Mapping[str, dict], scaling: dict, folder: Path) -> None:
    """All pictures as SVG files in ``folder``; the same records give the same bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    look = {"svg.hashsalt": "salcr", "svg.fonttype": "none", "font.size": 8, "axes.spines.top": False}
    with pyplot.rc_context({**look, "axes.spines.right": False}):
        for name, (draw, record) in _pictures(records, scaling).items():
            figure = draw(pyplot, record)
            figure.savefig(folder / name, metadata={"Date": None}, bbox_inches="tight")
            pyplot.close(figure)


def _pictures(records: Mapping[str, dict], scaling: dict) -> dict[str, tuple[Callable, dict]]:
    """Name of the file → what draws it, and the record it is drawn from."""
    found: dict[str, tuple[Callable, dict]] = {}
    if records:
        found[HEADLINE_PICTURE] = _headline, next(iter(records.values()))
    for name, record in records.items():
        for kind, draw in (("speedup", _speed_ups), ("memory", _memory), ("roofline", _roofline)):
            found[f"{kind}_{name}.svg"] = draw, record
    if scaling:
        found["scaling.svg"] = _scaling, scaling
    return found


def _headline(pyplot, record: dict):
    def label(name: str, ratio: float) -> str:
        found = summarise(record["cases"][name])
        times = (milliseconds(found[kind][1]["median_ms"]) for kind in ("baseline", "ours"))
        return f" {factor(ratio)}  ({' → '.join(times)})"

    return _bars(pyplot, record, [name for name in HEADLINE if name in record["cases"]], label)


def _speed_ups(pyplot, record: dict):
    return _bars(pyplot, record, record["cases"], lambda name, ratio: f" {factor(ratio)}")


def _bars(pyplot, record: dict, names: Iterable[str], label: Callable[[str, float], str]):
    found = {name: speed_up(record["cases"][name]) for name in names}
    found = {name: ratio for name, ratio in sorted(found.items(), key=lambda item: item[1] or 0) if ratio is not None}
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.22 * len(found)))
    bars = axes.barh(list(found), list(found.values()), color=BLUE)
    axes.bar_label(bars, [label(*item) for item in found.items()])
    axes.axvline(1, color=RED, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(left=min([1.0, *found.values()]))
    axes.set_xlabel(f"times faster than the baseline (as published, else plain PyTorch or SciPy); {place(record)}")
    return figure


def _memory(pyplot, record: dict):
    rows = []
    for name, case in record["cases"].items():
        found = summarise(case)
        pair = [found[kind] and found[kind][1].get("peak_mb") for kind in ("ours", "baseline")]
        if None not in pair:
            rows.append((name, *(max(value, 0.1) for value in pair)))
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.3 * len(rows)))
    for offset, column, colour, label in ((0.2, 2, GREY, "baseline"), (-0.2, 1, BLUE, "salcr")):
        axes.barh([n + offset for n in range(len(rows))], [row[column] for row in rows], 0.4, color=colour, label=label)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_xscale("log")
    axes.set_xlabel("peak of memory beyond the inputs, MB")
    axes.legend(frameon=False)
    return figure


def _roofline(pyplot, record: dict):
    """FLOP a second over FLOP a byte, counting only the FLOP and bytes that a case cannot do without."""
    ceilings = record["ceilings"]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    intensities = [10 ** (n / 10) for n in range(-10, 51)]
    for name, colour in (("float32_flop_s", GREY), ("tf32_flop_s", GREY), ("bfloat16_flop_s", RED)):
        if name in ceilings:
            roof = [min(x * ceilings["copy_bytes_s"], ceilings[name]) for x in intensities]
            axes.plot(intensities, roof, color=colour, linewidth=1, label=f"ceiling, {name.partition('_')[0]}")
    for name, case in record["cases"].items():
        if case.get("floor_bytes") and case.get("floor_flops"):
            x = case["floor_flops"] / case["floor_bytes"]
            for kind, colour in (("baseline", GREY), ("ours", BLUE)):
                pair = summarise(case)[kind]
                if pair is not None:
                    y = 1000 * case["floor_flops"] / pair[1]["median_ms"]
                    axes.plot(x, y, "o", color=colour)
                    if kind == "ours":
                        axes.annotate(f" {name}", (x, y), fontsize=6)
    axes.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="FLOP a second (grey: baseline, blue: salcr)")
    axes.legend(frameon=False)
    return figure


def _scaling(pyplot, scaling: dict):
    """Of benchmarks/scaling.py's record; the width of the features stands beside each size."""
    figure, (seconds, memory) = pyplot.subplots(1, 2, figsize=(7, 3))
    rows = scaling["rows"]
    images = [row["images"] for row in rows]
    for key, colour, label in (("after_s", BLUE, "after the neighbours"), ("cluster_s", GREY, "features to labels")):
        seconds.plot(images, [row[key] for row in rows], "o-", color=colour, label=label)
    memory.plot(images, [row["peak_mb"] for row in rows], "o-", color=BLUE)
    for axes, what in ((seconds, "seconds"), (memory, "MB beyond the features")):
        axes.set(xscale="log", yscale="log", xlabel="images", ylabel=what)
    for row in rows:
        seconds.annotate(f"D {row['width']}", (row["images"], row["cluster_s"]), fontsize=6)
    seconds.legend(frameon=False)
    return figure
