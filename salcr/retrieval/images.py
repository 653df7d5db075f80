"""From files anywhere on the disk to features: found, decoded a batch ahead of the network, embedded."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from salcr.data._images import Progress, describe, map_images, read_resized
from salcr.data._layout import files_below, is_image
from salcr.models import SALCRNetwork
from salcr.models.features import extract_features
from salcr.retrieval.modality import is_infrared


class Batch(NamedTuple):
    """Decoded images, and the files among them that are none.

    Attributes:
        paths: of the images.
        pixels: uint8 ``[B, H, W, 3]``; B may be 0.
        infrared: ``[B]``, bool.
        bad: paths and what is wrong with each.
    """

    paths: list[str]
    pixels: np.ndarray
    infrared: np.ndarray
    bad: list[tuple[str, str]]


def find_images(places: Sequence[str | Path]) -> tuple[list[str], list[str]]:
    """Absolute paths of the images that ``places`` name, each once, and of the files among them that are none.

    A file is taken as it is; of a folder, files at any depth whose names end like an image's, in order. Nothing hidden.

    Raises:
        FileNotFoundError: there is no such place.
        ValueError: a folder is a link to one that it lies in.
    """
    found: dict[str, None] = {}
    others: dict[str, None] = {}
    for place in places:
        path = os.path.abspath(place)
        if not os.path.isdir(path):
            os.stat(path)
            found[path] = None
            continue
        for file in sorted(files_below(path)):
            (found if is_image(file) else others)[file] = None
    return list(found), [path for path in others if path not in found]


def decode_batches(
    paths: Sequence[str], *, height: int, width: int, modality: str, batch: int, progress: Progress | None = None
) -> Iterator[Batch]:
    """The images at ``paths`` in order, ``batch`` at a time; while one batch is used, the next is decoded."""

    def decode(path: Path) -> tuple[np.ndarray, bool]:
        pixels = read_resized(path, height, width)
        return pixels, is_infrared(pixels, modality)

    decoded = map_images(decode, Path(), paths, progress)

    def next_batch() -> Batch | None:
        some = list(islice(decoded, batch))
        if not some:
            return None
        good = [(path, *found) for path, found, error in some if error is None]
        pixels = np.stack([image for _, image, _ in good]) if good else np.empty((0, height, width, 3), np.uint8)
        infrared = np.array([side for *_, side in good], dtype=bool)
        bad = [(path, describe(error)) for path, _, error in some if error is not None]
        return Batch([path for path, *_ in good], pixels, infrared, bad)

    try:
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(next_batch)
            while (ready := coming.result()) is not None:
                coming = ahead.submit(next_batch)
                yield ready
    finally:
        decoded.close()


def embed(network: SALCRNetwork, images: Batch, device: torch.device) -> torch.Tensor:
    """Unit features ``[B, D]`` in float32 of a batch, each image through the stem of its modality.

    As in evaluation they are the mean of an image's and its mirror image's, normalised again.
    """
    features = torch.empty(len(images.pixels), network.width, dtype=torch.float32, device=device)
    for infrared in (False, True):
        rows = np.flatnonzero(images.infrared == infrared)
        if len(rows):
            features[torch.from_numpy(rows).to(device)] = extract_features(
                network, images.pixels[rows], infrared=infrared, batch=len(rows), device=device, mirror=True
            ).f
    return features
