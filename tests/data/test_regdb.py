import os

import numpy as np
import pytest

from salcr.data import check_dataset, load_dataset, load_regdb
from tests.data.trees import make_regdb, write_text


def test_both_parts_and_both_directions(tmp_path):
    dataset = load_dataset("regdb", make_regdb(tmp_path, train=3, test=2, images=4))
    visible, thermal, test = dataset.train_visible, dataset.train_infrared, dataset.test
    assert visible.ids.tolist() == thermal.ids.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert set(visible.cams.tolist()) == {1} and set(thermal.cams.tolist()) == {2}
    assert not visible.infrared.any() and thermal.infrared.all()
    assert visible.paths[0] == "Visible/100/train_v_0.bmp" and thermal.paths[-1] == "Thermal/102/train_t_3.bmp"
    there, back = dataset.protocols
    assert (there.name, back.name) == (
        "visible-to-thermal",
        "thermal-to-visible",
    ) and there.rule == back.rule == "regdb"
    assert len(there.trials) == len(back.trials) == 1
    assert there.trials[0].query.tolist() == back.trials[0].gallery.tolist() == list(range(8))
    assert there.trials[0].gallery.tolist() == back.trials[0].query.tolist() == list(range(8, 16))
    assert test.infrared.tolist() == [False] * 8 + [True] * 8 and test.cams.tolist() == [1] * 8 + [2] * 8
    assert test.paths[8] == "Thermal/103/test_t_0.bmp" and there.trials[0].query.dtype == np.int64


def test_trial_chooses_the_split(tmp_path):
    root = make_regdb(tmp_path, splits=(1, 10))
    assert load_dataset("regdb", root, trial=10).test.paths[0].startswith("Visible/1003/")
    assert load_dataset("regdb", root).test.paths[0].startswith("Visible/103/")
    with pytest.raises(FileNotFoundError, match=r"test_visible_4\.txt"):
        load_regdb(root, 4)
    for trial in (0, 11, "1"):
        with pytest.raises(ValueError, match="trial must be 1 to 10"):
            load_regdb(root, trial)


def test_a_name_with_spaces_and_backslashes(tmp_path):
    root = make_regdb(tmp_path)
    write_text(root / "idx/train_visible_1.txt", "Visible\\7\\a man.bmp 5\r\n\n./Visible/8/b.bmp  6\n")
    table = load_regdb(root).train_visible
    assert table.paths == ("Visible/7/a man.bmp", "Visible/8/b.bmp") and table.ids.tolist() == [5, 6]


@pytest.mark.parametrize("part", ["train_visible", "train_thermal", "test_visible", "test_thermal"])
def test_missing_and_empty_lists_are_named(tmp_path, part):
    root = make_regdb(tmp_path)
    write_text(root / f"idx/{part}_1.txt", "\n")
    with pytest.raises(ValueError, match=rf"{part}_1\.txt names no image"):
        load_regdb(root)
    (root / f"idx/{part}_1.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{part}_1\.txt"):
        load_regdb(root)


@pytest.mark.parametrize("line", ["Visible/1/a.bmp", "Visible/1/a.bmp x", "7", "/Visible/1/a.bmp 3", "a.bmp -1"])
def test_a_bad_line_is_named(tmp_path, line):
    root = make_regdb(tmp_path)
    write_text(root / "idx/test_thermal_1.txt", f"Thermal/1/a.bmp 0\n{line}\n")
    with pytest.raises(ValueError, match=r"test_thermal_1\.txt, line 2"):
        load_regdb(root)


@pytest.mark.parametrize(
    "path",
    [
        "../secret.bmp",
        "Visible/../../secret.bmp",
        "..\\secret.bmp",
        "/etc/secret.bmp",
        "C:\\secret.bmp",
        "Visible/\0.bmp",
        f"Visible/{'a' * 300}.bmp",
        f"{'Visible/' * 600}.bmp",
    ],
)
def test_a_list_names_files_in_the_data_set_alone(tmp_path, path):
    root = make_regdb(tmp_path / "data")
    write_text(root / "idx/train_visible_1.txt", f"Visible/100/train_v_0.bmp 0\n{path} 1\n")
    with pytest.raises(ValueError, match=r"train_visible_1\.txt, line 2: .* below the data set's folder") as caught:
        load_regdb(root)
    assert repr(path)[1:100].rstrip("'") in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("label", ["9" * 19, "9" * 5000, "١"])
def test_a_label_that_is_no_sensible_number_is_named(tmp_path, label):
    root = make_regdb(tmp_path)
    write_text(root / "idx/test_thermal_1.txt", f"Thermal/1/a.bmp {label}\n")
    with pytest.raises(ValueError, match=r"test_thermal_1\.txt, line 1") as caught:
        load_regdb(root)
    assert len(str(caught.value)) < 500


def test_a_list_names_files_by_their_bytes(tmp_path):
    root = make_regdb(tmp_path)
    os.rename(root / "Visible/100/train_v_0.bmp", root / "Visible/100" / os.fsdecode(b"caf\xe9\x85.bmp"))
    text = (root / "idx/train_visible_1.txt").read_bytes().replace(b"train_v_0.bmp 0", b"caf\xe9\x85.bmp 0", 1)
    (root / "idx/train_visible_1.txt").write_bytes(text)
    assert check_dataset("regdb", root, published_counts=False) == []
