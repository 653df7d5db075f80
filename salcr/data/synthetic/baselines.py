"""How far one gets on a SYSU-layout data set without learning: raw pixels and colour histograms."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from salcr.data.sysu import INFRARED_CAMS, TEST_FILE, VISIBLE_CAMS

GRAY_SIZE = (24, 48)
BINS = 8


def baseline_rank1(root: str | os.PathLike) -> dict[str, float]:
    """Rank-1 across modalities of two descriptors that need no training.

    Queries are all infrared test images; the gallery holds the first image of every test identity by every visible
    camera. Nothing is left out.

    - ``pixel_cosine``: the image at 48 × 24 in grey, its mean subtracted, compared by cosine;
    - ``raw_pixel_cosine``: the same without subtracting the mean;
    - ``histogram``: 8 bins of each channel for each of three stripes, compared by intersection.

    Args:
        root: a folder in SYSU-MM01's layout, rendered or the data set itself.

    Returns:
        The three rank-1 figures in per cent, and ``chance``: 100 / number of test identities.
    """
    root = Path(root)
    people = [int(n) for n in (root / TEST_FILE).read_text("utf-8").split(",") if n.strip()]
    queries, query_ids = _load(root, people, INFRARED_CAMS, None)
    gallery, gallery_ids = _load(root, people, VISIBLE_CAMS, 1)
    found = {}
    for name, descriptor in (("pixel_cosine", _pixels), ("raw_pixel_cosine", _raw_pixels)):
        similarity = _stack(queries, descriptor) @ _stack(gallery, descriptor).T
        found[name] = _rank1(similarity, query_ids, gallery_ids)
    shelf = _stack(gallery, _histogram)
    similarity = np.stack([np.minimum(row, shelf).sum(1) for row in _stack(queries, _histogram)])
    found["histogram"] = _rank1(similarity, query_ids, gallery_ids)
    return {**found, "chance": 100 / len(people)}


def _load(root: Path, people: list[int], cameras: tuple[int, ...], limit: int | None):
    images, ids = [], []
    for person in people:
        for camera in cameras:
            for path in sorted((root / f"cam{camera}" / f"{person:04d}").glob("*.jpg"))[:limit]:
                with Image.open(path) as image:
                    images.append(image.convert("RGB"))
                ids.append(person)
    return images, np.array(ids)


def _stack(images: list[Image.Image], descriptor) -> np.ndarray:
    return np.stack([descriptor(image) for image in images])


def _raw_pixels(image: Image.Image) -> np.ndarray:
    gray = np.asarray(image.convert("L").resize(GRAY_SIZE, Image.Resampling.BILINEAR), dtype=np.float64).ravel()
    return gray / np.linalg.norm(gray)


def _pixels(image: Image.Image) -> np.ndarray:
    gray = _raw_pixels(image)
    gray = gray - gray.mean()
    return gray / np.linalg.norm(gray)


def _histogram(image: Image.Image) -> np.ndarray:
    stripes = np.array_split(np.asarray(image), 3)
    counts = [
        np.bincount(stripe[..., c].ravel() // (256 // BINS), minlength=BINS) for stripe in stripes for c in range(3)
    ]
    return np.concatenate(counts) / sum(map(np.sum, counts))


def _rank1(similarity: np.ndarray, query_ids: np.ndarray, gallery_ids: np.ndarray) -> float:
    return 100 * float((gallery_ids[similarity.argmax(1)] == query_ids).mean())
