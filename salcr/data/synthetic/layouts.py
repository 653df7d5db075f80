"""Where the images of a synthetic data set lie, and its split files: the published layouts of SPEC 6.

- ``sysu``: ``camN/PPPP/NNNN.jpg``, ``exp/{train,val,test}_id.txt`` (one comma-separated line; a fifth of the training
  identities, at least one, are in ``val_id.txt``). Cameras 2 and 3 look at the same place.
- ``regdb``: ``Visible/P/v_NNNNN_P.jpg`` and ``Thermal/P/t_NNNNN_P.jpg``; ten trials of
  ``idx/{train,test}_{visible,thermal}_{1..10}.txt`` with lines ``path label``; every trial draws its own split, labels
  count from 0 within it. The cameras are 1 (visible) and 2 (thermal).
- ``llcm``: training images ``vis/PPPP/NAME`` and ``nir/PPPP/NAME`` listed in ``idx/train_vis.txt`` and
  ``idx/train_nir.txt`` with lines ``path label``, labels from 0; test images ``test_vis/camN/PPPP/NAME`` and
  ``test_nir/camN/PPPP/NAME`` of the identities in ``idx/test_id.txt`` (one comma-separated line). NAME is
  ``PPPP_cCC_sSSSSSS_fFFFF_vis.jpg`` (or ``_nir``): identity, camera, sequence, frame; what
  ``re.match(r"(\\d+)_c(\\d+)_s(\\d+)_f(\\d+)_(vis|nir)", NAME)`` finds. Infrared camera 3 does not exist.

P, PPPP is the identity, counted from 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

CAMERAS = {
    "sysu": {1: "visible", 2: "visible", 3: "infrared", 4: "visible", 5: "visible", 6: "infrared"},
    "regdb": {1: "visible", 2: "infrared"},
    "llcm": {**dict.fromkeys(range(1, 10), "visible"), **{10 + n: "infrared" for n in (1, 2, 4, 5, 6, 7, 8, 9)}},
}
"""Modality of every camera; in ``llcm`` infrared camera N has the number 10 + N here and N on disk."""

PLACES = {
    "sysu": {1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 6},
    "regdb": {1: 1, 2: 1},
    "llcm": {number: number % 10 for number in CAMERAS["llcm"]},
}
"""The place every camera looks at."""

REGDB_TRIALS = 10


@dataclass(frozen=True)
class Shot:
    """One image to render: its path, identity (from 1), camera (of :data:`CAMERAS`) and number (from 1)."""

    path: str
    identity: int
    camera: int
    image: int


@dataclass(frozen=True)
class Plan:
    """A whole data set: its images, and the content of its split files by path."""

    shots: list[Shot] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)


def plan(layout: str, *, ids: int, images_per_camera: int, test_ids: int, rng: np.random.Generator) -> Plan:
    """List images and split files of a layout; ``rng`` draws which identities are for testing."""
    return _PLANS[layout](ids, images_per_camera, test_ids, rng)


def _sysu(ids: int, images: int, test_ids: int, rng: np.random.Generator) -> Plan:
    test, train = _split(ids, test_ids, rng)
    held = max(1, len(train) // 5)
    val, train = sorted(train[:held]), sorted(train[held:])
    shots = [
        Shot(f"cam{camera}/{person:04d}/{image:04d}.jpg", person, camera, image)
        for person, camera, image in _every("sysu", range(1, ids + 1), images)
    ]
    return Plan(shots, {f"exp/{name}_id.txt": _one_line(part) for name, part in
                        (("train", train), ("val", val), ("test", sorted(test)))})  # fmt: skip


def _regdb(ids: int, images: int, test_ids: int, rng: np.random.Generator) -> Plan:
    folders = {1: ("Visible", "v"), 2: ("Thermal", "t")}
    shots = []
    for person, camera, image in _every("regdb", range(1, ids + 1), images):
        folder, letter = folders[camera]
        shots.append(Shot(f"{folder}/{person}/{letter}_{image:05d}_{person}.jpg", person, camera, image))
    splits = {}
    for trial in range(1, REGDB_TRIALS + 1):
        test, train = _split(ids, test_ids, rng)
        for name, part in (("train", sorted(train)), ("test", sorted(test))):
            for camera, modality in ((1, "visible"), (2, "thermal")):
                chosen = [shot for shot in shots if shot.camera == camera]
                splits[f"idx/{name}_{modality}_{trial}.txt"] = _labelled(chosen, part)
    return Plan(shots, splits)


def _llcm(ids: int, images: int, test_ids: int, rng: np.random.Generator) -> Plan:
    test, train = (sorted(part) for part in _split(ids, test_ids, rng))
    shots = []
    for person, camera, image in _every("llcm", range(1, ids + 1), images):
        kind, number = ("vis", camera) if camera < 10 else ("nir", camera - 10)
        folder = f"test_{kind}/cam{number}" if person in test else kind
        name = f"{person:04d}_c{number:02d}_s{person * 100 + camera:06d}_f{image:04d}_{kind}.jpg"
        shots.append(Shot(f"{folder}/{person:04d}/{name}", person, camera, image))
    splits = {"idx/test_id.txt": _one_line(test)}
    for kind in ("vis", "nir"):
        chosen = [shot for shot in shots if shot.path.startswith(f"{kind}/")]
        splits[f"idx/train_{kind}.txt"] = _labelled(chosen, train)
    return Plan(shots, splits)


_PLANS = {"sysu": _sysu, "regdb": _regdb, "llcm": _llcm}


def _split(ids: int, test_ids: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Identities for testing and for training, in random order."""
    order = (1 + rng.permutation(ids)).tolist()
    return order[:test_ids], order[test_ids:]


def _every(layout: str, people: range, images: int) -> Iterator[tuple[int, int, int]]:
    for person in people:
        for camera in CAMERAS[layout]:
            for image in range(1, images + 1):
                yield person, camera, image


def _one_line(people: list[int]) -> str:
    return ",".join(map(str, people)) + "\n"


def _labelled(shots: list[Shot], people: list[int]) -> str:
    label = {person: number for number, person in enumerate(people)}
    return "".join(f"{shot.path} {label[shot.identity]}\n" for shot in shots if shot.identity in label)
