"""LLCM: nine cameras in low light, all of them visible and all but camera 3 also near-infrared."""

import re
from pathlib import Path, PurePosixPath

from salcr.data._layout import check_filled, draw_trials, open_root, read_ids, read_list, records, scan_cameras
from salcr.data.records import Dataset, Protocol, Records

VISIBLE_CAMS = tuple(range(1, 10))
INFRARED_CAMS = (1, 2, 4, 5, 6, 7, 8, 9)
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
    test = scan_cameras(root, _FOLDERS, read_ids(root / "idx/test_id.txt"))
    check_filled(test.subset(~test.infrared), "visible test", root / "test_vis")
    check_filled(test.subset(test.infrared), "near-infrared test", root / "test_nir")
    return Dataset(
        name="llcm",
        root=root,
        train_visible=_read_train(root, "idx/train_vis.txt", infrared=False),
        train_infrared=_read_train(root, "idx/train_nir.txt", infrared=True),
        test=test,
        protocols=(
            Protocol("visible-to-infrared", "llcm", draw_trials(test, INFRARED_CAMS, infrared=True)),
            Protocol("infrared-to-visible", "llcm", draw_trials(test, VISIBLE_CAMS, infrared=False)),
        ),
    )


def _read_train(root: Path, name: str, *, infrared: bool) -> Records:
    paths, labels = read_list(root / name)
    cams = []
    for path in paths:
        found = _CAM_IN_NAME.search(PurePosixPath(path).name)
        if not found:
            raise ValueError(f"{root / name}: no camera (_cNN_) in the file name of {path}")
        cams.append(int(found[1]))
    return records(root, paths, labels, cams, [infrared] * len(paths))
