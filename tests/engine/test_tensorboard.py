import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from salcr.engine import load_config, train
from salcr.engine.tensorboard import HEIGHT, Board, clusters_sheet, views_sheet
from salcr.ops.augmentation import MEAN, STD
from tests.engine.tree import tiny


def shown(folder):
    board = EventAccumulator(str(folder))
    board.Reload()
    return board


def record(epoch, value):
    best = {"chosen_on_test_data": {"epoch": epoch}}
    return {"epoch": epoch, "stage": 1, "loss": {"visible": value}, "name": "no number", "evaluation": {}} | best


def write(folder, epochs, value):
    board = Board(folder)
    for epoch in epochs:
        board.write(record(epoch, value), {})
    board.close()


def test_numbers_have_their_keys_and_pictures_their_pixels(tmp_path):
    board, picture = Board(tmp_path), np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    board.write(record(4, 0.5), {"views": picture})
    seen = shown(tmp_path)  # before it is closed: whoever is killed after it has left this
    board.close()
    assert seen.Tags()["scalars"] == ["stage", "loss/visible"] and seen.Tags()["images"] == ["views"]
    assert [(event.step, event.value) for event in seen.Scalars("loss/visible")] == [(4, 0.5)]
    (image,) = seen.Images("views")
    assert (image.step, image.height, image.width) == (4, 2, 3)


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_run_that_goes_on_doubles_no_step(tmp_path, cut):
    write(tmp_path, range(4), 1.0)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - cut])  # a killed process can leave half an event
    write(tmp_path, range(3, 6), 2.0)
    found = [(event.step, event.value) for event in shown(tmp_path).Scalars("loss/visible")]
    assert found == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_nothing_to_write_leaves_nothing(tmp_path):
    Board(tmp_path / "board").close()
    assert not (tmp_path / "board").exists()


def test_views_are_shown_as_they_were_before_normalising():
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    pixels = torch.arange(24).view(24, 1, 1, 1).expand(24, 3, 4, 2) * 10
    inputs = (pixels / 255 - mean) / std
    sheet = views_sheet((inputs[:16], inputs[16:]))  # 8 positions: v 0-7, a 8-15, r 16-23
    assert sheet.shape == (3 * 4, 6 * 2, 3)
    expected = 10 * np.array([range(6), range(8, 14), range(16, 22)])
    np.testing.assert_array_equal(sheet, expected.repeat(4, 0).repeat(2, 1)[..., None].repeat(3, 2))


def test_clusters_are_rows():
    images = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(2, 2).repeat(3, 3)
    labels = torch.tensor([-1, *[0] * 9, *[1] * 2, *[2] * 7, *[3] * 3, *[4] * 1, *[7] * 10, *[-1] * 7])
    sheet = clusters_sheet(images, labels)
    assert sheet.shape == (4 * 4, 6 * 2, 3)  # clusters 0, 2, 3, 7: evenly of six
    rows = [sorted(set(row[row > 0].tolist())) for row in sheet[::4, :, 0]]
    assert rows == [[1, 3, 4, 6, 7, 9], [12, 13, 14, 16, 17, 18], [19, 20, 21], [23, 25, 27, 28, 30, 32]]


def test_large_images_are_shown_smaller():
    images = np.full((5, 2 * HEIGHT, HEIGHT, 3), 200, np.uint8)
    sheet = clusters_sheet(images, torch.tensor([0, 0, 0, 1, 1]))
    assert sheet.shape == (2 * HEIGHT, 3 * HEIGHT // 2, 3) and set(np.unique(sheet)) == {0, 200}


def test_where_it_is_not_installed_a_run_ends_before_it_starts(tree, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ValueError, match=r"logging\.tensorboard=true needs tensorboard: pip install 'salcr\[viz\]'"):
        train(load_config(overrides=tiny(tree, "logging.tensorboard=true")), tmp_path)
    assert not (tmp_path / "config.yaml").exists()
