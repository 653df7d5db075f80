"""RegDB: one visible and one thermal camera, ten published splits."""

from pathlib import Path

import numpy as np

from salcr.data._layout import open_root, read_list, records
from salcr.data.plan import Layout, Plan, Shot, draw_identities, every_image, labelled
from salcr.data.records import Dataset, Protocol, Records, Trial
from salcr.data.spec import DatasetSpec

VISIBLE_CAM = 1
THERMAL_CAM = 2
SPLITS = 10


def load_regdb(root: str | Path, trial: int = 1) -> Dataset:
    """Load one split of RegDB from ``idx/{train,test}_{visible,thermal}_{trial}.txt``.

    The ten trials of the published protocol are ten trainings, one a split, so each protocol here has one trial.

    Args:
        root: the folder that holds ``idx``; the lists name images relative to it.
        trial: the split, 1 to 10.

    Returns:
        The data set, with the protocols ``visible-to-thermal`` and ``thermal-to-visible``. Camera 1 is the visible one,
        camera 2 the thermal one.

    Raises:
        FileNotFoundError: ``root`` or a split file is missing.
        ValueError: ``trial`` is not 1 to 10, or a split file is empty or malformed.

    Source: docs/method.md, "RegDB"; Nguyen et al., 2017.
    """
    if trial not in range(1, SPLITS + 1):
        raise ValueError(f"trial must be 1 to {SPLITS}, got {trial!r}")
    root = open_root(root)
    test = _read_split(root, [f"idx/test_visible_{trial}.txt", f"idx/test_thermal_{trial}.txt"])
    visible, thermal = np.flatnonzero(~test.infrared), np.flatnonzero(test.infrared)
    return Dataset(
        name=REGDB.name,
        root=root,
        train_visible=_read_split(root, [f"idx/train_visible_{trial}.txt"]),
        train_infrared=_read_split(root, [f"idx/train_thermal_{trial}.txt"]),
        test=test,
        protocols=(
            Protocol("visible-to-thermal", REGDB.rule, (Trial(visible, thermal),)),
            Protocol("thermal-to-visible", REGDB.rule, (Trial(thermal, visible),)),
        ),
    )


def _read_split(root: Path, lists: list[str]) -> Records:
    rows = []
    for name in lists:
        thermal = "thermal" in name
        cam = THERMAL_CAM if thermal else VISIBLE_CAM
        rows += [(path, label, cam, thermal) for path, label in read_list(root / name)]
    return records(root, rows)


def _plan(ids: int, images: int, test_ids: int, rng: np.random.Generator) -> Plan:
    """``Visible/P/v_NNNNN_P.jpg`` and ``Thermal/P/t_NNNNN_P.jpg``; every split draws its own identities."""
    folders = {VISIBLE_CAM: ("Visible", "v"), THERMAL_CAM: ("Thermal", "t")}
    shots = []
    for identity, camera, image in every_image(ids, folders, images):
        folder, letter = folders[camera]
        shots.append(Shot(f"{folder}/{identity}/{letter}_{image:05d}_{identity}.jpg", identity, camera, image))
    lists = {}
    for trial in range(1, SPLITS + 1):
        test, train = draw_identities(ids, test_ids, rng)
        for part, identities in (("train", sorted(train)), ("test", sorted(test))):
            for camera, modality in ((VISIBLE_CAM, "visible"), (THERMAL_CAM, "thermal")):
                chosen = [shot for shot in shots if shot.camera == camera]
                lists[f"idx/{part}_{modality}_{trial}.txt"] = labelled(chosen, identities)
    return Plan(shots, lists)


REGDB = DatasetSpec(
    name="regdb",
    description="RegDB, one visible and one thermal camera, ten splits",
    load=load_regdb,
    rule="regdb",
    preset="regdb",
    splits=SPLITS,
    list_files=tuple(
        f"idx/{part}_{modality}_{{trial}}.txt" for part in ("train", "test") for modality in ("visible", "thermal")
    ),
    counts={
        "train identities": 206,
        "visible train images": 2_060,
        "infrared train images": 2_060,
        "test identities": 206,
        "visible test images": 2_060,
        "infrared test images": 2_060,
    },
    layout=Layout(
        cameras={VISIBLE_CAM: "visible", THERMAL_CAM: "infrared"},
        places={VISIBLE_CAM: 1, THERMAL_CAM: 1},
        plan=_plan,
    ),
)
