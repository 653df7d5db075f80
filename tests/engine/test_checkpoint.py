import errno
import os
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from salcr.engine import checkpoint


def state(epoch):
    """The kinds of things a training checkpoint holds."""
    layer = torch.nn.Linear(20, 30)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2, 20)).sum().backward()
    optimiser.step()
    return {
        "epoch": epoch,
        "config": {"seed": 0, "data": {"root": "x", "cache": None}, "milestones": [1, 2]},
        "network": layer.state_dict(),
        "optimiser": optimiser.state_dict(),
        "generator": torch.Generator().manual_seed(epoch).get_state(),
        "labels": (torch.arange(5), torch.tensor([-1, 0])),
        "results": {"stage_one": {"all": {"mAP": 12.34, "cmfp": {"mAP": 56.0}}}},
    }


def names(folder):
    return sorted(os.listdir(folder))


def test_a_checkpoint_comes_back(tmp_path):
    saved = state(3)
    path = checkpoint.save_epoch(tmp_path, 3, saved)
    assert names(tmp_path) == [path.name]
    loaded = checkpoint.load(path)
    assert loaded.keys() == saved.keys()
    for key in ("epoch", "config", "results"):
        assert loaded[key] == saved[key]
    for name, x in saved["network"].items():
        assert torch.equal(loaded["network"][name], x)
    assert isinstance(loaded["labels"], tuple) and torch.equal(loaded["labels"][1], saved["labels"][1])
    assert torch.Generator().set_state(loaded["generator"]).initial_seed() == 3
    moments = loaded["optimiser"]["state"][0]
    assert torch.equal(moments["exp_avg"], saved["optimiser"]["state"][0]["exp_avg"])


@pytest.mark.parametrize(
    ("last", "spared", "left"),
    [
        (1, (), [9]),
        (3, (), [7, 8, 9]),
        (1, {2, 5}, [2, 5, 9]),
        (2, range(2, 100, 3), [2, 5, 8, 9]),
        (20, {0}, range(10)),
    ],
)
def test_others_can_be_spared(tmp_path, last, spared, left):
    for epoch in range(10):
        for steps in (1, None):
            checkpoint.save_epoch(tmp_path, epoch, {}, steps=steps, last=last, spared=spared)
    assert names(tmp_path) == [f"epoch_{epoch:04d}.pt" for epoch in left]


def test_those_of_later_epochs_are_not_spared(tmp_path):
    for epoch in range(5):
        checkpoint.save_epoch(tmp_path, epoch, {}, last=9)
    path = checkpoint.save_epoch(tmp_path, 2, {}, spared=range(9))
    assert names(tmp_path) == ["epoch_0000.pt", "epoch_0001.pt", "epoch_0002.pt"]
    checkpoint.prune(tmp_path, path, last=1)
    assert names(tmp_path) == ["epoch_0002.pt"]


def test_copies_of_ones_own_and_what_a_killed_save_left_are_neither_loaded_nor_removed(tmp_path):
    own = "epoch_best.pt", "epoch_0007 copy.pt", "epoch_0009.pt.bak", "epoch_9.pt", "my_epoch_0009.pt"
    others = *own, ".epoch_0020.pt.123.part"
    for name in others:
        (tmp_path / name).write_bytes(b"a copy of one's own")
    assert checkpoint.load_newest(tmp_path) is None  # and warns of nothing
    for epoch in (9, 10, 11):
        checkpoint.save_epoch(tmp_path, epoch, state(epoch))
        assert checkpoint.load_newest(tmp_path)["epoch"] == epoch
    assert names(tmp_path) == sorted([*others, "epoch_0010.pt", "epoch_0011.pt"])


def test_the_middle_of_an_epoch_comes_after_the_epoch_before_it(tmp_path):
    for epoch, steps, left in (
        (0, 5, ["0000_step_0005"]),
        (0, 12, ["0000_step_0012"]),
        (0, None, ["0000"]),
        (1, None, ["0000", "0001"]),
        (2, 300, ["0000", "0001", "0002_step_0300"]),
        (2, None, ["0001", "0002"]),
        (10000, 1, ["0001", "0002", "10000_step_0001"]),
        (10000, None, ["0002", "10000"]),
    ):
        path = checkpoint.save_epoch(tmp_path, epoch, {"steps": steps}, steps=steps)
        assert names(tmp_path) == [f"epoch_{name}.pt" for name in left]
        assert checkpoint.files(tmp_path)[0] == path and checkpoint.position(path) == (epoch, steps)
        assert checkpoint.load_newest(tmp_path) == {"steps": steps}
    checkpoint.save_atomically({"steps": 9}, path.with_name("epoch_10000_step_0009.pt"))  # left by a killed save
    assert checkpoint.files(tmp_path)[0] == path
    path.with_name("epoch_20000_step_0003.pt").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"epoch_20000_step_0003\.pt .*the one before it"):
        assert checkpoint.load_newest(tmp_path) == {"steps": None}


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_a_truncated_newest_is_passed_over(tmp_path, kept):
    for epoch in (0, 1):
        path = checkpoint.save_epoch(tmp_path, epoch, state(epoch))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"epoch_0001\.pt is not a readable checkpoint") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=r"epoch_0001\.pt.*the one before it") as warned:
        assert checkpoint.load_newest(tmp_path)["epoch"] == 0
    assert len(warned) == 1


