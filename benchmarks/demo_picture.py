"""``python -m benchmarks.demo_picture``: ranked lists of a few queries, untrained, after stage one and after SALCR.

It reads the runs that ``python -m benchmarks.demo_study --only SALCR --seeds SEED`` has left and writes
docs/demo-ranks.png. The queries are not picked: they are the first infrared image of people at even distances in the
list of those held out.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.demo_study import STAGE_ONE, Study
from benchmarks.machine import ROOT

PICTURE = ROOT / "docs" / "demo-ranks.png"
QUERIES, SHOWN = 6, 5
WIDTH, HEIGHT, FRAME, GAP, HEAD = 40, 80, 3, 12, 20
RIGHT, WRONG, BLACK = "#2da44e", "#d1495b", "#1f2328"
PLACE_OF = {3: 2}  # infrared camera -> visible camera of the same place, which its queries ignore


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_picture", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the study's runs")
    options = parser.parse_args(arguments)
    sheet = draw(*ranked_lists(Study(options.out, "demo", options.seed)))
    sheet.quantize(256).save(PICTURE, optimize=True)


def ranked_lists(study: Study) -> tuple[list[Path], dict[str, list[list[tuple[Path, bool]]]]]:
    """The queries, and by stage the gallery images next to each of them and whether they show the same person."""
    from salcr.engine import load_config
    from salcr.engine.evaluation import cosine_distances, retrieval_features
    from salcr.engine.images import open_dataset
    from salcr.engine.network import build_network, load_network
    from salcr.models.features import pick_device

    config = load_config(preset="demo", overrides=[*study.settings("SALCR"), f"data.root={study.data}"])
    device, dataset = pick_device(config.device), open_dataset(config)
    last = {row: max((study.run_folder(row) / "checkpoints").glob("epoch_*.pt")) for row in (STAGE_ONE, "SALCR")}
    networks = {"untrained": build_network(config.model, torch.Generator().manual_seed(config.seed)).to(device)}
    networks |= {row: load_network(path, device)[0] for row, path in last.items()}
    test, trial = dataset.test, dataset.protocols[0].trials[0]
    people = np.unique(test.ids)[:: -(-len(np.unique(test.ids)) // QUERIES)]
    queries = [next(row for row in trial.query if test.ids[row] == person) for person in people]
    lists: dict[str, list[list[tuple[Path, bool]]]] = {}
    for stage, network in networks.items():
        features = retrieval_features(network, dataset, config, device)
        distances = cosine_distances(features[queries], features[trial.gallery], config.evaluation)
        lists[stage] = []
        for query, row in zip(queries, distances.cpu().numpy(), strict=True):
            ranked = trial.gallery[np.argsort(row, kind="stable")]
            ranked = ranked[test.cams[ranked] != PLACE_OF.get(int(test.cams[query]))][:SHOWN]
            lists[stage].append([(test.root / test.paths[i], bool(test.ids[i] == test.ids[query])) for i in ranked])
    return [test.root / test.paths[row] for row in queries], lists


def draw(queries: list[Path], lists: dict[str, list[list[tuple[Path, bool]]]]) -> Image.Image:
    """A row a query: its image, then the list of each stage, framed green where the person is the right one."""
    cell = (WIDTH + 2 * FRAME + 2, HEIGHT + 2 * FRAME + 2)
    starts = [cell[0] + GAP + n * (SHOWN * cell[0] + GAP) for n in range(len(lists))]
    sheet = Image.new("RGB", (starts[-1] + SHOWN * cell[0], HEAD + len(queries) * cell[1]), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    pen.text((0, 2), "query", BLACK, font)
    for start, (stage, ranked) in zip(starts, lists.items(), strict=True):
        pen.text((start, 2), stage, BLACK, font)
        for n, found in enumerate(ranked):
            for place, (path, right) in enumerate(found):
                _paste(sheet, path, (start + place * cell[0], HEAD + n * cell[1]), RIGHT if right else WRONG)
    for n, path in enumerate(queries):
        _paste(sheet, path, (0, HEAD + n * cell[1]), BLACK)
    return sheet


def _paste(sheet: Image.Image, path: Path, corner: tuple[int, int], colour: str) -> None:
    x, y = corner
    sheet.paste(colour, (x, y, x + WIDTH + 2 * FRAME, y + HEIGHT + 2 * FRAME))
    with Image.open(path) as image:
        sheet.paste(image.convert("RGB").resize((WIDTH, HEIGHT)), (x + FRAME, y + FRAME))


if __name__ == "__main__":
    sys.exit(main())
