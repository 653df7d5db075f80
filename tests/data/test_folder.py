import errno
import os
import re
import shutil

import numpy as np
import pytest

from salcr.data import check_dataset, load_dataset, open_store
from salcr.data.folder import load_folder
from tests.data.trees import make_folder, write_image, write_text


def test_identities_come_from_folders_named_by_a_number(tmp_path):
    dataset = load_dataset("folder", make_folder(tmp_path))
    visible, infrared, test = dataset.train_visible, dataset.train_infrared, dataset.test
    assert visible.paths == tuple(
        f"visible/{person}/{image}.jpg" for person in ("0003", "0011") for image in ("0001", "0002")
    )
    assert infrared.paths == tuple(path.replace("visible", "infrared") for path in visible.paths)
    assert visible.ids.tolist() == infrared.ids.tolist() == [3, 3, 11, 11]
    assert not visible.infrared.any() and infrared.infrared.all()
    assert dataset.root == visible.root == test.root == tmp_path
    assert len(test) == 16 and set(test.ids.tolist()) == {4, 20}


def test_both_directions_have_a_query_and_a_gallery(tmp_path):
    dataset = load_folder(make_folder(tmp_path))
    there, back = dataset.protocols
    assert (there.name, back.name) == ("visible-to-infrared", "infrared-to-visible")
    for protocol, query, gallery in ((there, "visible", "infrared"), (back, "infrared", "visible")):
        (trial,) = protocol.trials
        assert trial.query.dtype == trial.gallery.dtype == np.int64
        assert {path.rsplit("/", 2)[0] for path in dataset.test.subset(trial.query).paths} == {f"query/{query}"}
        assert {path.rsplit("/", 2)[0] for path in dataset.test.subset(trial.gallery).paths} == {f"gallery/{gallery}"}
        assert dataset.test.ids[trial.query].tolist() == dataset.test.ids[trial.gallery].tolist() == [4, 4, 20, 20]


def test_one_direction_alone(tmp_path):
    root = make_folder(tmp_path)
    shutil.rmtree(root / "query/visible")
    dataset = load_folder(root)
    (protocol,) = dataset.protocols
    assert protocol.name == "infrared-to-visible" and len(protocol.trials[0].query) == 4


@pytest.mark.parametrize("place", ["", "day one/", "20x4/", "-7/", "7.5/", "1234567890123456789/", "cam/3/"])
def test_images_without_identities(tmp_path, place):
    for modality in ("visible", "infrared"):
        for i in range(3):
            write_image(tmp_path / f"{modality}/{place}{i}.PNG", i)
    write_text(tmp_path / "visible/notes.txt", "no image")
    write_image(tmp_path / "visible/.hidden/4.png")
    write_image(tmp_path / "visible/.5.png")
    dataset = load_folder(tmp_path)
    assert dataset.train_visible.paths == tuple(f"visible/{place}{i}.PNG" for i in range(3))
    assert dataset.train_visible.ids.tolist() == dataset.train_infrared.ids.tolist() == [-1] * 3
    assert dataset.protocols == () and len(dataset.test) == 0
    assert check_dataset("folder", tmp_path) == []


def test_some_identities_may_be_known(tmp_path):
    for path in ("7/a.jpg", "007/deep/er/b.jpg", "rest/c.jpg", "d.jpg"):
        write_image(tmp_path / "visible" / path)
    write_image(tmp_path / "infrared/8/e.jpg")
    dataset = load_folder(tmp_path)
    assert dict(zip(dataset.train_visible.paths, dataset.train_visible.ids.tolist(), strict=True)) == {
        "visible/7/a.jpg": 7,
        "visible/007/deep/er/b.jpg": 7,
        "visible/rest/c.jpg": -1,
        "visible/d.jpg": -1,
    }
    assert check_dataset("folder", tmp_path) == []  # nobody has to be seen in both modalities


@pytest.mark.parametrize(
    ("path", "cam"),
    [
        ("7/a.jpg", 0),
        ("7/0007_c03_12.jpg", 3),
        ("7/c2.jpg", 2),
        ("7/CAM12/c4_a.jpg", 12),
        ("cam5/a.jpg", 5),
        ("7/0007-cam6.jpg", 6),
        ("7/music3_x.jpg", 0),
        ("7/c3d_x.jpg", 0),
    ],
)
def test_cameras_are_optional(tmp_path, path, cam):
    write_image(tmp_path / "visible" / path)
    write_image(tmp_path / "infrared/a.jpg")
    assert load_folder(tmp_path).train_visible.cams.tolist() == [cam]


