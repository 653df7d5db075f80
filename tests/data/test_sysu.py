import os
import random

import numpy as np
import pytest

from salcr.data import Records, load_dataset, load_sysu, open_store
from tests.data.trees import make_sysu, write_image, write_text


def gallery_by_hand(root, ids, cams, trial, shots):
    """The published loop, over the global generator and folder listings."""
    random.seed(trial)
    gallery = []
    for identity in sorted(ids):
        for cam in cams:
            folder = f"cam{cam}/{identity:04d}"
            if not os.path.isdir(root / folder):
                continue
            files = sorted(os.listdir(root / folder))
            if shots == 1:
                gallery.append(f"{folder}/{random.choice(files)}")
            else:
                drawn = random.sample(files, shots) if len(files) >= shots else files
                gallery += [f"{folder}/{name}" for name in drawn]
    return gallery


def protocol(dataset, name):
    return next(protocol for protocol in dataset.protocols if protocol.name == name)


def test_train_joins_train_and_val_by_modality(tmp_path):
    dataset = load_dataset("sysu", make_sysu(tmp_path, train=(11, 3), val=(7,), images=2))
    visible, infrared = dataset.train_visible, dataset.train_infrared
    assert dataset.name == "sysu" and dataset.root == tmp_path == visible.root
    assert visible.ids.tolist() == [3] * 8 + [7] * 8 + [11] * 8
    assert visible.cams.tolist() == [1, 1, 2, 2, 4, 4, 5, 5] * 3
    assert infrared.cams.tolist() == [3, 3, 6, 6] * 3
    assert not visible.infrared.any() and infrared.infrared.all()
    assert infrared.paths[:3] == ("cam3/0003/0001.jpg", "cam3/0003/0002.jpg", "cam6/0003/0001.jpg")
    assert visible.ids.dtype == visible.cams.dtype == np.int64 and visible.infrared.dtype == bool


def test_every_infrared_test_image_is_a_query(tmp_path):
    dataset = load_sysu(make_sysu(tmp_path, test=(20, 4), images=3))
    test = dataset.test
    assert [p.name for p in dataset.protocols] == ["all-single", "all-multi", "indoor-single", "indoor-multi"]
    for p in dataset.protocols:
        assert p.rule == "sysu" and len(p.trials) == 10
        for trial in p.trials:
            query = test.subset(trial.query)
            assert query.infrared.all() and len(query) == 12
            assert query.ids.tolist() == [4] * 6 + [20] * 6 and query.cams.tolist() == [3, 3, 3, 6, 6, 6] * 2
            assert trial.query.dtype == trial.gallery.dtype == np.int64
            assert not test.infrared[trial.gallery].any()


@pytest.mark.parametrize(
    ("name", "cams", "shots"),
    [
        ("all-single", (1, 2, 4, 5), 1),
        ("all-multi", (1, 2, 4, 5), 10),
        ("indoor-single", (1, 2), 1),
        ("indoor-multi", (1, 2), 10),
    ],
)
def test_galleries_are_the_published_draw(tmp_path, name, cams, shots):
    def images(identity, cam):
        return 0 if (identity, cam) == (9, 2) else 9 + (identity + cam) % 4  # 9: fewer than a multi-shot draws

    root = make_sysu(tmp_path, train=(1,), val=(2,), test=(9, 110, 25), images=images)
    dataset = load_sysu(root)
    for number, trial in enumerate(protocol(dataset, name).trials):
        assert list(dataset.test.subset(trial.gallery).paths) == gallery_by_hand(
            root, (9, 25, 110), cams, number, shots
        )


def test_a_gallery_written_out(tmp_path):
    """random.seed(0) draws the files number 2, 2, 1, 2 and 3 of three, then 2, 2 and 2."""
    dataset = load_sysu(make_sysu(tmp_path, test=(8, 5), images=3))
    names = [
        path.split("/")[-1] for path in dataset.test.subset(protocol(dataset, "all-single").trials[0].gallery).paths
    ]
    assert [int(name[:4]) for name in names] == [2, 2, 1, 2, 3, 2, 2, 2]


def test_the_draw_leaves_the_global_generator_alone(tmp_path, generator):
    root = make_sysu(tmp_path)
    random.seed(5)
    expected = random.random()
    random.seed(5)
    load_sysu(root)
    assert random.random() == expected


