"""The demo: rendered pedestrians, both stages, and a table of what stage two adds."""

from pathlib import Path
from typing import Any

from salcr.data.synthetic import write_dataset
from salcr.engine.config import load_config
from salcr.engine.run_folder import RunFolder
from salcr.engine.trainer import train

IDENTITIES = 72
TEST_IDENTITIES = 24
IMAGES_PER_CAMERA = 6


def demo(out: Path, *, seed: int = 0, overrides: tuple[str, ...] = (), resume: bool = False) -> dict[str, Any]:
    """Render a data set in the layout of the ``demo`` preset (once), train on it, return the summary.

    Args:
        out: run folder; the images go to ``out/data``.
        seed: of the rendered people and of the training.
        overrides: ``key.sub=value``, over the preset.
        resume: go on with an interrupted demo.
    """
    root = out / "data"
    config = load_config(preset="demo", overrides=[f"seed={seed}", f"data.root={root}", *overrides])
    if not root.exists():
        out.mkdir(parents=True, exist_ok=True)
        counts = dict(ids=IDENTITIES, images_per_camera=IMAGES_PER_CAMERA, test_ids=TEST_IDENTITIES)
        write_dataset(config.data.name, root, **counts, seed=seed)
    return train(config, out, resume=resume)


def summary_table(summary: dict[str, Any]) -> str:
    """Stage one against SALCR, rows by protocol: rank-1, mAP and mINP raw, rank-1 and mAP with CMFP, in per cent.

    A run of stage one alone has no rows for SALCR. Where the data set has no protocol one sentence says so.
    """
    if not summary["final"]:
        return "not evaluated: the data set has no query and gallery"
    stages = [("stage_one", "stage one"), ("final", "SALCR")]
    if summary["final"] == summary["stage_one"]:
        stages.pop()
    lines = [f"{'protocol':<24}{'stage':<12}{'rank-1':>8}{'mAP':>8}{'mINP':>8}{'CMFP rank-1':>14}{'CMFP mAP':>10}"]
    for protocol in summary["final"]:
        for stage, title in stages:
            raw = summary[stage][protocol]
            row = f"{protocol:<24}{title:<12}{raw['rank-1']:>8.2f}{raw['mAP']:>8.2f}{raw['mINP']:>8.2f}"
            if "cmfp" in raw:
                row += f"{raw['cmfp']['rank-1']:>14.2f}{raw['cmfp']['mAP']:>10.2f}"
            lines.append(row)
    return "\n".join(lines)


def cross_label_line(folder: Path) -> str:
    """Per cent of the last epoch's cross labels that are right by the hidden identities; empty if there were none."""
    run = RunFolder(folder)
    shares = next((r["cross_accuracy"] for r in reversed(run.read_metrics()) if "cross_accuracy" in r), None)
    if shares is None:
        return ""
    found = ", ".join(f"{name.replace('_', ' ')} {100 * share:.1f}" for name, share in shares.items())
    return f"cross-label accuracy ({load_config(file=run.config).dagi.association}): {found}"