def test_folders_may_be_links(tmp_path):
    write_image(tmp_path / "elsewhere/7/a.jpg")
    (tmp_path / "set").mkdir()
    for modality in ("visible", "infrared"):
        (tmp_path / "set" / modality).symlink_to(tmp_path / "elsewhere")
    assert load_folder(tmp_path / "set").train_infrared.paths == ("infrared/7/a.jpg",)


def test_a_split_without_training_images_can_be_evaluated(tmp_path):
    root = make_folder(tmp_path, train=())
    dataset = load_folder(root)
    assert len(dataset.train_visible) == len(dataset.train_infrared) == 0 and len(dataset.protocols) == 2
    assert check_dataset("folder", root) == []
    write_image(root / "infrared/7/a.jpg")
    with pytest.raises(ValueError, match=r"no visible train image under .*visible"):
        load_folder(root)


def test_gallery_images_without_identity_are_nobodys_match(tmp_path):
    root = make_folder(tmp_path)
    write_image(root / "gallery/infrared/strangers/a.jpg")
    dataset = load_folder(root)
    trial = dataset.protocols[0].trials[0]
    assert sorted(dataset.test.ids[trial.gallery].tolist()) == [-1, 4, 4, 20, 20]
    assert -1 not in dataset.test.ids[trial.query]
    assert check_dataset("folder", root) == []


def without(*folders):
    def remove(root):
        for folder in folders:
            shutil.rmtree(root / folder)

    return remove


def stranger(root):
    write_image(root / "query/infrared/who/a.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("visible", "infrared", "query", "gallery"), r"no visible train image under .*/visible"),
        (without("infrared"), r"no infrared train image under .*/infrared"),
        (without("visible/0003", "visible/0011"), r"no visible train image under .*/visible"),
        (without("gallery"), r"no gallery folder in .*: a split is query and gallery"),
        (without("query"), r"no query folder in .*: a split is query and gallery"),
        (
            without("query/visible", "gallery/visible"),
            r"cannot be evaluated: it needs images in query/visible and gallery/",
        ),
        (stranger, r"query/infrared/who/a\.jpg has no identity: a query lies in a folder named by a number"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, change, message):
    root = make_folder(tmp_path)
    change(root)
    with pytest.raises(ValueError, match=message):
        load_folder(root)
    (problem,) = check_dataset("folder", root)
    assert re.search(message, problem)


def test_check_data_names_who_is_in_training_and_test(tmp_path):
    root = make_folder(tmp_path, train=(3, 20), test=(20, 4))
    (root / "visible/0003/0001.jpg").write_bytes(b"")
    both, broken = check_dataset("folder", root)
    assert both == "both train and test have identity 20"
    assert broken.startswith("visible/0003/0001.jpg does not decode")


@pytest.mark.parametrize(
    ("link", "to", "named"),
    [
        ("visible/0003/again", "visible", "visible/0003/again"),
        ("visible/again", ".", "visible/again/visible"),  # no link itself
    ],
)
def test_a_link_to_a_folder_around_it_is_named(tmp_path, link, to, named):
    root = make_folder(tmp_path, test=())
    (root / link).symlink_to(root / to)
    with pytest.raises(ValueError, match=f"{named} is, by a link, a folder that it lies in"):
        load_folder(root)


@pytest.mark.parametrize("place", ["visible", "visible/again", "visible/0003/again.jpg"])
def test_a_link_that_leads_to_itself_is_named(tmp_path, place):
    root = make_folder(tmp_path, train=(3,) if place != "visible" else (), test=())
    (root / place).symlink_to(root / place)
    with pytest.raises(OSError, match="Too many levels of symbolic links") as caught:
        load_folder(root)
    assert str(root / place) in str(caught.value)


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    root, real = make_folder(tmp_path, test=()), os.scandir

    def scandir(place):
        if str(place).endswith("0003"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="visible/0003"):
        load_folder(root)


def test_names_that_are_not_utf_8(tmp_path):
    root = make_folder(tmp_path, test=())
    name = os.fsdecode(b"caf\xe9.png")
    write_image(root / "visible/0003" / name)
    table = load_folder(root).train_visible
    assert f"visible/0003/{name}" in table.paths
    assert open_store(table, height=6, width=4, cache=tmp_path / "cache").shape == (5, 6, 4, 3)
    assert check_dataset("folder", root) == []
    (root / "visible/0003" / name).write_bytes(b"")
    (problem,) = check_dataset("folder", root)
    assert name in problem
