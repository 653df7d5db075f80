import json
import os
import socket

import pytest

from salcr.engine import load_config, single_stage, train
from salcr.engine.run_folder import RunFolder, RunInUse
from salcr.files import make_parent, write_atomically
from tests.engine.tree import tiny


def lines(run):
    return run.metrics.read_text().splitlines()


def test_a_new_folder_comes_with_its_parents(tmp_path):
    run = RunFolder(tmp_path / "runs/a")
    assert run.checkpoints.is_dir()
    assert not run.config.exists() and not run.metrics.exists() and not run.summary.exists()
    assert run.read_metrics() == []
    RunFolder(str(tmp_path / "runs/a"))  # again, and by a string


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        RunFolder(tmp_path / "file")


def test_log_appends_lines(tmp_path):
    run = RunFolder(tmp_path)
    records = [{"epoch": 0, "loss": {"visible": 1.5}}, {"epoch": 1, "name": "Ä\nb"}]
    for record in records:
        run.log(record)
    assert len(lines(run)) == 2
    assert run.read_metrics() == records


@pytest.mark.parametrize(("epoch", "kept"), [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2])])
def test_rewind_drops_an_epoch_and_later(tmp_path, epoch, kept):
    run = RunFolder(tmp_path)
    for n in range(3):
        run.log({"epoch": n, "loss": n / 3})
    before = lines(run)
    run.rewind(epoch)
    assert lines(run) == [before[n] for n in kept]
    run.log({"epoch": epoch})
    assert [record["epoch"] for record in run.read_metrics()] == [*kept, epoch]


@pytest.mark.parametrize("end", [1, 9, -1])
def test_rewind_drops_a_line_that_was_cut_off(tmp_path, end):
    run = RunFolder(tmp_path)
    run.log({"epoch": 0})
    line = json.dumps({"epoch": 1, "loss": 0.5})
    with run.metrics.open("a") as file:
        file.write(line[:end])
    run.rewind(5)
    assert run.read_metrics() == [{"epoch": 0}]


@pytest.mark.parametrize("line", [b"{}", b"[1]", b"3", b'{"epoch": "1"}', b"\xff\x00", b"[" * 100_000, b""])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    run = RunFolder(tmp_path)
    run.metrics.write_bytes(b'{"epoch": 0}\n' + line + b'\n{"epoch": 2}\n')
    for read in (run.read_metrics, lambda: run.rewind(5)):
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: must be the record of an epoch"):
            read()
    run.metrics.write_bytes(b'{"epoch": 0}\n' + line)
    run.rewind(5)
    assert run.read_metrics() == [{"epoch": 0}]


