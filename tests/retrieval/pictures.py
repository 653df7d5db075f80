"""Small pictures of both modalities, in no particular layout."""

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH, PEOPLE = 32, 16, 6


def write_pictures(root: Path) -> Path:
    """A visible and an infrared picture of each of several striped people, lit from a side, two folders deep."""
    light = np.linspace(0.5, 1, WIDTH)[:, None]
    for person in range(PEOPLE):
        rng = np.random.default_rng(person)
        stripes = 0.4 + 0.6 * (np.arange(HEIGHT) // (person + 2) % 2)[:, None, None]
        for name, colour in (("day", rng.uniform(0, 1, 3) * (1, 0.2, 0.6)), ("night", np.full(3, rng.uniform(0.3, 1)))):
            pixels = (255 * stripes * light * colour).clip(0, 255).astype(np.uint8)
            path = root / name / f"p{person}" / "a.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root
