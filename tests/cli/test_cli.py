import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import typer
from typer.main import get_command

from salcr import __version__ as version
from salcr import cli, engine
from salcr.data import DATASETS
from salcr.data.synthetic import write
from salcr.engine import checkpoint, demo, load_config
from salcr.engine import pretrain as pretraining
from salcr.engine.config import dump_config
from salcr.engine.interruption import Interrupted
from salcr.models import SALCRNetwork
from tests.cli.conftest import assert_one_line
from tests.data.trees import make_folder
from tests.engine.tree import tiny, write_tree

COMMANDS = {"train", "config", "evaluate", "extract", "index", "search", "cluster", "check-data", "synth", "pretrain"}
COMMANDS |= {"demo", "export", "info", "report"}
FAST = (
    "schedule.iterations=1",
    "schedule.stage_one_epochs=1",
    "schedule.stage_two_epochs=1",
    "evaluation.refinements=[]",
)


@pytest.fixture(scope="module")
def saved(tree, tmp_path_factory):
    """A run folder's checkpoint of an untrained network."""
    torch.manual_seed(1)
    config, run = load_config(overrides=tiny(tree, *FAST)), tmp_path_factory.mktemp("saved")
    (run / "config.yaml").write_text(dump_config(config))
    state = {"epoch": 0, "config": config.model_dump(mode="json"), "network": SALCRNetwork("tiny").state_dict()}
    (run / "checkpoints").mkdir()
    checkpoint.save_atomically(state, run / "checkpoints/epoch_0000.pt")
    return run / "checkpoints/epoch_0000.pt"


@pytest.mark.parametrize("command", sorted(get_command(cli.app).commands))
def test_every_command_has_help(salcr, command):
    code, out, _ = salcr(command, "--help")
    assert code == 0 and "Usage:" in out
    summary = get_command(cli.app).commands[command].help
    assert summary and summary.split()[0] in out


def test_help_lists_the_commands(salcr):
    code, out, _ = salcr("--help")
    assert code == 0
    for command in COMMANDS:
        assert f" {command} " in out


def test_help_names_every_data_set():
    commands = get_command(cli.app).commands
    options = {(name, option.name): option for name, command in commands.items() for option in command.params}
    for name, spec in DATASETS.items():
        assert f"{name}: {spec.description}" in options["check-data", "dataset"].help
        assert name in options["synth", "layout"].help and spec.preset in options["train", "preset"].help
    assert options["synth", "layout"].default in DATASETS


def test_help_is_quick():
    """As ``python -m salcr`` gives it."""
    code = "import runpy, sys; sys.argv = ['salcr', '--help']\n"
    code += "try:\n    runpy.run_module('salcr', run_name='__main__')\n"
    code += "except SystemExit:\n    print({'torch', 'numba', 'scipy', 'PIL'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.rstrip().endswith("set()")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "market"], ["preset must be one of demo, sysu, regdb, llcm, ", "got 'market'"]),
        (["data.name=market"], ["data.name: must be one of sysu, regdb, llcm, ", "got 'market'"]),
        (["seed=x", "schedule.lrr=3"], ["seed: ", "'x'", "unknown key 'schedule.lrr', did you mean schedule.lr?"]),
        (["seed"], ["key.sub=value", "'seed'"]),
        (["seed=["], ["'seed=['", "not YAML"]),
        (["--config", "absent.yaml"], ["absent.yaml"]),
        (["--stage", "three"], ["one or two", "'three'"]),
        (["--stage", "two"], ["model.checkpoint=FILE"]),
        (["--preset", "sysu"], ["data.root is not set"]),
        (["data.root=no/such/folder"], ["no/such/folder"]),
        (["data.root=."], ["no split file exp/train_id.txt", "data.name is sysu", "data.name=folder"]),
        (["device=gpu", "data.root=."], ["device 'gpu'"]),
    ],
)
def test_a_training_that_cannot_begin(salcr, tmp_path, arguments, named):
    assert_one_line(salcr("train", "--out", tmp_path / "run", *arguments), *named)
    assert not (tmp_path / "run/config.yaml").exists()