def test_rewind_ends_a_line_that_lacks_only_its_end(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics.write_text('{"epoch": 0}\n{"epoch": 1}')
    run.rewind(2)
    run.log({"epoch": 2})
    assert [record["epoch"] for record in run.read_metrics()] == [0, 1, 2]


def test_rewind_without_metrics_makes_none(tmp_path):
    run = RunFolder(tmp_path)
    run.rewind(0)
    assert not run.metrics.exists()


def test_rewind_removes_the_best_checkpoint_of_later_epochs(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("best_mAP_on_test_data_epoch_0003.pt", "best_mINP_on_test_data_epoch_0004.pt"):
        (run.checkpoints / name).write_bytes(b"")
    run.rewind(4)
    assert os.listdir(run.checkpoints) == ["best_mAP_on_test_data_epoch_0003.pt"]


def test_rewind_removes_what_a_killed_process_left(tmp_path):
    run = RunFolder(tmp_path)
    run.log({"epoch": 0})
    (run.checkpoints / "epoch_0000.pt").write_bytes(b"whole")
    for leftover in (".config.yaml.123.part", ".summary.json.4.part", "checkpoints/.epoch_0001.pt.123.part"):
        (tmp_path / leftover).write_bytes(b"half")
    run.rewind(1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoints", "metrics.jsonl"]
    assert os.listdir(run.checkpoints) == ["epoch_0000.pt"]


def test_the_second_run_hears_who_has_the_folder(tmp_path):
    run, other = RunFolder(tmp_path), RunFolder(tmp_path)
    (tmp_path / ".holder.json").write_text('{"pid": 1, "host": "elsewhere", "since": "long ago"}')  # it was killed
    with run.locked():
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        said = rf"another run trains in .*: {holder}, since \d\d\d\d-\d\d-\d\d \d\d:"
        with pytest.raises(RunInUse, match=said), other.locked():
            pass
        for content in ("", "[]", "{}", "\0"):  # it has just begun
            (tmp_path / ".holder.json").write_text(content)
            with (
                pytest.raises(RunInUse, match=r"it does not say which process it is \(lock: .*\.lock\)"),
                other.locked(),
            ):
                pass
    assert sorted(os.listdir(tmp_path)) == [".lock", "checkpoints"]
    with other.locked():
        pass


@pytest.mark.parametrize("file", ["checkpoints/epoch_0000.pt", "checkpoints/epoch_0000_step_0001.pt", "summary.json"])
def test_a_folder_that_holds_a_training_and_is_cleared(tmp_path, file):
    run = RunFolder(tmp_path)
    run.config.write_text("seed: 0\n")
    (run.checkpoints / "epoch_best.pt").write_bytes(b"a copy of one's own")
    (run.checkpoints / "best_mAP_on_test_data_epoch_0000.pt").write_bytes(b"")
    run.board.mkdir()
    (run.board / "events.out.tfevents.1").write_bytes(b"")
    (tmp_path / "report.html").write_text("of what is removed")
    run.log({"epoch": 0})  # its checkpoint was never written
    assert not run.has_trained()
    (tmp_path / file).write_bytes(b"")
    assert run.has_trained()
    run.clear()
    assert not run.has_trained()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"config.yaml", "epoch_best.pt"}
    run.log({"epoch": 0})
    run.log({"epoch": 1})  # somebody has removed the checkpoints
    assert run.has_trained()


def test_the_summary_is_written_whole_or_not_at_all(tmp_path, full_disk):
    run = RunFolder(tmp_path)
    summary = {"stage_one": {"all": {"mAP": 1.25}}, "final": {"all": {"mAP": 2.5}}}
    run.write_summary(summary)
    assert json.loads(run.summary.read_text()) == summary
    full_disk()
    with pytest.raises(OSError, match=r"No space left on device: .*summary\.json"):
        run.write_summary({"final": {}})
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        run.log({"epoch": 0})
    assert json.loads(run.summary.read_text()) == summary
    assert sorted(os.listdir(tmp_path)) == ["checkpoints", "metrics.jsonl", "summary.json"]


@pytest.mark.parametrize("content", ["text Ä\n", b"\x00\xff", memoryview(b"abc")])
def test_write_atomically_replaces_and_leaves_one_file(tmp_path, monkeypatch, content):
    path, on_disk = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda file: on_disk.append(os.fstat(file).st_size))
    path.write_text("a longer text that was there before")
    with path.open() as reader:
        write_atomically(path, content)
        assert reader.read() == "a longer text that was there before"  # another file took the name
    assert on_disk == [path.stat().st_size]
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(FileNotFoundError, match="absent"):
        write_atomically(tmp_path / "absent" / "file", content)


def test_a_folder_that_may_not_be_written_to_is_an_error_before_the_work(tmp_path, monkeypatch):
    make_parent(tmp_path / "new/folder/page.html")
    asked = []
    monkeypatch.setattr(os, "access", lambda *question: asked.append(question))
    with pytest.raises(PermissionError, match=r"Permission denied: .*folder'"):
        make_parent(tmp_path / "new/folder/page.html")
    assert asked == [(tmp_path / "new/folder", os.W_OK)]


def test_no_epoch_in_either_stage_is_an_error_before_anything_is_written(tree, tmp_path):
    config = single_stage(load_config(overrides=tiny(tree, "schedule.stage_one_epochs=0")), "one")
    with pytest.raises(ValueError, match=r"stage_one_epochs and schedule\.stage_two_epochs are 0: there is nothing"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
