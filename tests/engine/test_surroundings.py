"""A run does the same whatever a program has set around it, and leaves all of that as it was."""

import json
import shutil
from contextlib import ExitStack

import pytest
import torch

from salcr.engine import load_config, train
from salcr.engine.evaluation import evaluate_checkpoint
from salcr.engine.network import build_network
from tests.engine.same_end import assert_same_end
from tests.engine.tree import tiny
from tests.surroundings import SURROUNDINGS

AROUND = SURROUNDINGS | {"inference mode": torch.inference_mode, "no gradients": torch.no_grad}


@pytest.fixture(scope="module")
def config(tree):
    short = "schedule.iterations=1", "schedule.stage_one_epochs=1", "schedule.stage_two_epochs=1"
    return load_config(overrides=tiny(tree, *short))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A run in a program that sets nothing."""
    folder = tmp_path_factory.mktemp("whole")
    train(config, folder)
    return folder


def settings():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("around", [("float64",), ("float16",), ("no gradients",), tuple(AROUND)], ids="+".join)
def test_the_same_run_within(config, whole, tmp_path, around):
    with ExitStack() as stack:
        for name in around:
            stack.enter_context(AROUND[name]())
        before = settings()
        train(config, tmp_path)
        assert settings() == before
    assert_same_end(tmp_path, whole)


def test_the_same_figures_within_all(whole):
    expected = json.loads((whole / "summary.json").read_text())["final"]
    with ExitStack() as stack:
        for surroundings in AROUND.values():
            stack.enter_context(surroundings())
        assert evaluate_checkpoint(max(whole.glob("checkpoints/*.pt"))) == expected


def test_a_run_that_goes_on_leaves_the_global_generator_of_the_program_alone(config, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "checkpoints/epoch_0001.pt").unlink()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(config, folder, resume=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_end(folder, whole)


def test_a_network_that_is_drawn_leaves_the_generators_of_gpus_alone(config, monkeypatch):
    """Which :func:`torch.manual_seed` seeds, too."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("GPUs are seeded"))
    build_network(config.model, torch.Generator().manual_seed(config.seed))