def test_every_truncation_is_noticed(tmp_path):
    """torch's reader raises all sorts of errors, an OSError for most lengths."""
    path = tmp_path / "epoch_0000.pt"
    checkpoint.save_atomically({"x": torch.zeros(300), "epoch": 0}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            checkpoint.load(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "epoch_0000.pt"
    checkpoint.save_atomically({"weight": torch.full((500,), 0.7)}, path)
    whole = path.read_bytes()
    data = whole.index(torch.full((4,), 0.7).numpy().tobytes())
    for at in (data, data + 777, data + 1999):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"not a readable checkpoint: the checksum of .*data/0 is wrong"):
            checkpoint.load(path)


def test_after_two_damaged_ones_new_ones_of_earlier_epochs_are_kept(tmp_path):
    for epoch in (6, 7):
        checkpoint.save_epoch(tmp_path, epoch, state(epoch)).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="not a readable") as warned:
        assert checkpoint.load_newest(tmp_path) is None
    assert len(warned) == 2
    for epoch in (0, 1, 2):
        checkpoint.save_epoch(tmp_path, epoch, state(epoch))
        assert checkpoint.load_newest(tmp_path)["epoch"] == epoch  # and warns of nothing
    assert names(tmp_path) == ["epoch_0001.pt", "epoch_0002.pt"]


@pytest.mark.parametrize(
    "content",
    [b"", b"seed: 0\n", bytes(4096), b"PK\x03\x04" + bytes(200), b"\x80\x02cq", bytes(range(256)) * 9],
    ids=["empty", "text", "zeros", "zip", "pickle", "bytes"],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "some.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.pt is not a readable checkpoint"):
        checkpoint.load(tmp_path / "some.pt")


def test_random_bytes_raise_nothing_else(tmp_path, rng):
    path = tmp_path / "random.pt"
    for size in rng.integers(1, 400, 300):
        path.write_bytes((b"\x80\x02" if size % 2 else b"") + rng.bytes(size))
        with pytest.raises(ValueError, match=r"random\.pt"):
            checkpoint.load(path)


def test_a_saved_list_is_no_checkpoint(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt is not a checkpoint: it holds a list"):
        checkpoint.load(tmp_path / "list.pt")


class Payload:
    """Unpickling it writes a file: what ``weights_only`` is against."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))], ids=["zip", "raw"])
def test_no_code_of_a_checkpoint_runs_and_no_one_is_told_how_to_let_it(tmp_path, writer):
    writer({"network": Payload(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad\.pt is not a readable checkpoint: ") as caught:
        checkpoint.load(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()
    advice = ("weights_only", "trust", "safe_globals", "allowlist", "loaded")
    assert not [word for word in advice if word in str(caught.value)] and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_program_is_no_checkpoint(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    with pytest.raises(ValueError, match=r"script\.pt is not a readable checkpoint: it is a TorchScript program"):
        checkpoint.load(tmp_path / "script.pt")


def test_a_file_that_grows_as_it_is_read_is_refused(tmp_path):
    """A small file of gigabytes of zeros, or of one tensor's bytes listed a thousand times."""
    checkpoint.save_atomically({"x": torch.zeros(10_000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as bomb:
        for entry in plain.namelist():
            bomb.writestr(entry, plain.read(entry))
    with pytest.raises(ValueError, match=r"bomb\.pt is not a .*: its content is compressed"):
        checkpoint.load(tmp_path / "bomb.pt")


def test_missing_files_are_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        checkpoint.load(tmp_path / "absent.pt")
    with pytest.raises(IsADirectoryError):
        checkpoint.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent/epoch_0000\.pt"):
        checkpoint.save_epoch(tmp_path / "absent", 0, state(0))


def test_a_full_disk_leaves_what_was_there(tmp_path, full_disk):
    for epoch in (0, 1):
        path = checkpoint.save_epoch(tmp_path, epoch, state(epoch))
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    full_disk()
    for epoch in (1, 2):  # over an old file, and a new one
        with pytest.raises(OSError, match="No space left on device") as caught:
            checkpoint.save_epoch(tmp_path, epoch, state(7))
        assert caught.value.errno == errno.ENOSPC
        assert f"epoch_{epoch:04d}.pt" in str(caught.value)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert checkpoint.load(path)["epoch"] == 1


def test_a_file_that_the_system_cuts_off(tmp_path):
    """The same with a limit of the operating system instead of a patch."""
    payload = {"x": torch.zeros(100_000), "epoch": 0}
    checkpoint.save_epoch(tmp_path, 0, payload)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save_epoch(tmp_path, 1, payload)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["epoch_0000.pt"]
    assert checkpoint.load_newest(tmp_path)["epoch"] == 0


def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    checkpoint.save_epoch(tmp_path, 0, state(0))
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_epoch(tmp_path, 1, state(1))
    assert names(tmp_path) == ["epoch_0000.pt"]


def test_tensors_come_back_on_the_cpu_and_numpy_stays_out(tmp_path):
    path = tmp_path / "x.pt"
    checkpoint.save_atomically({"x": torch.arange(4)}, path)
    assert checkpoint.load(path)["x"].device.type == "cpu"
    checkpoint.save_atomically({"x": np.arange(4)}, path)  # not a plain value: nothing may rely on it
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        checkpoint.load(path)
