import os
import random

import pytest

from salcr.data import load_dataset, load_llcm
from tests.data.trees import make_llcm, write_image, write_text


def gallery_by_hand(root, modality, ids, cams, trial):
    random.seed(trial)
    gallery = []
    for identity in sorted(ids):
        for cam in cams:
            folder = f"test_{modality}/cam{cam}/{identity:04d}"
            if os.path.isdir(root / folder):
                gallery.append(f"{folder}/{random.choice(sorted(os.listdir(root / folder)))}")
    return gallery


@pytest.mark.parametrize("folder", ["llcm", "cam4/webcam7_c05_x"])
def test_cameras_and_identities_come_from_below_the_root(tmp_path, folder):
    dataset = load_dataset("llcm", make_llcm(tmp_path / folder, train=(9, 2), test=(31, 5)))
    visible, infrared, test = dataset.train_visible, dataset.train_infrared, dataset.test
    assert visible.cams.tolist() == [1, 1, 3, 3, 5, 5] * 2 and infrared.cams.tolist() == [1, 1, 5, 5] * 2
    assert visible.ids.tolist() == [0] * 6 + [1] * 6 and infrared.ids.tolist() == [0] * 4 + [1] * 4
    assert not visible.infrared.any() and infrared.infrared.all()
    assert visible.paths[0] == "vis/0009/0009_c01_s100_f0_vis.jpg"
    assert test.ids.tolist() == [5] * 10 + [31] * 10
    assert test.cams.tolist() == [1, 1, 3, 3, 5, 5, 1, 1, 5, 5] * 2
    assert test.infrared.tolist() == ([False] * 6 + [True] * 4) * 2
    assert test.paths[6] == "test_nir/cam1/0005/0005_c01_s100_f0_nir.jpg"


@pytest.mark.parametrize("gallery", ["vis", "nir"])
def test_galleries_are_the_published_draw(tmp_path, gallery):
    cams = {"vis": tuple(range(1, 10)), "nir": (1, 2, 4, 5, 6, 7, 8, 9)}
    root = make_llcm(tmp_path, test=(31, 5, 200), images=3, vis_cams=cams["vis"], nir_cams=cams["nir"])
    for name in os.listdir(root / f"test_{gallery}/cam4/0031"):
        os.remove(root / f"test_{gallery}/cam4/0031" / name)
    os.rmdir(root / f"test_{gallery}/cam4/0031")
    dataset = load_llcm(root)
    protocol = dataset.protocols[gallery == "vis"]
    assert protocol.name == {"nir": "visible-to-infrared", "vis": "infrared-to-visible"}[gallery]
    assert protocol.rule == "llcm" and len(protocol.trials) == 10
    for number, trial in enumerate(protocol.trials):
        drawn = list(dataset.test.subset(trial.gallery).paths)
        assert drawn == gallery_by_hand(root, gallery, (5, 31, 200), cams[gallery], number)
        assert len(drawn) == 3 * len(cams[gallery]) - 1
        assert (dataset.test.infrared[trial.query] == (gallery == "vis")).all()
        assert len(trial.query) == 9 * len(cams["nir" if gallery == "vis" else "vis"])


def test_a_near_infrared_camera_3_is_not_read(tmp_path):
    root = make_llcm(tmp_path)
    write_image(root / "test_nir/cam3/0005/0005_c03_s1_f1_nir.jpg")
    test = load_llcm(root).test
    assert 3 not in test.cams[test.infrared] and 3 in test.cams[~test.infrared]


def test_a_file_name_without_a_camera_is_named(tmp_path):
    root = make_llcm(tmp_path)
    write_text(root / "idx/train_nir.txt", "nir/0002_c05_/plain.jpg 0\n")
    with pytest.raises(ValueError, match=r"train_nir\.txt: no camera .* nir/0002_c05_/plain\.jpg"):
        load_llcm(root)


@pytest.mark.parametrize("name", ["train_vis", "train_nir", "test_id"])
def test_missing_and_empty_split_files_are_named(tmp_path, name):
    root = make_llcm(tmp_path)
    write_text(root / f"idx/{name}.txt", "")
    with pytest.raises(ValueError, match=rf"{name}\.txt names no"):
        load_llcm(root)
    (root / f"idx/{name}.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}\.txt"):
        load_llcm(root)


def test_a_test_part_without_a_modality_is_named(tmp_path):
    root = make_llcm(tmp_path)
    (root / "test_nir").rename(root / "elsewhere")
    with pytest.raises(ValueError, match=r"no near-infrared test image under .*test_nir"):
        load_llcm(root)