def test_few_cameras_and_foreign_files(tmp_path):
    root = make_sysu(tmp_path, cams=(4, 6))
    write_text(root / "cam4/0004/Thumbs.db", "")
    write_text(root / "cam4/0004/._0001.jpg", "")
    write_image(root / "cam4/0099/0001.jpg")  # an identity of no split
    dataset = load_sysu(root)
    assert set(dataset.test.cams.tolist()) == {4, 6} and len(dataset.test) == 8
    assert [p.name for p in dataset.protocols] == ["all-single", "all-multi"]


def test_split_files_may_have_spaces_a_mark_and_a_last_comma(tmp_path):
    root = make_sysu(tmp_path)
    (root / "exp/train_id.txt").write_bytes(b"\xef\xbb\xbf 3, 11,\r\n")
    assert set(load_sysu(root).train_visible.ids.tolist()) == {3, 7, 11}


def test_missing_files_are_named(tmp_path):
    root = make_sysu(tmp_path)
    (root / "exp/val_id.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"exp.val_id\.txt"):
        load_dataset("sysu", root)


@pytest.mark.parametrize(
    ("text", "message"), [("", "names no identity"), ("3,eleven", "'eleven'"), ("3,-1", "'-1'"), ("3 4", "'3 4'")]
)
def test_bad_split_files_are_named(tmp_path, text, message):
    root = make_sysu(tmp_path)
    write_text(root / "exp/train_id.txt", text)
    with pytest.raises(ValueError, match=rf"train_id\.txt.*{message}"):
        load_sysu(root)


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        (lambda identity, cam: identity == 20 and cam in (3, 6), "no infrared test image"),
        (lambda identity, cam: identity == 20 and cam not in (3, 6), "no visible test image"),
        (lambda identity, cam: identity != 20 and cam in (3, 6), "no infrared train image"),
        (lambda identity, cam: identity != 20 and cam not in (3, 6), "no visible train image"),
    ],
)
def test_a_split_without_a_modality_is_named(tmp_path, empty, message):
    root = make_sysu(tmp_path, test=(20,), images=lambda identity, cam: 0 if empty(identity, cam) else 1)
    with pytest.raises(ValueError, match=message):
        load_sysu(root)


def test_subset_and_the_checks_of_a_table(tmp_path):
    table = load_sysu(make_sysu(tmp_path)).test
    mask = table.cams == 3
    assert len(table.subset(mask)) == 4 and set(table.subset(mask).cams.tolist()) == {3}
    picked = table.subset([5, 0, 5])
    assert picked.paths == (table.paths[5], table.paths[0], table.paths[5])
    assert picked.ids.tolist() == table.ids[[5, 0, 5]].tolist() and picked.root == table.root
    assert len(table.subset([])) == 0
    with pytest.raises(ValueError, match="mask of shape"):
        table.subset(mask[:-1])
    with pytest.raises(TypeError):
        table.subset(np.array([0.5]))
    with pytest.raises(IndexError):
        table.subset([len(table)])
    with pytest.raises(TypeError, match="ids must be an array of int64"):
        Records(tmp_path, ("a",), np.zeros(1, np.int32), np.zeros(1, np.int64), np.zeros(1, bool))
    with pytest.raises(ValueError, match="cams must have 1 entries"):
        Records(tmp_path, ("a",), np.zeros(1, np.int64), np.zeros(2, np.int64), np.zeros(1, bool))


@pytest.mark.parametrize("number", ["9" * 19, "9" * 5000])
def test_an_identity_that_is_no_sensible_number_is_named(tmp_path, number):
    root = make_sysu(tmp_path)
    write_text(root / "exp/test_id.txt", f"4,{number}")
    with pytest.raises(ValueError, match=r"test_id\.txt") as caught:
        load_sysu(root)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("place", ["cam1", "cam1/0004", "cam1/0004/0001.jpg"])
def test_a_link_that_leads_to_itself_is_named(tmp_path, place):
    root = make_sysu(tmp_path / "data", images=1)
    os.rename(root / place, tmp_path / "away")
    (root / place).symlink_to(root / place)
    with pytest.raises(OSError, match="Too many levels of symbolic links") as caught:
        open_store(load_sysu(root).test, height=6, width=4, cache=tmp_path / "cache")
    assert str(root / place) in str(caught.value)


def test_what_is_no_image_by_its_name_is_left_out_and_listed(tmp_path):
    root = make_sysu(tmp_path, images=1)
    for path in ("cam1/0004/a.gif", "cam2/0003/Thumbs.db", "cam3/0099/a.gif", "cam1/0004/.hidden"):
        write_text(root / path, "")
    assert load_sysu(root).left_out == ("cam2/0003/Thumbs.db", "cam1/0004/a.gif")
