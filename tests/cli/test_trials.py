"""``salcr train --trials``: a stand-in for the training of each trial, which writes what a run folder ends with."""

import json
import os
import re
import shlex
import signal
import sys
import threading
import time

import pytest
import torch

from salcr import engine
from salcr.cli import trials
from salcr.cli.trials import parse_trials, train_trials
from salcr.engine import load_config
from salcr.engine.interruption import Interrupted
from salcr.engine.run_folder import RunFolder, RunInUse
from tests.cli.conftest import assert_one_line
from tests.data.trees import make_regdb
from tests.engine.conftest import standard_signal_handlers  # noqa: F401

STAND_IN = """
import json, os, sys, time
arguments = sys.argv[1:]
print(json.dumps(arguments), flush=True)
out, config = arguments[2], arguments[4]
trial = int(arguments[-1].removeprefix("data.trial="))
with open(out + "/calls", "a") as file:
    file.write(json.dumps([arguments[5:-1], os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")]))
    file.write("\\n")
with open(config) as file, open(out + "/config.yaml", "w") as own:
    own.write(file.read().replace("trial: 1\\n", f"trial: {trial}\\n"))
if os.path.exists(f"{out}/../wait"):
    time.sleep(60)
if os.path.exists(f"{out}/../fail {trial}"):
    sys.exit("salcr: no images\\n")
figures = {"rank-1": 10.0 * trial, "mAP": 1.0, "mINP": 0.5 * trial}
protocol = {**figures, "cmfp": figures}
with open(out + "/summary.json", "w") as file:
    json.dump({"stage_one": {"v": protocol}, "final": {"v": protocol, "t": protocol}}, file)
"""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(trials, "SALCR", (sys.executable, "-I", "-S", "-c", STAND_IN))
    monkeypatch.setattr(trials, "SECONDS", 0.01)


@pytest.fixture
def config(tmp_path):
    return load_config(preset="regdb", overrides=["device=cpu", f"data.root={tmp_path}"])


