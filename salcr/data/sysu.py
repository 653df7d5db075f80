"""SYSU-MM01: six cameras, of which 3 and 6 are infrared; cameras 1 to 3 are indoors."""

from pathlib import Path

import numpy as np

from salcr.data._layout import check_filled, draw_trials, open_root, read_ids, scan_cameras
from salcr.data.plan import Layout, Plan, Shot, draw_identities, every_image, one_line
from salcr.data.records import Dataset, Protocol
from salcr.data.spec import DatasetSpec

VISIBLE_CAMS = (1, 2, 4, 5)
INFRARED_CAMS = (3, 6)
INDOOR_CAMS = (1, 2)
MULTI_SHOTS = 10
TRAIN_FILES = ("exp/train_id.txt", "exp/val_id.txt")
TEST_FILE = "exp/test_id.txt"
_FOLDERS = tuple((f"cam{cam}", cam, cam in INFRARED_CAMS) for cam in range(1, 7))


def load_sysu(root: str | Path) -> Dataset:
    """Load SYSU-MM01 from ``camN/PPPP/*.jpg`` and ``exp/{train,val,test}_id.txt``.

    Training uses the identities of ``train`` and ``val`` together. Every infrared test image is a query. Galleries are
    visible: of all cameras or the indoor ones, with one image (single-shot) or ten (multi-shot) per identity and
    camera. In trial t (0 to 9), after ``random.seed(t)``, they are drawn for ascending identities, then cameras:
    ``random.choice`` of the sorted file names, or ``random.sample`` of ten (all of them, undrawn, if fewer). Cameras
    whose folder is absent are left out; without both indoor ones there are no indoor protocols.

    Args:
        root: the folder that holds ``cam1`` and ``exp``.

    Returns:
        The data set, with the protocols ``all-single``, ``all-multi``, ``indoor-single`` and ``indoor-multi``, ten
        trials each.

    Raises:
        FileNotFoundError: ``root`` or a split file is missing.
        ValueError: a split file is malformed, or a split has no image of one modality.

    Source: docs/method.md, "SYSU-MM01"; Wu et al., 2017.
    """
    root = open_root(root)
    train_ids = sorted({identity for file in TRAIN_FILES for identity in read_ids(root / file)})
    train, other = scan_cameras(root, _FOLDERS, train_ids)
    test, left_out = scan_cameras(root, _FOLDERS, read_ids(root / TEST_FILE))
    check_filled(test.subset(test.infrared), "infrared test", root)
    check_filled(test.subset(~test.infrared), "visible test", root)
    searches = {"all": VISIBLE_CAMS, "indoor": INDOOR_CAMS}
    return Dataset(
        name=SYSU.name,
        root=root,
        train_visible=check_filled(train.subset(~train.infrared), "visible train", root),
        train_infrared=check_filled(train.subset(train.infrared), "infrared train", root),
        test=test,
        protocols=tuple(
            Protocol(f"{search}-{shot}", SYSU.rule, draw_trials(test, cams, infrared=False, shots=shots))
            for search, cams in searches.items()
            for shot, shots in (("single", 1), ("multi", MULTI_SHOTS))
            if np.isin(test.cams, cams).any()
        ),
        left_out=(*other, *left_out),
    )


def _plan(ids: int, images: int, test_ids: int, rng: np.random.Generator) -> Plan:
    """``camN/PPPP/NNNN.jpg``; a fifth of the training identities, at least one, are in ``val_id.txt``."""
    test, train = draw_identities(ids, test_ids, rng)
    held = max(1, len(train) // 5)
    parts = dict(zip((*TRAIN_FILES, TEST_FILE), (train[held:], train[:held], test), strict=True))
    shots = [
        Shot(f"cam{camera}/{identity:04d}/{image:04d}.jpg", identity, camera, image)
        for identity, camera, image in every_image(ids, _LAYOUT.cameras, images)
    ]
    return Plan(shots, {file: one_line(sorted(part)) for file, part in parts.items()})


_LAYOUT = Layout(
    cameras={cam: "infrared" if infrared else "visible" for _, cam, infrared in _FOLDERS},
    places={1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 6},
    plan=_plan,
)

SYSU = DatasetSpec(
    name="sysu",
    description="SYSU-MM01, six cameras, two of them infrared",
    load=load_sysu,
    rule="sysu",
    preset="sysu",
    identity_files={**dict.fromkeys(TRAIN_FILES, "train"), TEST_FILE: "test"},
    identities_are_joint=True,
    counts={
        "train identities": 395,
        "visible train images": 22_258,
        "infrared train images": 11_909,
        "test identities": 96,
        "infrared test images": 3_803,
        "gallery images of all-single": 301,
        "gallery images of indoor-single": 112,
    },
    layout=_LAYOUT,
)
