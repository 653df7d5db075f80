import os
from dataclasses import replace

import pytest

from salcr.data import DATASETS, check_dataset
from tests.data.trees import make_llcm, make_regdb, make_sysu, write_text

MAKERS = {"sysu": make_sysu, "regdb": make_regdb, "llcm": make_llcm}


@pytest.mark.parametrize("name", MAKERS)
def test_a_complete_tree_has_no_problem(tmp_path, name):
    root = MAKERS[name](tmp_path)
    seen = []
    problems = check_dataset(
        name, root, published_counts=False, progress=lambda done, total: seen.append((done, total))
    )
    assert problems == []
    images = sum(path.suffix in (".jpg", ".bmp") for path in root.rglob("*"))
    assert seen == [(done, images) for done in range(1, images + 1)]


@pytest.mark.parametrize("name", MAKERS)
def test_published_counts_are_compared_one_by_one(tmp_path, monkeypatch, name):
    root = MAKERS[name](tmp_path, **({"splits": range(1, 11)} if name == "regdb" else {}))
    counts = {
        "sysu": [3, 24, 12, 2, 8, 8, 4],
        "regdb": [3, 6, 6, 2, 4, 4],
        "llcm": [2, 12, 8, 2, 12, 8],
    }[name]
    problems = check_dataset(name, root, decode=False)
    copies = 10 if name == "regdb" else 1
    assert len(problems) == len(counts) * copies
    for problem, count, published in zip(problems, counts, DATASETS[name].counts.items(), strict=False):
        assert f"{count} {published[0]}, published are {published[1]:,}" in problem
    assert problems[0].startswith("split 1: ") == (name == "regdb")
    matching = dict(zip(DATASETS[name].counts, counts, strict=True))
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], counts=matching))
    assert check_dataset(name, root) == []


def test_the_published_counts():
    sysu, regdb, llcm = (DATASETS[name].counts for name in ("sysu", "regdb", "llcm"))
    assert list(sysu.values()) == [395, 22258, 11909, 96, 3803, 301, 112]
    assert list(regdb.values()) == [206, 2060, 2060] * 2
    assert llcm["train identities"] + llcm["test identities"] == 1064
    assert sum(count for what, count in llcm.items() if what.endswith("images")) == 46_767


def test_images_that_do_not_decode_or_are_missing_are_all_named(tmp_path):
    root = make_regdb(tmp_path)
    whole = (root / "Visible/100/train_v_0.bmp").read_bytes()
    (root / "Visible/100/train_v_0.bmp").write_bytes(whole[: len(whole) // 2])
    write_text(root / "Thermal/103/test_t_1.bmp", "no picture")
    write_text(root / "Thermal/104/test_t_1.bmp", "")
    (root / "Thermal/101/train_t_0.bmp").unlink()
    problems = check_dataset("regdb", root, published_counts=False)
    assert [problem.split(" ")[:3] for problem in problems] == [
        ["Thermal/101/train_t_0.bmp", "is", "missing"],
        ["Thermal/103/test_t_1.bmp", "does", "not"],
        ["Thermal/104/test_t_1.bmp", "does", "not"],
        ["Visible/100/train_v_0.bmp", "does", "not"],
    ]
    problems = check_dataset("regdb", root, published_counts=False, decode=False)
    assert problems == ["Thermal/101/train_t_0.bmp is missing", "Thermal/104/test_t_1.bmp: is empty"]


def test_missing_identities_are_named(tmp_path):
    def images(identity, cam):
        return 0 if identity == 3 or (identity == 7 and cam in (3, 6)) or (identity == 4 and cam in (1, 2, 4, 5)) else 1

    root = make_sysu(tmp_path, images=images)
    assert check_dataset("sysu", root, published_counts=False) == [
        "no visible train image of identity 3",
        "no infrared train image of identities 3, 7",
        "no visible test image of identity 4",
    ]


def test_missing_labels_and_test_identities_are_named(tmp_path):
    root = make_llcm(tmp_path)
    lines = (root / "idx/train_nir.txt").read_text().splitlines()
    write_text(root / "idx/train_nir.txt", "\n".join(line for line in lines if line.endswith(" 0")))
    write_text(root / "idx/test_id.txt", "5,31,32")
    assert check_dataset("llcm", root, published_counts=False) == [
        "no infrared train image of identity 1",
        "no visible test image of identity 32",
        "no infrared test image of identity 32",
    ]


def test_what_is_in_both_parts_is_named(tmp_path):
    root = make_sysu(tmp_path / "sysu", images=1, cams=(1, 3))
    write_text(root / "exp/val_id.txt", "7,4")
    assert check_dataset("sysu", root, published_counts=False) == [
        "cam1/0004/0001.jpg is listed 2 times",
        "cam3/0004/0001.jpg is listed 2 times",
        "both train and test have identity 4",
    ]
    root = make_regdb(tmp_path / "regdb")
    with (root / "idx/train_visible_1.txt").open("a") as file:
        file.write("Visible/103/test_v_0.bmp 2\n")
    problems = check_dataset("regdb", root, published_counts=False)
    assert problems == ["split 1: Visible/103/test_v_0.bmp is listed 2 times"]


def test_split_files_that_are_missing_or_malformed(tmp_path):
    assert check_dataset("sysu", tmp_path / "nowhere") == [f"no data set folder {tmp_path / 'nowhere'}"]
    (tmp_path / "bare").mkdir()
    problems = check_dataset("llcm", tmp_path / "bare")
    assert [problem.rsplit("/")[-1] for problem in problems] == ["train_vis.txt", "train_nir.txt", "test_id.txt"]
    root = make_sysu(tmp_path / "sysu")
    write_text(root / "exp/test_id.txt", "20;4")
    (problem,) = check_dataset("sysu", root, published_counts=False)
    assert "test_id.txt" in problem and "'20;4'" in problem


def test_a_folder_that_cannot_be_looked_at_is_a_problem(tmp_path):
    root = make_sysu(tmp_path / "data", images=1)
    os.rename(root / "cam1", tmp_path / "away")
    (root / "cam1").symlink_to(root / "cam1")
    (problem,) = check_dataset("sysu", root, published_counts=False)
    assert "Too many levels of symbolic links" in problem and str(root / "cam1") in problem


def test_every_split_of_regdb_is_checked(tmp_path):
    root = make_regdb(tmp_path, splits=(2, 5))
    assert check_dataset("regdb", root, published_counts=False) == []
    write_text(root / "idx/test_thermal_5.txt", "")
    (root / "idx/train_visible_2.txt").unlink()
    problems = check_dataset("regdb", root, published_counts=False)
    assert len(problems) == 2 and "train_visible_2.txt" in problems[0]
    assert problems[1].startswith("split 5: ") and "test_thermal_5.txt names no image" in problems[1]
    missing = [problem for problem in check_dataset("regdb", root) if problem.startswith("no split file")]
    assert len(missing) == 8 * 4 + 1
    assert len(check_dataset("regdb", make_sysu(tmp_path / "other"), published_counts=False)) == 4