def test_weights_that_do_not_fit(salcr, tree, saved, tmp_path):
    assert_one_line(
        salcr("train", "--out", tmp_path / "a", *tiny(tree, f"model.weights={saved}")),
        f"{saved} holds no tensors by name, but 'epoch', 'config', 'network'",
    )
    other = f"model.checkpoint={saved}", "model.parts=2"
    assert_one_line(
        salcr("train", "--stage", "two", "--out", tmp_path / "b", *tiny(tree, *other)),
        saved,
        "does not fit this network",
        "parts.tokens",
    )


def test_a_broken_image_stops_training_and_is_named(salcr, tmp_path):
    root = write_tree(tmp_path / "tree")
    (root / "cam2/0003/0002.png").write_bytes(b"")
    assert_one_line(salcr("train", "--out", tmp_path / "run", *tiny(root)), "cam2/0003/0002.png")


def test_an_existing_run(salcr, tree, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    assert_one_line(salcr("train", "--out", tmp_path, *tiny(tree)), tmp_path, "already holds a run")
    assert_one_line(salcr("train", "--resume", "--out", tmp_path, *tiny(tree)), "salcr train --restart --out")
    assert_one_line(
        salcr("train", "--resume", "--restart", "--out", tmp_path, *tiny(tree)), "resume or restart, not both"
    )
    assert_one_line(salcr("train", "--resume", "--out", tmp_path), tmp_path, "holds no run to go on with")


@pytest.fixture
def asked(monkeypatch):
    """The configurations and options that training is called with; there is none."""
    calls = []
    monkeypatch.setattr(
        engine, "train", lambda config, folder, **options: calls.append((config, options)) or {"final": {}}
    )
    return calls


def test_resume_and_restart_read_the_folders_configuration(salcr, tree, tmp_path, asked):
    own = load_config(overrides=tiny(tree, *FAST, "seed=5"))
    (tmp_path / "config.yaml").write_text(dump_config(own))
    longer = "schedule.stage_two_epochs=9"
    assert salcr("train", "--resume", "--out", tmp_path)[0] == 0
    assert salcr("train", "--restart", "--out", tmp_path)[0] == 0
    assert salcr("train", "--resume", "--out", tmp_path, longer)[0] == 0
    assert salcr("train", "--resume", "--out", tmp_path, "--preset", "demo", "data.root=x")[0] == 0
    assert salcr("train", "--resume", "--out", tmp_path / "new", *tiny(tree))[0] == 0  # there is nothing yet
    assert [config for config, _ in asked] == [
        *(own, own),
        load_config(overrides=tiny(tree, *FAST, "seed=5", longer)),
        load_config(preset="demo", overrides=["data.root=x"]),
        load_config(overrides=tiny(tree)),
    ]
    plain = dict(profile=False)
    assert [options for _, options in asked[:2]] == [
        dict(resume=True, restart=False) | plain,
        dict(resume=False, restart=True) | plain,
    ]


def test_profile_is_of_one_run(salcr, tree, tmp_path, asked):
    assert salcr("train", "--profile", "--out", tmp_path, *tiny(tree))[0] == 0
    assert [options["profile"] for _, options in asked] == [True]
    status, _, said = salcr("train", "--profile", "--trials", "1", "--out", tmp_path, *tiny(tree))
    assert status == 1 and "--profile goes with one run" in said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["train", "demo"])
def test_a_signal_is_the_exit_status_and_the_way_on_is_said(salcr, tmp_path, monkeypatch, command, number, status):
    def interrupted(*_, **__):
        raise Interrupted(number, "`salcr …` goes on")

    monkeypatch.setattr(engine, "train", interrupted)
    monkeypatch.setattr(demo, "demo", interrupted)
    assert salcr(command, "--out", tmp_path) == (status, "", f"salcr: ended by {number.name}: `salcr …` goes on\n")


