"""Your own images: a folder a modality, with identities and a query/gallery split where you have them.

Training images, at any depth (endings: :data:`salcr.data._images.SUFFIXES`)::

    ROOT/visible/…
    ROOT/infrared/…

Test images, if retrieval is to be evaluated; one of the two lines or both::

    ROOT/query/visible/7/…     ROOT/gallery/infrared/7/…
    ROOT/query/infrared/7/…    ROOT/gallery/visible/7/…

**Identity**: the folder right below ``visible`` or ``infrared`` is one if its name is a whole number (``7`` and
``0007`` are the same person, in every part). All other images have none, whatever folders they are in. Training never
reads identities; known ones only add to the log how well the clusters agree with them. A query must have one; a
gallery image without is nobody's match.

**Camera**: ``camN`` or ``cN`` as a whole part of a folder's or a file's name (``cam3/x.jpg``, ``0007_c03_12.jpg``),
else 0. Evaluation does not need cameras: every gallery image counts.
"""

import re
from pathlib import Path

import numpy as np

from salcr.data._layout import check_filled, files_below, is_image, open_root, records
from salcr.data.plan import Layout, Plan, Shot, draw_identities, every_image
from salcr.data.records import NO_IDENTITY, Dataset, Protocol, Records, Trial
from salcr.data.regdb import REGDB
from salcr.data.spec import DatasetSpec

MODALITIES = ("visible", "infrared")
QUERY, GALLERY = "query", "gallery"
_IDENTITY = re.compile(r"[0-9]{1,18}")
_CAMERA = re.compile(r"(?:^|[/_-])c(?:am)?([0-9]{1,9})(?=[/_.-])", re.IGNORECASE)


def load_folder(root: str | Path) -> Dataset:
    """Load your own images; the layout is described in :mod:`salcr.data.folder`.

    Args:
        root: the folder that holds ``visible`` and ``infrared``, ``query`` and ``gallery``, or all four.

    Returns:
        The data set. Its protocols are those of ``visible-to-infrared`` and ``infrared-to-visible`` that have a query
        and a gallery, one trial each; none without the split. With a split alone there are no training images.

    Raises:
        FileNotFoundError: ``root`` is missing.
        ValueError: no training image of one modality, ``query`` without ``gallery`` or the reverse, a split in which no
            query has a gallery of the other modality, or a query without an identity.
    """
    root = open_root(root)
    (train, query, gallery), left_out = zip(*(_scan(root, part) for part in ("", QUERY, GALLERY)), strict=True)
    test, protocols = _read_split(root, query, gallery)
    visible, infrared = sides = [train.subset(train.infrared == (side == "infrared")) for side in MODALITIES]
    if len(train) or not protocols:
        for modality, side in zip(MODALITIES, sides, strict=True):
            check_filled(side, f"{modality} train", root / modality)
    return Dataset(FOLDER.name, root, visible, infrared, test, protocols, left_out=sum(left_out, ()))


def _read_split(root: Path, query: Records, gallery: Records) -> tuple[Records, tuple[Protocol, ...]]:
    """The test images and the directions that can be evaluated."""
    parts = {QUERY: query, GALLERY: gallery}
    absent = [part for part in parts if not (root / part).is_dir()]
    if len(absent) == 1:
        raise ValueError(f"no {absent[0]} folder in {root}: a split is {QUERY} and {GALLERY} (or neither)")
    for path, identity in zip(query.paths, query.ids, strict=True):
        if identity == NO_IDENTITY:
            raise ValueError(
                f"{root / path} has no identity: a query lies in a folder named by a number, as {QUERY}/visible/7"
            )
    columns = ("ids", "cams", "infrared")
    test = Records(
        root,
        query.paths + gallery.paths,
        *(np.concatenate([getattr(part, column) for part in parts.values()]) for column in columns),
    )
    protocols = []
    for asked, searched in (MODALITIES, MODALITIES[::-1]):
        rows = np.flatnonzero(query.infrared == (asked == "infrared"))
        found = np.flatnonzero(gallery.infrared == (searched == "infrared"))
        if len(rows) and len(found):
            protocols.append(Protocol(f"{asked}-to-{searched}", FOLDER.rule, (Trial(rows, len(query) + found),)))
    if not absent and not protocols:
        raise ValueError(
            f"the split in {root} cannot be evaluated: it needs images in {QUERY}/visible and {GALLERY}/infrared, "
            f"or in {QUERY}/infrared and {GALLERY}/visible"
        )
    return test, tuple(protocols)


def _scan(root: Path, part: str) -> tuple[Records, tuple[str, ...]]:
    """All images of a part (``""`` for training), visible ones first, by path; and what else lies there."""
    rows, left_out = [], []
    for modality in MODALITIES:
        below = str(root / part / modality)
        for path in sorted(path.removeprefix(f"{below}/") for path in files_below(below)):
            place = f"{part}/{modality}/{path}" if part else f"{modality}/{path}"
            if not is_image(path):
                left_out.append(place)
                continue
            folder, _, rest = path.partition("/")
            known = rest and _IDENTITY.fullmatch(folder)
            camera = _CAMERA.search(path)
            identity = int(folder) if known else NO_IDENTITY
            rows.append((place, identity, int(camera[1]) if camera else 0, modality == "infrared"))
    return records(root, rows), tuple(left_out)


def _plan(ids: int, images: int, test_ids: int, rng: np.random.Generator) -> Plan:
    """Test identities are asked for by the first camera of each modality and searched for in the second."""
    test = set(draw_identities(ids, test_ids, rng)[0])
    shots = []
    for identity, camera, image in every_image(ids, _CAMERAS, images):
        part = "" if identity not in test else f"{QUERY}/" if camera in _QUERY_CAMERAS else f"{GALLERY}/"
        name = f"{identity:04d}_c{camera}_{image:04d}.jpg"
        shots.append(Shot(f"{part}{_CAMERAS[camera]}/{identity:04d}/{name}", identity, camera, image))
    return Plan(shots)


_CAMERAS = {1: "visible", 2: "visible", 3: "infrared", 4: "infrared"}
_QUERY_CAMERAS = (1, 3)

FOLDER = DatasetSpec(
    name="folder",
    description="your own images in ROOT/{visible,infrared}, with or without identities",
    load=load_folder,
    rule=REGDB.rule,  # every gallery image counts, whatever its camera
    preset="folder",
    identities_are_paired=False,
    identities_are_joint=True,
    layout=Layout(cameras=_CAMERAS, places={1: 1, 2: 2, 3: 1, 4: 2}, plan=_plan),
)
