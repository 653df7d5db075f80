"""The demo: rendered pedestrians, both stages, and a table of what each of them adds."""

from pathlib import Path
from typing import Any

import torch

from salcr import distributed
from salcr.data.synthetic import write_dataset
from salcr.engine import best
from salcr.engine.config import Config, load_config
from salcr.engine.evaluation import evaluate
from salcr.engine.images import counting, open_dataset
from salcr.engine.network import build_network, configured_backend
from salcr.engine.run_folder import RunFolder
from salcr.engine.trainer import train
from salcr.models.features import pick_device

PEOPLE = dict(ids=96, test_ids=48, images_per_camera=6)
STAGES = {"untrained": "untrained", "stage_one": "stage one", "final": "SALCR"}


def demo(out: Path, *, seed: int = 0, overrides: tuple[str, ...] = (), resume: bool = False) -> dict[str, Any]:
    """Render a data set in the layout of the ``demo`` preset (once), train on it, return the summary.

    Args:
        out: run folder; the images go to ``out/data_SEED``.
        seed: of the rendered people and of the training.
        overrides: ``key.sub=value``, over the preset.
        resume: go on with an interrupted demo.

    Returns:
        The summary of :func:`salcr.engine.train` and, as ``untrained``, the same figures of the network it starts from;
        ``summary.json`` holds all three.
    """
    asked = [f"seed={seed}", *overrides]
    people = load_config(preset="demo", overrides=asked).seed
    root = out / f"data_{people}"  # a killed demo of another seed may have left its own
    config = load_config(preset="demo", overrides=[f"data.root={root}", *asked])
    distributed.on_first(lambda: render(root, config, PEOPLE))
    summary = train(config, out, resume=resume)
    summary = {"untrained": evaluate_start(config), **summary}
    distributed.on_first(lambda: RunFolder(out).write_summary(summary))
    return summary


def render(root: Path, config: Config, people: dict[str, int]) -> None:
    """Write the images of ``config``'s seed to ``root`` unless they are there; ``people`` as for ``write_dataset``."""
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        with counting("rendering images") as progress:
            write_dataset(config.data.name, root, **people, seed=config.seed, progress=progress)


def evaluate_start(config: Config) -> dict[str, Any]:
    """Figures, by protocol, of the network that a run of ``config`` starts from."""
    device, dataset = pick_device(config.device), open_dataset(config)
    network = build_network(config.model, torch.Generator().manual_seed(config.seed))
    with configured_backend(config):
        return evaluate(network.to(device, memory_format=torch.channels_last), dataset, config, device)


def summary_table(summary: dict[str, Any]) -> str:
    """The stages below each other, rows by protocol: rank-1, mAP and mINP raw, rank-1 and mAP with CMFP, in per cent.

    A run of stage one alone has no rows for SALCR. The best checkpoint, where one was kept, is in a sentence below.
    Where the data set has no protocol one sentence says so.
    """
    if not summary["final"]:
        return "not evaluated: the data set has no query and gallery"
    stages = {stage: title for stage, title in STAGES.items() if stage in summary}
    if summary["final"] == summary["stage_one"]:
        del stages["final"]
    lines = [f"{'protocol':<24}{'stage':<12}{'rank-1':>8}{'mAP':>8}{'mINP':>8}{'CMFP rank-1':>14}{'CMFP mAP':>10}"]
    for protocol in summary["final"]:
        for stage, title in stages.items():
            raw = summary[stage][protocol]
            row = f"{protocol:<24}{title:<12}{raw['rank-1']:>8.2f}{raw['mAP']:>8.2f}{raw['mINP']:>8.2f}"
            if "cmfp" in raw:
                row += f"{raw['cmfp']['rank-1']:>14.2f}{raw['cmfp']['mAP']:>10.2f}"
            lines.append(row)
    if best.MARK in summary:
        lines.append(f"the best checkpoint was {best.describe(summary[best.MARK])}")
    return "\n".join(lines)


def cross_label_line(folder: Path) -> str:
    """Per cent of the last epoch's cross labels that are right by the hidden identities; empty if there were none."""
    run = RunFolder(folder)
    shares = next((r["cross_accuracy"] for r in reversed(run.read_metrics()) if "cross_accuracy" in r), None)
    if shares is None:
        return ""
    found = ", ".join(f"{name.replace('_', ' ')} {100 * share:.1f}" for name, share in shares.items())
    return f"cross-label accuracy ({load_config(file=run.config).dagi.association}): {found}"