@pytest.mark.parametrize("command", ["evaluate", "extract"])
def test_checkpoints_that_are_none(salcr, tmp_path, saved, command):
    out = ["--out", tmp_path / "out"]
    assert_one_line(salcr(command, "--checkpoint", tmp_path / "absent.pt", *out), "absent.pt")
    assert_one_line(salcr(command, "--checkpoint", tmp_path, *out), tmp_path)
    (tmp_path / "text.pt").write_text("not a checkpoint\n" * 50)
    assert_one_line(salcr(command, "--checkpoint", tmp_path / "text.pt", *out), "text.pt is not a readable checkpoint")
    (tmp_path / "cut.pt").write_bytes(saved.read_bytes()[:-1000])
    assert_one_line(salcr(command, "--checkpoint", tmp_path / "cut.pt", *out), "cut.pt is not a readable checkpoint")
    torch.save(SALCRNetwork("tiny").state_dict(), tmp_path / "weights.pt")
    assert_one_line(salcr(command, "--checkpoint", tmp_path / "weights.pt", *out), "is no checkpoint of this project")
    assert_one_line(salcr(command, "--checkpoint", saved, *out, "data.root=elsewhere"), "elsewhere")
    assert_one_line(salcr(command, "--checkpoint", saved, *out, "colour=1"), "unknown key 'colour'")
    assert not (tmp_path / "out").exists()


def test_figures_on_the_screen_and_in_a_file(salcr, saved, tmp_path):
    code, out, _ = salcr("evaluate", "--checkpoint", saved)
    assert code == 0
    assert salcr("evaluate", "--checkpoint", saved, "--out", tmp_path / "new/figures.json")[:2] == (0, "")
    assert json.loads((tmp_path / "new/figures.json").read_text()) == json.loads(out)
    assert set(json.loads(out)["all-single"]) == {"rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mINP"}


