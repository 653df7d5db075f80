"""SYSU-MM01: six cameras, of which 3 and 6 are infrared; cameras 1 to 3 are indoors."""

from pathlib import Path

import numpy as np

from salcr.data._layout import check_filled, draw_trials, open_root, read_ids, scan_cameras
from salcr.data.records import Dataset, Protocol

VISIBLE_CAMS = (1, 2, 4, 5)
INFRARED_CAMS = (3, 6)
INDOOR_CAMS = (1, 2)
MULTI_SHOTS = 10
_FOLDERS = tuple((f"cam{cam}", cam, cam in INFRARED_CAMS) for cam in range(1, 7))


def load_sysu(root: str | Path) -> Dataset:
    """Load SYSU-MM01 from ``camN/PPPP/*.jpg`` and ``exp/{train,val,test}_id.txt``.

    Training uses the identities of ``train`` and ``val`` together. Every infrared test image is a query. Galleries are
    visible: of all cameras or the indoor ones, with one image (single-shot) or ten (multi-shot) per identity and
    camera. In trial t (0 to 9), after ``random.seed(t)``, they are drawn for ascending identities, then cameras:
    ``random.choice`` of the sorted file names, or ``random.sample`` of ten (all of them, undrawn, if fewer). Cameras
    whose folder is absent are left out, and with both indoor ones the indoor protocols.

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
    train_ids = sorted({*read_ids(root / "exp/train_id.txt"), *read_ids(root / "exp/val_id.txt")})
    train = scan_cameras(root, _FOLDERS, train_ids)
    test = scan_cameras(root, _FOLDERS, read_ids(root / "exp/test_id.txt"))
    check_filled(test.subset(test.infrared), "infrared test", root)
    check_filled(test.subset(~test.infrared), "visible test", root)
    searches = {"all": VISIBLE_CAMS, "indoor": INDOOR_CAMS}
    return Dataset(
        name="sysu",
        root=root,
        train_visible=check_filled(train.subset(~train.infrared), "visible train", root),
        train_infrared=check_filled(train.subset(train.infrared), "infrared train", root),
        test=test,
        protocols=tuple(
            Protocol(f"{search}-{shot}", "sysu", draw_trials(test, cams, infrared=False, shots=shots))
            for search, cams in searches.items()
            for shot, shots in (("single", 1), ("multi", MULTI_SHOTS))
            if np.isin(test.cams, cams).any()
        ),
    )
