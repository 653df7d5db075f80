import json
import os
import socket
import subprocess
import sys

import pytest

from salcr.retrieval.report_run import read_runs
from tests.retrieval.run_folders import figures, record, write_run


def read(folder):
    (run,) = read_runs([folder])
    return run


def test_a_finished_run(tmp_path):
    run = read(write_run(tmp_path / "mine"))
    assert (run.name, run.state, run.notes) == ("mine", "finished", [])
    assert [r["epoch"] for r in run.records] == [0, 1, 2, 3]
    assert run.results == [
        ("stage one", {"all-single": figures(20.0)}),
        ("last epoch", {"all-single": figures(40.0)}),
    ]


def test_a_run_that_goes_on_shows_its_newest_evaluations_of_both_stages(tmp_path):
    folder = write_run(tmp_path / "mine", 8, finished=False)
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": "noon"}
    (folder / ".holder.json").write_text(json.dumps(holder))
    run = read(folder)
    assert run.state == f"training (process {os.getpid()} on {socket.gethostname()}, since noon)"
    assert [title for title, _ in run.results] == ["epoch 3", "epoch 7"]
    assert run.results[1][1] == record(7)["evaluation"]
    (folder / "summary.json").write_text("{}")  # of a run that was resumed with more epochs
    assert read(folder).state.startswith("training")


def test_a_best_epoch_is_said_to_be_chosen_on_test_data(tmp_path):
    folder = write_run(tmp_path / "mine", 4, finished=False)
    lines = [record(epoch) | {"chosen_on_test_data": {"metric": "mAP"}} for epoch in (1, 3)] + [record(5)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [title for title, _ in read(folder).results] == ["epoch 1", "epoch 5", "epoch 3, chosen on test data"]
    best = {"epoch": 3, "figures": {"all-single": figures(50.0)}}
    (folder / "summary.json").write_text(json.dumps({"final": {}, "chosen_on_test_data": best}))
    assert read(folder).results[-1] == ("epoch 3, chosen on test data", {"all-single": figures(50.0)})


def test_a_killed_run_is_told_from_one_that_was_stopped(tmp_path):
    folder = write_run(tmp_path / "mine", finished=False)
    assert read(folder).state == "stopped before its end"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder = {"pid": ended.pid, "host": socket.gethostname(), "since": "noon"}
    (folder / ".holder.json").write_text(json.dumps(holder))
    assert read(folder).state.startswith(f"killed (process {ended.pid} ")
    (folder / ".holder.json").write_text(json.dumps(holder | {"pid": 2**80}))  # which no system gives
    assert read(folder).state.startswith(f"killed (process {2**80} ")
    (folder / ".holder.json").write_text(json.dumps(holder))
    (folder / "summary.json").write_text("{}")
    assert read(folder).state == "finished"
    (folder / "summary.json").unlink()
    for damaged in ('{"pid": ', '{"pid": 1e999, "host": "a", "since": "b"}', "[]"):
        (folder / ".holder.json").write_text(damaged)
        assert read(folder).state == "stopped before its end"


def test_half_a_line_is_left_out_and_said(tmp_path):
    folder = write_run(tmp_path / "mine", finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "stage": 2, "lo')
    run = read(folder)
    assert len(run.records) == 4
    assert run.notes == ["metrics.jsonl: 1 line left out, not the record of an epoch"]


@pytest.mark.parametrize(
    "line", ["[1]", "{}", '{"epoch": "1"}', '{"epoch": true}', '{"epoch": 1e3}', "NaN", "[" * 10**5, '{"epoch": 9e99}']
)
def test_lines_that_are_no_record(tmp_path, line):
    folder = write_run(tmp_path / "mine")
    (folder / "metrics.jsonl").write_text(f"{line}\n{json.dumps(record(0))}\n\xff\n")
    run = read(folder)
    assert [r["epoch"] for r in run.records] == [0]
    assert run.notes == ["metrics.jsonl: 2 lines left out, not the record of an epoch"]


def test_a_run_that_died_at_once(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    run = read(tmp_path)
    assert run.records == [] and run.results == []
    assert run.notes == ["no curves: no epoch has ended yet", "no retrieval figures: no evaluation is recorded yet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]  # and nothing was written


@pytest.mark.parametrize("summary", ["[]", '{"final": ', "[" * 10**5, '{"final": 3}'])
def test_a_damaged_summary_is_said(tmp_path, summary):
    folder = write_run(tmp_path / "mine")
    (folder / "summary.json").write_text(summary)
    notes = read(folder).notes
    assert any(note.startswith(("summary.json cannot be read: ", "no retrieval figures: ")) for note in notes)


def test_names_are_the_shortest_that_differ(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a/x/run", "b/x/run", "b/y/run")]
    assert [run.name for run in read_runs(folders)] == ["a/x/run", "b/x/run", "b/y/run"]
    assert [run.name for run in read_runs(folders[1:])] == ["x/run", "y/run"]


def test_what_is_no_run(tmp_path):
    folder = write_run(tmp_path / "mine")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_runs([folder, tmp_path / "absent"])
    with pytest.raises(NotADirectoryError, match=r"config\.yaml is a file"):
        read_runs([folder / "config.yaml"])
    with pytest.raises(ValueError, match=f"{tmp_path} is no run folder: it has neither"):
        read_runs([tmp_path])
    with pytest.raises(ValueError, match="link is named twice"):
        read_runs([folder, tmp_path / "link"])
    (folder / "config.yaml").unlink()  # what a run came to is enough
    assert len(read(folder).records) == 4
