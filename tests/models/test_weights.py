import os
import pickle
import struct
import sys
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch

from salcr.engine.config import Model
from salcr.engine.network import build_network
from salcr.models import TwoStreamResNet
from salcr.models.weights import read_weights, why_refused
from tests.models.files import WritesAFile, write
from tests.models.test_resnet import classifier_state, wrap

ADVICE = ("weights_only", "trusted source", "safe_globals", "pytorch.org")


@pytest.mark.parametrize("written", ["zip", "older", "safetensors"])
@pytest.mark.parametrize("name", ["resnet.pth", "model.safetensors", "no_suffix"])
def test_every_format_is_told_by_its_content(tmp_path, generator, written, name):
    state = classifier_state("tiny", generator)
    write(state, tmp_path / name, written)
    network = build_network(Model(architecture="tiny", weights=tmp_path / name), generator)
    assert torch.equal(network.backbone.visible_stem[0].weight, state["conv1.weight"])
    assert torch.equal(network.backbone.infrared_stem[0].weight, state["conv1.weight"])
    assert torch.equal(network.backbone.stages[3][0].bn2.running_var, state["layer4.0.bn2.running_var"])


@pytest.mark.parametrize("written", ["zip", "older"])
@pytest.mark.parametrize("layout", ["timm", "module in model"])
def test_training_checkpoints_of_others(tmp_path, generator, written, layout):
    """torchvision's first file holds parameters in an ordered dict and no batch counters."""
    state = OrderedDict(
        (name, torch.nn.Parameter(x) if name.endswith("weight") else x)
        for name, x in classifier_state("tiny", generator).items()
        if not name.endswith("num_batches_tracked")
    )
    write(wrap(state, layout), tmp_path / "a.pth", written)
    filters = warnings.filters.copy()
    found = read_weights(tmp_path / "a.pth")
    assert warnings.filters == filters
    assert found.keys() == state.keys() and all(torch.equal(found[name], x) for name, x in state.items())


@pytest.mark.parametrize("content", [WritesAFile(), Namespace(lr=1)], ids=["code", "namespace"])
@pytest.mark.parametrize("written", ["zip", "older", "plain pickle"])
def test_pickled_code_is_refused_without_advice_to_run_it(tmp_path, monkeypatch, content, written):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    state = {"state_dict": {"conv1.weight": torch.zeros(1)}, "args": content}
    if written == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        write(state, path, written)
    with pytest.raises(ValueError, match="only tensors and plain values are read") as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path} ") and "\n" not in message and len(message) < 300
    assert ("argparse.Namespace" if isinstance(content, Namespace) else ".open'") in message
    assert not any(advice in message for advice in ADVICE)
    assert os.listdir(tmp_path) == ["a.pth"]


def _recompressed(path):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


VALUE = struct.pack("<f", 0.75)
DAMAGES = {
    "empty": (lambda path: path.write_bytes(b""), "it begins with b''"),
    "a page": (lambda path: path.write_bytes(b"<!DOCTYPE html>\n404"), "it begins with b'<!DOCTYPE html>"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-300]), "not a zip file"),
    "flipped": (lambda path: path.write_bytes(path.read_bytes().replace(VALUE, b"\0\0\0\0", 1)), "checksum"),
    "compressed": (_recompressed, "compressed, which torch never does"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, damage):
    path = tmp_path / "a.pth"
    torch.save({"conv1.weight": torch.full((90, 90), 0.75)}, path)
    apply, reason = DAMAGES[damage]
    before = path.read_bytes()
    apply(path)
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match=reason) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path} cannot be read as network weights: ")


def test_an_error_without_a_word_is_called_by_its_name():
    assert why_refused(EOFError()) == "EOFError" and why_refused(ValueError("so\nand so")) == "so"


@pytest.mark.parametrize("written", ["older", "safetensors"])
def test_cut_files_of_the_other_formats(tmp_path, written):
    write({"conv1.weight": torch.rand(90, 90)}, tmp_path / "a", written)
    content = (tmp_path / "a").read_bytes()
    for size in (1, 9, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "a").write_bytes(content[:size])
        with pytest.raises(ValueError, match="a cannot be read as network weights: ") as caught:
            read_weights(tmp_path / "a")
        assert "\n" not in str(caught.value)


def test_files_that_hold_something_else(tmp_path):
    contents = {
        "a list": [torch.zeros(1)],
        "'epoch', 'x'": {"epoch": 3, "x": {}},
        "a Tensor": torch.zeros(2),
        "nothing": {},
    }
    for found, content in contents.items():
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=rf"a\.pth holds no tensors by name, but {found}$"):
            read_weights(tmp_path / "a.pth")


def test_without_safetensors_the_error_says_what_is_missing(tmp_path, monkeypatch):
    write({"conv1.weight": torch.zeros(1)}, tmp_path / "a", "safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ValueError, match="safetensors is not installed"):
        read_weights(tmp_path / "a")


def test_a_file_of_another_network_says_what_was_expected_and_found(tmp_path, generator):
    torch.save({"backbone.stem.weight": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth, for a tiny: the weights do not fit this network: ") as caught:
        build_network(Model(architecture="tiny", weights=tmp_path / "a.pth"), generator)
    message = str(caught.value)
    assert "conv1.weight (32, 3, 7, 7) is missing; " in message
    assert message.endswith("and 55 more (it has backbone.stem.weight)") and len(message) < 500


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: x.fill_(torch.nan), "got values that are not finite"),
        (lambda x: x.int(), "got torch.int32"),
        (lambda x: x.to_sparse(), "torch.sparse_coo"),
        (lambda x: x.to("meta"), "on meta"),
        (lambda x: x[:5], r"got \(5,\)"),
        (lambda x: x[:, None], r"got \(32, 1\)"),
    ],
)
def test_weights_that_cannot_be_copied_are_refused(generator, change, found):
    state = classifier_state("tiny", generator)
    state["bn1.running_var"] = change(state["bn1.running_var"])
    with pytest.raises(ValueError, match=rf"bn1\.running_var \(32,\) .*{found}"):
        TwoStreamResNet("tiny").load_imagenet(state | {3: "not a name", "epoch": 4})
