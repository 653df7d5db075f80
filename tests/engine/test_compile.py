"""Training with the network compiled, by PyTorch's graph capture alone: no code is generated."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch

from salcr import distributed
from salcr.engine import load_config, session, train
from salcr.engine.network import compile_for_training
from salcr.models.checkpoints import load
from tests.engine.tree import tiny


def test_a_stage_is_captured_whole_and_once_and_trains_the_same(tree, tmp_path, monkeypatch):
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled(self, backend="eager", **options))
    schedule = dict(stage_one_epochs=1, stage_two_epochs=2, iterations=2, precision="float64")
    settings = [f"schedule.{key}={value}" for key, value in schedule.items()]
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    ends = []
    for choice in ("true", "false"):
        config = load_config(overrides=tiny(tree, *settings, f"model.compile={choice}"))
        train(config, tmp_path / choice)
        ends.append(load(tmp_path / choice / "checkpoints" / "epoch_0002.pt")["network"])
    assert graphs["unique_graphs"] == 2  # one a stage: clusters come and go
    torch.testing.assert_close(ends[0], ends[1])  # PyTorch 2.10 adds up gradients in another order
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("choice", "device", "processes", "expected"),
    [
        ("auto", "cpu", 1, False),
        ("auto", "cuda", 1, True),
        ("auto", "cuda", 2, False),
        (True, "cpu", 1, True),
        (False, "cuda", 1, False),
    ],
)
def test_who_is_compiled(monkeypatch, choice, device, processes, expected):
    monkeypatch.setattr(distributed, "world", lambda: processes)
    calls = []
    compile_for_training(SimpleNamespace(compile=lambda **options: calls.append(options)), choice, torch.device(device))
    assert calls == [dict(fullgraph=True, dynamic=False)] * expected


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_in_several_processes_it_is_refused(monkeypatch, device):
    """Of GPUs' kernels of their norms PyTorch tells compilers nothing; compiled sums had wrong gradients in 2.11."""
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(ValueError, match=r"model\.compile is on, and several processes train together.*auto or off"):
        compile_for_training(None, True, torch.device(device))


def test_it_is_refused_before_images_are_decoded(tree, tmp_path, monkeypatch):
    def refused(network, choice, device):
        raise ValueError("refused")

    monkeypatch.setattr(session, "compile_for_training", refused)
    cache = f"data.cache={tmp_path / 'cache'}"
    with pytest.raises(ValueError, match="refused"):
        train(load_config(overrides=tiny(tree, cache)), tmp_path / "run")
    assert not (tmp_path / "cache").exists()


def test_what_generates_code_is_imported_without_an_error(monkeypatch):
    """As the first compiled training of a test on a GPU imports it: PyTorch warns of itself."""
    monkeypatch.delitem(sys.modules, "torch.utils.mkldnn", raising=False)
    importlib.import_module("torch.utils.mkldnn")
