"""Where the decoded images of a run are kept, and what the log says of its data set."""

import errno
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tqdm

from salcr.engine import load_config
from salcr.engine.images import counting, open_dataset, open_images
from tests.data.trees import make_sysu


@pytest.fixture
def root(tmp_path):
    return make_sysu(tmp_path / "data", images=1)


@pytest.fixture
def close_folder(monkeypatch):
    """A function that makes a folder read-only, also for root."""
    closed, real = [], Path.mkdir

    def mkdir(self, *arguments, **options):
        if any(self.is_relative_to(folder) for folder in closed):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        real(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    return closed.append


def images(root, *overrides):
    config = load_config(overrides=[f"data.root={root}", "data.height=6", "data.width=4", "model.parts=1", *overrides])
    return open_images(open_dataset(config).test, config)


def stores(folder):
    return [path.relative_to(folder).parent.as_posix() for path in folder.rglob("*.npy")]


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_a_read_only_data_set_is_decoded_into_the_users_cache(
    root, tmp_path, monkeypatch, caplog, close_folder, variable
):
    expected = np.array(images(root, f"data.cache={tmp_path / 'elsewhere'}"))
    close_folder(root)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "mine"))
    with caplog.at_level(logging.INFO, "salcr"):
        found = images(root)
        images(root)
    np.testing.assert_array_equal(found, expected)
    place = "salcr/images" if variable == "XDG_CACHE_HOME" else ".cache/salcr/images"
    assert stores(tmp_path / "mine") == [place] and stores(root) == []
    (line,) = [r.getMessage() for r in caplog.records if "cannot be written" in r.getMessage()]
    assert str(root / ".salcr-cache") in line and str(tmp_path / "mine" / place) in line and "data.cache=" in line


def test_without_a_folder_to_write_in_the_error_names_the_setting(root, tmp_path, monkeypatch, close_folder):
    close_folder(root)
    close_folder(tmp_path / "mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    with pytest.raises(
        OSError, match=r"neither .*\.salcr-cache nor .*mine/salcr/images can be written: set data\.cache"
    ):
        images(root)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where nobody is at home
    with pytest.raises(ValueError, match=r"set data\.cache"):
        images(root)
    assert not Path("~").exists()


def test_a_cache_that_was_asked_for_is_not_replaced(root, tmp_path, monkeypatch, close_folder):
    close_folder(tmp_path / "asked")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    with pytest.raises(OSError, match="Read-only") as caught:
        images(root, f"data.cache={tmp_path / 'asked'}")
    assert str(tmp_path / "asked") in str(caught.value) and not (tmp_path / "mine").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT])
def test_what_is_wrong_elsewhere_is_not_taken_for_a_closed_folder(root, tmp_path, monkeypatch, number):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))

    def fails(*_, cache, **__):
        asked.append(cache)
        raise OSError(number, os.strerror(number), str(root / "cam1"))

    asked = []
    monkeypatch.setattr("salcr.engine.images.open_store", fails)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        images(root)
    assert caught.value.filename == str(root / "cam1") and asked == [root / ".salcr-cache"]


def test_what_is_wrong_in_the_users_cache_is_said_as_it_is(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))

    def fails(*_, cache, **__):
        number = errno.EROFS if cache == root / ".salcr-cache" else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(cache))

    monkeypatch.setattr("salcr.engine.images.open_store", fails)
    with pytest.raises(OSError, match="No space left"):
        images(root)


def test_progress_is_a_line_or_on_a_terminal_a_bar(monkeypatch, caplog):
    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    for terminal in (False, True):
        monkeypatch.setattr("salcr.engine.images.shows_bars", lambda terminal=terminal: terminal)
        with caplog.at_level(logging.INFO, "salcr"), counting("decoding") as show:
            for done in (1, 3, 7):
                show(done, 7)
    assert caplog.messages == ["decoding: 7"]
    assert [(bar.n, bar.total) for bar in bars] == [(0, 7), (7, 7)]  # off a terminal a bar counts nothing


def test_the_log_names_what_is_left_out(root, caplog):
    (root / "cam1/0004/a.gif").write_text("")
    with caplog.at_level(logging.INFO, "salcr"):
        images(root)
    assert any("left out" in r.getMessage() and "cam1/0004/a.gif" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("stream", [None, SimpleNamespace(write=len, flush=int)], ids=["closed", "a program's own"])
def test_without_a_standard_error_that_knows_terminals_there_is_no_bar(stream, monkeypatch, caplog):
    """Where the file was closed (``2>&-``, pythonw), or a program with a window has put an object of its own there."""
    monkeypatch.setattr(sys, "stderr", stream)
    with caplog.at_level("INFO"), counting("decoding images") as progress:
        progress(1, 3)
    assert caplog.messages == ["decoding images: 3"]
