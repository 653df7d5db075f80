import signal

import pytest
import torch

from salcr.engine import step_graph
from salcr.engine.interruption import STANDARD
from tests.engine.tree import with_channels, write_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A small data set; tests that change one make their own."""
    return write_tree(tmp_path_factory.mktemp("tree") / "sysu")


@pytest.fixture(scope="package", autouse=True)
def narrow():
    """The network of all trainings and checkpoints here, but for those that start from the bundled weights."""
    with with_channels(8):
        yield


@pytest.fixture(autouse=True)
def standard_signal_handlers():
    """Those of a new process: what starts the tests may have others; a shell has its background jobs ignore SIGINT."""
    before = {number: signal.signal(number, handler) for number, handler in STANDARD.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def graphs(monkeypatch):
    """Makes ``StepGraphs`` as on a GPU, with a choice and a recorder."""

    def made(choice, recorder):
        monkeypatch.setattr(step_graph, "CudaRecorder", lambda device: recorder)
        return step_graph.StepGraphs(choice, torch.device("cuda"))

    return made
