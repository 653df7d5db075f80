"""LLCM: nine cameras in low light, all of them visible and all but camera 3 also near-infrared."""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from salcr.data._layout import check_filled, draw_trials, open_root, read_ids, read_list, records, scan_cameras
from salcr.data.plan import Layout, Plan, Shot, draw_identities, every_image, labelled, one_line
from salcr.data.records import Dataset, Protocol, Records
from salcr.data.spec import DatasetSpec

VISIBLE_CAMS = tuple(range(1, 10))
INFRARED_CAMS = (1, 2, 4, 5, 6, 7, 8, 9)
TRAIN_FILES = ("idx/train_vis.txt", "idx/train_nir.txt")
TEST_FILE = "idx/test_id.txt"
_FOLDERS = (
    *((f"test_vis/cam{cam}", cam, False) for cam in VISIBLE_CAMS),
    *((f"test_nir/cam{cam}", cam, True) for cam in INFRARED_CAMS),
)
_CAM_IN_NAME = re.compile(r"_c(\d+)_")


def load_llcm(root: str | Path) -> Dataset:
    """Load LLCM from ``idx/{train_vis,train_nir,test_id}.txt``, ``test_vis/camN/PPPP`` and ``test_nir/camN/PPPP``.

    The lists of training images read ``path label``; the camera of such an image is the ``_cNN_`` in its file name.
    Test images have their camera and identity from their folders below ``root``. Queries are all test images of one
    modality. The gallery is one image of the other per identity and camera: in trial t (0 to 9), after
    ``random.seed(t)``, ``random.choice`` of the sorted file names, for ascending identities, then cameras.

    Args:
        root: the folder that holds ``idx``, ``test_vis`` and ``test_nir``.

    Returns:
        The data set, with the protocols ``visible-to-infrared`` and ``infrared-to-visible``, ten trials each.

    Raises:
        FileNotFoundError: ``root`` or a split file is missing.
        ValueError: a split file is malformed, a file name has no camera, or a split has no image of one modality.

    Source: docs/method.md, "LLCM"; Zhang and Wang, 2023.
    """
    root = open_root(root)
    test, left_out = scan_cameras(root, _FOLDERS, read_ids(root / TEST_FILE))
    check_filled(test.subset(~test.infrared), "visible test", root / "test_vis")
    check_filled(test.subset(test.infrared), "near-infrared test", root / "test_nir")
    return Dataset(
        name=LLCM.name,
        root=root,
        train_visible=_read_train(root, TRAIN_FILES[0], infrared=False),
        train_infrared=_read_train(root, TRAIN_FILES[1], infrared=True),
        test=test,
        protocols=(
            Protocol("visible-to-infrared", LLCM.rule, draw_trials(test, INFRARED_CAMS, infrared=True)),
            Protocol("infrared-to-visible", LLCM.rule, draw_trials(test, VISIBLE_CAMS, infrared=False)),
        ),
        left_out=left_out,
    )


def _read_train(root: Path, name: str, *, infrared: bool) -> Records:
    rows = []
    for path, label in read_list(root / name):
        found = _CAM_IN_NAME.search(PurePosixPath(path).name)
        if not found:
            raise ValueError(f"{root / name}: no camera (_cNN_) in the file name of {path}")
        rows.append((path, label, int(found[1]), infrared))
    return records(root, rows)


def _plan(ids: int, images: int, test_ids: int, rng: np.random.Generator) -> Plan:
    """Training images ``vis/PPPP/NAME`` and ``nir/PPPP/NAME``, test images ``test_vis/camN/PPPP/NAME`` and so on.

    NAME is ``PPPP_cCC_sSSSSSS_fFFFF_vis.jpg`` (or ``_nir``): identity, camera, sequence, frame.
    """
    test, train = (sorted(part) for part in draw_identities(ids, test_ids, rng))
    shots = []
    for identity, camera, image in every_image(ids, _LAYOUT.cameras, images):
        kind, number = ("vis", camera) if camera < _NIR else ("nir", camera - _NIR)
        folder = f"test_{kind}/cam{number}" if identity in test else kind
        name = f"{identity:04d}_c{number:02d}_s{identity * 100 + camera:06d}_f{image:04d}_{kind}.jpg"
        shots.append(Shot(f"{folder}/{identity:04d}/{name}", identity, camera, image))
    lists = {TEST_FILE: one_line(test)}
    for file, kind in zip(TRAIN_FILES, ("vis", "nir"), strict=True):
        lists[file] = labelled((shot for shot in shots if shot.path.startswith(f"{kind}/")), train)
    return Plan(shots, lists)


_NIR = 10  # infrared camera N has the number 10 + N in a plan, and N on disk
_LAYOUT = Layout(
    cameras={
        **dict.fromkeys(VISIBLE_CAMS, "visible"),
        **dict.fromkeys((_NIR + cam for cam in INFRARED_CAMS), "infrared"),
    },
    places={**{cam: cam for cam in VISIBLE_CAMS}, **{_NIR + cam: cam for cam in INFRARED_CAMS}},
    plan=_plan,
)

LLCM = DatasetSpec(
    name="llcm",
    description="LLCM, nine cameras in low light, visible and near-infrared",
    load=load_llcm,
    rule="llcm",
    preset="llcm",
    list_files=TRAIN_FILES,
    identity_files={TEST_FILE: "test"},
    counts={
        "train identities": 713,
        "visible train images": 16_946,
        "infrared train images": 13_975,
        "test identities": 351,
        "visible test images": 8_680,
        "infrared test images": 7_166,
    },
    layout=_LAYOUT,
)
