"""A data set in SYSU-MM01's layout that takes no time to draw and can be clustered by an untrained network.

A person is two striped halves. Colour shows in the visible cameras only; the infrared ones see a grey of the person's
own for each half, with the same stripes.
"""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from salcr.models.resnet import ARCHITECTURES

TRAIN, VAL, TEST = range(1, 7), range(7, 9), range(9, 13)
CAMERAS, INFRARED = range(1, 7), (3, 6)
IMAGES, HEIGHT, WIDTH = 4, 48, 16


def write_tree(root: Path) -> Path:
    """12 identities x 6 cameras x 4 images below ``root``: 128 visible and 64 infrared training images."""
    rng = np.random.default_rng(0)
    (root / "exp").mkdir(parents=True)
    for name, ids in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        (root / f"exp/{name}_id.txt").write_text(",".join(map(str, ids)))
    for identity in (*TRAIN, *VAL, *TEST):
        colours, greys, periods = rng.uniform(0, 255, (2, 3)), rng.uniform(0, 255, (2, 1)), rng.integers(2, 8, 2)
        for cam in CAMERAS:
            folder = root / f"cam{cam}/{identity:04d}"
            folder.mkdir(parents=True)
            for number in range(1, IMAGES + 1):
                picture = _draw(greys if cam in INFRARED else colours, periods, rng)
                Image.fromarray(picture).save(folder / f"{number:04d}.png")
    return root


def _draw(halves: np.ndarray, periods: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows = np.arange(HEIGHT)
    half = rows // (HEIGHT // 2)
    stripes = 0.5 + 0.5 * ((rows + rng.integers(10)) // periods[half] % 2)
    picture = np.broadcast_to((halves[half] * stripes[:, None])[:, None], (HEIGHT, WIDTH, 3))
    picture = picture * rng.uniform(0.8, 1.1) + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
    return picture.clip(0, 255).astype(np.uint8)


def tiny(root: Path, *more: str) -> list[str]:
    """Overrides for a run of 2 + 2 epochs of 3 steps over such a tree, a second or two long; ``more`` win."""
    return [
        f"data.root={root}",
        f"data.height={HEIGHT}",
        f"data.width={WIDTH}",
        "device=cpu",
        "model.architecture=tiny",
        "clustering.k1=10",
        "clustering.k2=3",
        "clustering.min_samples=3",
        "schedule.stage_one_epochs=2",
        "schedule.stage_two_epochs=2",
        "schedule.iterations=3",
        "schedule.identities=4",
        "schedule.images=4",
        "schedule.milestones=[1, 3]",
        "augment.pad=2",
        "dagi.k=5",
        "gpcr.k=5",
        "evaluation.cmfp_k=4",
        *more,
    ]


def with_channels(channels: int) -> mock._patch_dict:
    """Within it the first stage of ``tiny`` has so many.

    With 8 in place of 32 a training takes half the time and writes a fifteenth.
    """
    return mock.patch.dict(ARCHITECTURES, tiny=replace(ARCHITECTURES["tiny"], channels=channels))