def calls(out, trial):
    """What each run of a trial was given: options, GPU and threads."""
    path = out / f"trial_{trial}/calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1-10", list(range(1, 11))), ("3", [3]), ("7, 1-2", [1, 2, 7]), ("10-10", [10])],
)
def test_trials_by_number_and_range(text, wanted):
    assert parse_trials(text, "regdb") == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--trials reads like 1-10 or 1,3,5-7, got ''"),
        ("1-", "--trials reads like .*, got '1-'"),
        ("one", "--trials reads like .*, got 'one'"),
        ("1,,2", "--trials reads like .*, got '1,,2'"),
        ("-1", "--trials reads like .*, got '-1'"),
        ("0-3", "--trials must be ascending within 1-10 for regdb, got '0-3'"),
        ("5-4", "--trials must be ascending within 1-10 for regdb, got '5-4'"),
        ("1-11", "--trials must be ascending within 1-10 for regdb, got '1-11'"),
        ("1-3,2", "--trials names a trial twice: '1-3,2'"),
    ],
)
def test_what_is_no_range_is_an_error(text, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        parse_trials(text, "regdb")


def test_a_data_set_with_one_training_has_no_trials():
    with pytest.raises(ValueError, match=r"^sysu has one training: --trials is for .* several splits \(regdb\)$"):
        parse_trials("1-2", "sysu")


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_trial_has_its_folder_and_all_of_them_one_summary(tmp_path, config, jobs):
    summary = train_trials(config, tmp_path, [1, 2, 6], jobs=jobs)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert set(summary["trials"]) == {"1", "2", "6"} and summary["failed"] == {}
    for trial in (1, 2, 6):
        path = tmp_path / f"trial_{trial}"
        assert json.loads((path / "summary.json").read_text()) == summary["trials"][str(trial)]
        assert load_config(file=path / "config.yaml").data.trial == trial
    mean, deviation = summary["mean"]["final"]["t"], summary["deviation"]["final"]["t"]
    assert (mean["rank-1"], mean["mAP"], mean["cmfp"]["mINP"]) == (30.0, 1.0, 1.5)
    assert (deviation["rank-1"], deviation["mAP"], deviation["cmfp"]["mINP"]) == (26.46, 0.0, 1.32)


def test_the_deviation_of_one_trial_is_zero(tmp_path, config):
    assert train_trials(config, tmp_path, [4])["deviation"]["final"]["v"]["rank-1"] == 0


def test_a_trial_that_fails_is_named_and_the_others_go_on(tmp_path, config):
    (tmp_path / "fail 2").touch()
    summary = train_trials(config, tmp_path, [1, 2, 3])
    log = tmp_path / "trial_2/train.log"
    assert summary["failed"] == {"2": f"exit status 1: salcr: no images ({log})"}
    assert summary["mean"]["final"]["v"]["rank-1"] == 20.0 and set(summary["trials"]) == {"1", "3"}
    (tmp_path / "fail 2").unlink()
    summary = train_trials(config, tmp_path, [1, 2, 3], resume=True)
    assert summary["failed"] == {} and [len(calls(tmp_path, trial)) for trial in (1, 2, 3)] == [1, 2, 1]
    assert calls(tmp_path, 2)[1][0] == ["--resume"]


def test_where_every_trial_fails_there_are_no_figures(tmp_path, config):
    (tmp_path / "fail 1").touch()
    summary = train_trials(config, tmp_path, [1])
    assert summary["mean"] == summary["trials"] == {} and "1" in summary["failed"]
    assert "trial 1 failed: exit status 1: salcr: no images" in trials.trials_table(summary)


def test_a_trial_that_was_killed_is_named_with_its_signal(tmp_path, config, monkeypatch):
    monkeypatch.setattr(trials, "SALCR", (sys.executable, "-I", "-S", "-c", "import os; os.kill(os.getpid(), 9)"))
    assert train_trials(config, tmp_path, [1])["failed"]["1"].startswith("killed by SIGKILL: ")


def test_trials_that_have_trained_are_resumed_or_restarted_or_left_alone(tmp_path, config):
    train_trials(config, tmp_path, [1, 2])
    with pytest.raises(FileExistsError, match=r"trial_1 already holds a run: resume the trials or choose another"):
        train_trials(config, tmp_path, [1, 2, 3])
    assert set(train_trials(config, tmp_path, [1, 2, 3], resume=True)["trials"]) == {"1", "2", "3"}
    assert [len(calls(tmp_path, trial)) for trial in (1, 2, 3)] == [1, 1, 1]
    train_trials(config, tmp_path, [1], restart=True)
    assert [call[0] for call in calls(tmp_path, 1)] == [[], ["--restart"]]
    with pytest.raises(ValueError, match="resume or restart, not both"):
        train_trials(config, tmp_path, [1], resume=True, restart=True)


def test_a_restart_that_was_cut_off_goes_on_with_no_old_result(tmp_path, config, monkeypatch):
    train_trials(config, tmp_path, [1, 2])
    other = load_config(file=tmp_path / "trials.yaml", overrides=["clustering.eps=0.4"])

    def cut_off(*_):
        raise Interrupted(signal.SIGTERM)

    with (
        monkeypatch.context() as patch,
        pytest.raises(Interrupted, match=r"^ended by SIGTERM: 0 of 2 trials have ended; .* --resume"),
    ):
        patch.setattr(trials, "_run", cut_off)
        train_trials(other, tmp_path, [1, 2], restart=True)
    train_trials(other, tmp_path, [1, 2], resume=True)
    assert [len(calls(tmp_path, trial)) for trial in (1, 2)] == [2, 2]


def test_a_restart_leaves_a_trial_alone_that_another_process_trains(tmp_path, config):
    train_trials(config, tmp_path, [1])
    with RunFolder(tmp_path / "trial_1").locked(), pytest.raises(RunInUse, match=r"another run trains in .*trial_1"):
        train_trials(config, tmp_path, [1], restart=True)
    assert (tmp_path / "trial_1/summary.json").exists()


def test_a_trial_that_ended_with_other_settings_is_an_error(tmp_path, config):
    train_trials(config, tmp_path, [1])
    other = load_config(file=tmp_path / "trials.yaml", overrides=["clustering.eps=0.4"])
    with pytest.raises(ValueError, match=r"trial_1/config.yaml: clustering.eps is 0.4, there 0.3"):
        train_trials(other, tmp_path, [1, 2], resume=True)


def test_more_epochs_go_on_with_trials_that_have_ended(tmp_path, config):
    train_trials(config, tmp_path, [1])
    longer = load_config(file=tmp_path / "trials.yaml", overrides=["schedule.stage_two_epochs=41"])
    train_trials(longer, tmp_path, [1], resume=True)
    assert [call[0] for call in calls(tmp_path, 1)] == [[], ["--resume"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_runs_and_says_how_to_go_on(tmp_path, config, number):
    train_trials(config, tmp_path, [1])
    (tmp_path / "wait").touch()

    def send():
        while not calls(tmp_path, 2):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    way_on = re.escape(f"`salcr train --trials 1,2,3 --jobs 1 --resume --out {shlex.quote(str(tmp_path))}` goes on")
    text = f"^ended by {number.name}: 1 of 3 trials have ended; {way_on}$"
    with pytest.raises(Interrupted, match=text):
        train_trials(config, tmp_path, [1, 2, 3], resume=True)
    thread.join()
    assert not calls(tmp_path, 3)


def test_jobs_have_a_gpu_each(tmp_path, config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    anywhere = config.model_copy(update={"device": "auto"})
    train_trials(anywhere, tmp_path, [1, 2, 3], jobs=2)
    assert {calls(tmp_path, trial)[0][1] for trial in (1, 2, 3)} == {"0", "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7,9")
    train_trials(anywhere, tmp_path, [4, 5, 6], jobs=3)
    assert {calls(tmp_path, trial)[0][1] for trial in (4, 5, 6)} == {"5", "GPU-7", "9"}
    with pytest.raises(ValueError, match=r"^--jobs 4 gives each trial a GPU, and there are 3$"):
        train_trials(anywhere, tmp_path, [7], jobs=4)
    with pytest.raises(ValueError, match=r"^--jobs 2 .* device must be auto, cuda or cpu, got cuda:1$"):
        train_trials(config.model_copy(update={"device": "cuda:1"}), tmp_path, [7], jobs=2)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_jobs_share_the_processor(tmp_path, config, monkeypatch, device):
    config = config.model_copy(update={"device": device})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    train_trials(config, tmp_path, [1, 2], jobs=2)
    assert [calls(tmp_path, trial)[0][2] for trial in (1, 2)] == ["3", "3"]
    with pytest.raises(ValueError, match=r"^--jobs must be at least 1, got 0$"):
        train_trials(config, tmp_path, [3], jobs=0)


def test_the_command_prints_one_table(salcr, tmp_path):
    make_regdb(tmp_path / "images", splits=(1, 2))
    out = tmp_path / "out"
    options = ["train", "--trials", "1-2", "--preset", "regdb", "--out", out, f"data.root={tmp_path / 'images'}"]
    code, text, _ = salcr(*options)
    assert code == 0
    assert [line.split()[:2] for line in text.splitlines()[1:9]] == [
        [protocol, row] for protocol in "vt" for row in ("1", "2", "mean", "deviation")
    ]
    assert f"{'v':<24}{'mean':<12}{15:>8.2f}{1:>8.2f}{0.75:>8.2f}" in text and text.endswith(f"run folder: {out}\n")
    (out / "fail 3").touch()
    code, text, _ = salcr("train", "--trials", "1-3", "--resume", "--out", out)
    assert code == 1 and "trial 3 failed: exit status 1: salcr: no images" in text and "mean" in text
    code, _, err = salcr("train", "--resume", "--out", out)
    assert code == 1 and "holds no run to go on with: no config.yaml" in err


def test_errors_of_the_command_are_one_line(salcr, tmp_path):
    for arguments, message in [
        (("--trials", "1-2", "--preset", "sysu"), "sysu has one training"),
        (("--trials", "x", "--preset", "regdb"), "--trials reads like"),
        (("--jobs", "2", "--preset", "regdb"), "--jobs goes with --trials"),
    ]:
        assert_one_line(salcr("train", "--out", tmp_path, *arguments), message)


def test_what_a_trial_is_started_with_is_a_training_of_its_split(salcr, tmp_path, config, monkeypatch):
    """The command line of a trial, run in this process; the training itself is left out."""
    train_trials(config, tmp_path, [5])
    arguments = json.loads((tmp_path / "trial_5/train.log").read_text())
    trained = []
    monkeypatch.setattr(engine, "train", lambda *given, **options: trained.append((given, options)) or {"final": {}})
    salcr(*arguments)
    (settings, folder), options = trained[0]
    assert settings == config.model_copy(update={"data": config.data.model_copy(update={"trial": 5})})
    assert folder == tmp_path / "trial_5" and options == {"resume": False, "restart": False, "profile": False}
