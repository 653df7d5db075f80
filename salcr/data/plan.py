"""What a synthetic copy of a data set holds before anything is rendered: cameras, images, split files."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Shot:
    """One image to render: its path, identity (from 1), camera (of :attr:`Layout.cameras`) and number (from 1)."""

    path: str
    identity: int
    camera: int
    image: int


@dataclass(frozen=True)
class Plan:
    """A whole data set: its images, and the content of its split files by path."""

    shots: list[Shot] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Layout:
    """How :func:`salcr.data.synthetic.write_dataset` lays a data set out.

    Attributes:
        cameras: modality (``"visible"`` or ``"infrared"``) of every camera by its number.
        places: the place every camera looks at; cameras of one place share their background.
        plan: images and split files from the number of identities (they count from 1), of images of an identity by a
            camera, of identities for testing, and the generator that draws which those are.
    """

    cameras: Mapping[int, str]
    places: Mapping[int, int]
    plan: Callable[[int, int, int, np.random.Generator], Plan]


def draw_identities(ids: int, test_ids: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Identities for testing and for training, in random order."""
    order = (1 + rng.permutation(ids)).tolist()
    return order[:test_ids], order[test_ids:]


def every_image(ids: int, cameras: Iterable[int], images: int) -> Iterator[tuple[int, int, int]]:
    """``(identity, camera, image)`` of all images, identities and images from 1."""
    for identity in range(1, ids + 1):
        for camera in cameras:
            for image in range(1, images + 1):
                yield identity, camera, image


def one_line(ids: Iterable[int]) -> str:
    """An identity file: one comma-separated line."""
    return ",".join(map(str, ids)) + "\n"


def labelled(shots: Iterable[Shot], ids: Iterable[int]) -> str:
    """An image list of the shots of ``ids``: lines ``path label``, labels from 0 in the order of ``ids``."""
    label = {identity: number for number, identity in enumerate(ids)}
    return "".join(f"{shot.path} {label[shot.identity]}\n" for shot in shots if shot.identity in label)