def test_a_backend_that_cannot_run_is_one_line(salcr, saved, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    arguments = ["--checkpoint", saved, "device=cpu", "backend=triton", "evaluation.refinements=[cmrr]"]
    assert_one_line(salcr("evaluate", *arguments), "impl='triton'", "cannot run: it takes tensors on")


def test_one_stage_after_the_other(salcr, tree, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    rates = "schedule.milestones=[1]"
    code, out, _ = salcr("train", "--stage", "one", "--out", one, *tiny(tree, *FAST, rates))
    assert code == 0 and f"run folder: {one}" in out
    first = one / "checkpoints/epoch_0000.pt"
    code, _, _ = salcr("train", "--stage", "two", "--out", two, *tiny(tree, *FAST, rates, f"model.checkpoint={first}"))
    assert code == 0
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert summaries[0]["final"] == summaries[1]["stage_one"]
    learning_rates = [
        checkpoint.load(folder / "checkpoints/epoch_0000.pt")["optimiser"]["param_groups"][0]["lr"]
        for folder in (one, two)
    ]
    assert learning_rates == pytest.approx([3.5e-4, 3.5e-5])
    assert salcr("report", one, two, "--out", tmp_path / "report.html")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "loss: augmented" in page and "loss: global instance" in page and "<h2>Not shown" not in page
    assert all(f"Worst queries of {name}" in page and f"training images of {name}" in page for name in ("one", "two"))


def test_check_data_of_a_good_folder(salcr, tree):
    arguments = "--dataset", "sysu", "--root", tree
    assert salcr("check-data", *arguments, "--no-published-counts")[:2] == (0, "no problems\n")
    code, out, _ = salcr("check-data", *arguments)
    assert code == 1
    for text in ("8 train identities, published are 395", "128 visible train images, published are 22,258"):
        assert text in out.splitlines()


def test_check_data_of_a_broken_folder(salcr, tmp_path):
    root = write_tree(tmp_path / "tree")
    arguments = "check-data", "--dataset", "sysu", "--root", root, "--no-published-counts"
    (root / "cam1/0001/0001.png").write_bytes(b"not a picture")
    picture = root / "cam5/0010/0004.png"
    picture.write_bytes(picture.read_bytes()[:200])
    for folder in (root / "cam3/0004", root / "cam6/0004"):
        for path in folder.iterdir():
            path.unlink()
    code, out, _ = salcr(*arguments)
    problems = out.splitlines()
    assert code == 1 and len(problems) == 3
    assert any("cam1/0001/0001.png does not decode" in problem for problem in problems)
    assert any("cam5/0010/0004.png does not decode" in problem for problem in problems)
    assert "no infrared train image of identity 4" in problems
    (root / "exp/test_id.txt").unlink()
    code, out, _ = salcr(*arguments)
    assert code == 1 and "exp/test_id.txt" in out


def test_names_never_steer_the_terminal(salcr, tmp_path, monkeypatch):
    """Neither in what is printed nor in the log, whose lines are salcr's own."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    name = "\x1b[2Jall is well\nsalcr: done"
    for side in ("visible", "infrared"):
        place = tmp_path / side
        place.mkdir()
        (place / f"{name}.png").write_bytes(b"no picture")
        (place / f"{name}.txt").write_bytes(b"")
    monkeypatch.setattr(  # which takes escape sequences out only where there is no terminal
        typer, "echo", lambda text, err=False: print(text, file=sys.stderr if err else sys.stdout)
    )
    code, out, _ = salcr("check-data", "--dataset", "folder", "--root", tmp_path)
    assert code == 1 and "\x1b" not in out and out.count("\n") == 4 and r"\x1b[2Jall is well\nsalcr: done.png" in out
    _, _, err = salcr("train", "--preset", "folder", "--out", tmp_path / "run", f"data.root={tmp_path}")
    assert "\x1b" not in err and r"\x1b[2Jall is well\nsalcr: done.txt" in err and "\nsalcr: done" not in err


def test_check_data_of_nothing(salcr, tmp_path):
    code, out, _ = salcr("check-data", "--dataset", "sysu", "--root", tmp_path / "absent")
    assert code == 1 and "absent" in out
    assert_one_line(salcr("check-data", "--dataset", "market", "--root", tmp_path), "sysu, regdb, llcm", "'market'")


def test_a_folder_of_your_own(salcr, tmp_path, caplog):
    root = tmp_path / "images"
    with caplog.at_level(logging.INFO, logger="salcr"):
        code, out, _ = salcr("synth", "--layout", "folder", "--out", root, "--ids", 3, "--images-per-camera", 1)
    assert code == 0 and out == f"folder layout: {root}\n" and caplog.messages == ["rendering images: 12"]
    code, out, _ = salcr("check-data", "--dataset", "folder", "--root", root)
    assert code == 0 and re.fullmatch(r"note: 2 train identities, 4 visible train images, .*\nno problems\n", out)
    for part in ("infrared", "query"):
        shutil.rmtree(root / part)
    code, out, _ = salcr("check-data", "--dataset", "folder", "--root", root)
    assert code == 1 and out == f"no query folder in {root}: a split is query and gallery (or neither)\n"
    shutil.rmtree(root / "gallery")
    code, out, _ = salcr("check-data", "--dataset", "folder", "--root", root)
    assert code == 1 and out == f"no infrared train image under {root / 'infrared'}, which is no folder\n"


def test_missing_options_are_a_usage_error(salcr):
    code, _, err = salcr("train")
    assert code == 2 and "--out" in err


def test_anything_else_is_a_traceback(monkeypatch):
    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


def test_info_prints_the_operators_of_its_report(salcr):
    code, out, _ = salcr("info")
    assert code == 0 and "evaluate_ranking" in out


def test_version(salcr):
    assert salcr("--version")[:2] == (0, f"salcr {version}\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a.pt\x1b[2J: caf\xe9\udcff"), r"a.pt\x1b[2J: café\udcff"),
        (MemoryError(), "MemoryError"),
        (ArithmeticError("a\n  b"), "a b"),
        (FileNotFoundError(2, "No such file or directory", "a\nb"), "[Errno 2] No such file or directory: 'a\\nb'"),
    ],
)
def test_known_failures_are_one_line_that_never_steers_the_terminal(salcr, monkeypatch, error, line):
    def failing():
        raise error

    monkeypatch.setattr(cli, "app", failing)
    code, _, said = salcr()
    assert code == 1 and said == f"salcr: {line}\n"


def test_own_lines_and_warnings_of_others_go_to_stderr_without_decoration(monkeypatch):
    settings = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **options: settings.update(options))
    monkeypatch.setattr(cli, "app", lambda: None)
    cli.main()
    (handler,) = settings.pop("handlers")
    assert settings == {"level": logging.INFO}

    def record(name, level):
        return logging.LogRecord(name, level, "", 0, "%s\nmore", ("said",), None)

    def is_shown(name, level):
        return bool(handler.filter(record(name, level)))

    assert handler.format(record("salcr", logging.INFO)) == r"said\nmore"
    assert handler.format(record("torch", logging.WARNING)) == "said\nmore"

    assert is_shown("salcr", logging.INFO) and is_shown("salcr.data", logging.INFO)
    assert not is_shown("faiss.loader", logging.INFO) and is_shown("faiss.loader", logging.WARNING)


@pytest.mark.parametrize(
    "command",
    [("evaluate", "--checkpoint", "absent"), ("extract", "--checkpoint", "absent"), ("pretrain",), ("bench",)],
    ids=lambda command: command[0],
)
def test_a_path_that_cannot_be_written_ends_a_command_before_its_work(salcr, tmp_path, monkeypatch, command):
    """Else the checkpoint, which does not exist, would be named; and pretraining takes minutes."""
    monkeypatch.setattr(pretraining, "render_objects", lambda *_, **__: pytest.fail("the work has begun"))
    (tmp_path / "file").write_text("")
    assert_one_line(salcr(*command, "--out", tmp_path / "file/out"), tmp_path / "file")
    assert_one_line(salcr(*command, "--out", tmp_path), tmp_path)


def test_a_folder_that_is_closed_ends_a_command_before_its_work(salcr, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "render_objects", lambda *_, **__: pytest.fail("the work has begun"))
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))  # also for root
    assert_one_line(salcr("pretrain", "--out", tmp_path / "out"), "Permission denied", tmp_path)


def test_a_terminated_synth_leaves_nothing(salcr, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "_shoot", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert salcr("synth", "--out", tmp_path / "out", "--ids", 3)[0] == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_check_data_prints_names_that_are_not_utf_8_and_what_is_good_to_know(salcr, tmp_path):
    root = make_folder(tmp_path, test=(), images=1)
    (root / "visible/notes.txt").write_text("")
    code, out, _ = salcr("check-data", "--dataset", "folder", "--root", root)
    assert code == 0 and re.fullmatch(r"note: .*\nnote: left out .*: visible/notes\.txt\nno problems\n", out)
    (root / "visible" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"not a picture")
    code, out, _ = salcr("check-data", "--dataset", "folder", "--root", root)
    assert code == 1 and "visible/caf\\udce9.png does not decode" in out


def test_the_settings_are_listed(salcr):
    code, out, _ = salcr("config", "schedule.lr", "--preset", "sysu")
    assert code == 0 and out.startswith("schedule.lr = 0.00035  [number, above 0]\n    ")
    assert salcr("config")[1].count("[") >= 50
    assert_one_line(salcr("config", "lrr"), "unknown key 'lrr', did you mean schedule.lr?")
    assert_one_line(salcr("config", "--preset", "market"), "preset must be one of demo, sysu")
    assert "salcr config" in salcr("train", "--help")[1]


def test_the_shell_completes_commands(salcr, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # else the program is called python -m pytest
    monkeypatch.setenv("_SALCR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "salcr se")
    monkeypatch.setenv("COMP_CWORD", "1")
    code, out, _ = salcr()
    assert code == 0 and out.split() == ["search"]
