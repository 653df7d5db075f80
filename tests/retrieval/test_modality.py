import io

import numpy as np
import pytest
from PIL import Image

from salcr.data import load_dataset
from salcr.data.synthetic import write_dataset
from salcr.retrieval.modality import THRESHOLD, chroma, is_infrared


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Rendered pedestrians as JPEG files: ``{modality: [pixels]}``."""
    root = tmp_path_factory.mktemp("people") / "root"
    write_dataset("folder", root, ids=8, images_per_camera=1, seed=5)
    dataset = load_dataset("folder", root)
    tables = {False: dataset.train_visible, True: dataset.train_infrared}
    return {side: [np.asarray(Image.open(root / path)) for path in table.paths] for side, table in tables.items()}


def test_rendered_pedestrians_are_told_apart_with_room_to_spare(people):
    assert len(people[True]) > 5 and max(map(chroma, people[True])) < THRESHOLD / 2
    assert len(people[False]) > 5 and min(map(chroma, people[False])) > 2 * THRESHOLD


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("deviation", [4, 10])
def test_grey_photographs_with_the_colour_noise_of_a_jpeg_are_infrared(people, rng, deviation, quality):
    for pixels in people[False]:
        grey = pixels.mean(2, keepdims=True) + rng.normal(0, deviation, pixels.shape)
        file = io.BytesIO()
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
        noisy = np.asarray(Image.open(file))
        assert quality == 30 or np.ptp(noisy, axis=2).max() > 0
        assert is_infrared(noisy, "auto")


def test_the_rule_by_hand():
    pixels = np.full((19, 17, 3), 100, np.uint8)
    assert chroma(pixels) == 0
    pixels[16:], pixels[:, 16:] = (255, 0, 0), (255, 0, 0)  # beyond the last whole cell
    assert chroma(pixels) == 0
    pixels[:8, :8] = (130, 100, 90)
    assert chroma(pixels) == pytest.approx(np.percentile([40, 0, 0, 0], 90))
    pixels[:16:2, :16], pixels[1:16:2, :16] = (200, 0, 100), (0, 200, 100)  # which cancels out in every cell
    assert chroma(pixels) == 0
    assert chroma(np.full((3, 20, 3), (9, 0, 4), np.uint8)) == 9
    assert is_infrared(np.full((8, 8, 3), (THRESHOLD, 0, 4), np.uint8), "auto")


def test_what_is_said_counts(people):
    assert is_infrared(people[False][0], "infrared") and not is_infrared(people[True][0], "visible")
