import re
import sys

import numpy as np
import onnx
import onnxruntime
import onnxscript  # noqa: F401  torch writes ONNX with it
import pytest
import torch

from salcr.models.checkpoints import load_trained
from salcr.models.features import extract_features
from salcr.retrieval import export
from salcr.retrieval.export import Embedder, export_network
from salcr.retrieval.onnx_rounding import in_float32

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(checkpoint):
    return load_trained(checkpoint, CPU)


@pytest.fixture
def pixels(trained, rng):
    return rng.integers(0, 256, (3, trained.height, trained.width, 3), np.uint8)


def features(trained, pixels, sides, *, mirror):
    rows = [
        extract_features(trained.network, x[None], infrared=bool(side), batch=1, device=CPU, mirror=mirror).f
        for x, side in zip(pixels, sides, strict=True)
    ]
    return torch.cat(rows)


def test_an_onnx_file_gives_the_networks_features(checkpoint, trained, pixels, tmp_path):
    out, sides = tmp_path / "new/net.onnx", np.array([True, False, True])
    check = export_network(checkpoint, out, format="onnx")
    assert check.cosine > 0.99999 and check.difference < 1e-3 and check.ran_on.startswith("onnxruntime ")
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    expected = features(trained, pixels, sides, mirror=False)
    for count in (1, 3):  # traced with two, compared on ten
        (found,) = session.run(None, {"images": pixels[:count], "infrared": sides[:count]})
        torch.testing.assert_close(torch.from_numpy(found), expected[:count], atol=1e-4, rtol=0)
    assert b"salcr" not in out.read_bytes()
    model = onnx.load(out)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}


def kernel_types(model):
    """Of the convolutions' weights."""
    return {x.data_type for x in model.graph.initializer if len(x.dims) == 4 and np.prod(x.dims) > 3}


def test_an_onnx_file_in_float16(checkpoint, trained, pixels, tmp_path):
    out = tmp_path / "net.onnx"
    check = export_network(checkpoint, out, format="onnx", modality="visible", dtype="float16", input="float32")
    assert 0.9999 < check.cosine < 1 and check.ran_on == f"onnxruntime {onnxruntime.__version__}"
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    expected = features(trained, pixels, [False] * 3, mirror=False)
    images = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
    for count in (1, 3):
        (found,) = session.run(None, {"images": images[:count]})
        assert found.dtype == np.float32
        assert torch.cosine_similarity(torch.from_numpy(found), expected[:count]).min() > 0.9999
    assert kernel_types(onnx.load(out)) == {onnx.TensorProto.FLOAT16}


def test_an_onnx_file_in_bfloat16_is_standard_and_what_ran_is_said(checkpoint, tmp_path):
    out = tmp_path / "net.onnx"
    check = export_network(checkpoint, out, format="onnx", modality="infrared", dtype="bfloat16")
    assert 0.999 < check.cosine < 1  # rounded, and not by much
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert kernel_types(model) == {onnx.TensorProto.BFLOAT16}
    assert {node.domain for node in model.graph.node} == {""} and b"salcr" not in out.read_bytes()
    try:
        onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        assert check.ran_on.endswith("has no bfloat16 here, in float32 with each result rounded to bfloat16,")
    else:
        assert check.ran_on == f"onnxruntime {onnxruntime.__version__}"


def test_rounding_a_graph_is_what_a_processor_of_bfloat16_does(rng):
    """One product: torch rounds its sums, made in float32, to bfloat16."""
    a, b = (torch.from_numpy(rng.standard_normal((4, 4)).astype(np.float32)) for _ in range(2))
    kind, make = onnx.TensorProto, onnx.helper.make_node
    nodes = [make("Cast", ["a"], ["half"], to=kind.BFLOAT16), make("MatMul", ["half", "b"], ["sums"])]
    ends = [onnx.helper.make_tensor_value_info(name, kind.FLOAT, (4, 4)) for name in "ac"]
    weights = onnx.helper.make_tensor("b", kind.BFLOAT16, (4, 4), b.bfloat16().float().flatten().tolist())
    graph = onnx.helper.make_graph(
        [*nodes, make("Cast", ["sums"], ["c"], to=kind.FLOAT)], "product", ends[:1], ends[1:], [weights]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = in_float32(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"a": a.numpy()})
    expected = (a.bfloat16().double() @ b.bfloat16().double()).bfloat16().float()
    assert torch.equal(torch.from_numpy(found), expected)


@pytest.mark.parametrize("modality", ["visible", "infrared"])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_embedder_is_the_networks_evaluation(trained, pixels, modality, mirror):
    sides = [modality == "infrared"] * 3
    embedder = Embedder(trained.network, modality, torch.float32, mirror=mirror).eval()
    expected = features(trained, pixels, sides, mirror=mirror)
    images = torch.from_numpy(pixels)
    with torch.no_grad():
        torch.testing.assert_close(embedder(images), expected)
        torch.testing.assert_close(embedder(images.permute(0, 3, 1, 2).float() / 255), expected)
        both = Embedder(trained.network, "both", torch.float32, mirror=mirror).eval()
        torch.testing.assert_close(both(images, torch.tensor(sides)), expected)


def test_a_program_of_torch_in_half_precision(checkpoint, trained, pixels, tmp_path):
    options = dict(modality="infrared", dtype="bfloat16", input="float32", mirror=True)
    check = export_network(checkpoint, tmp_path / "net.pt2", format="torch", **options)
    assert 0.999 < check.cosine < 1 and check.ran_on.startswith("torch ")
    program = torch.export.load(tmp_path / "net.pt2")
    assert not [node for node in program.graph.nodes if "salcr" in str(node.target)]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    for count in (1, 3):
        found = program.module()(images[:count])
        assert found.dtype == torch.float32
        expected = features(trained, pixels, [True] * 3, mirror=True)[:count]
        assert torch.cosine_similarity(found, expected).min() > 0.999


def test_a_file_that_differs_is_not_written(checkpoint, trained, tmp_path, monkeypatch):
    wrong = np.eye(1, trained.network.width, dtype=np.float32).repeat(10, 0)
    monkeypatch.setattr(export, "_traced", lambda *_: None)
    monkeypatch.setattr(export, "_as_torch", lambda _: (b"program", lambda images: wrong, "torch 9"))
    with pytest.raises(ArithmeticError, match=r"net\.pt2 is not written: run on torch 9, .* cosine of -?0\.[0-8]"):
        export_network(checkpoint, tmp_path / "net.pt2", format="torch", modality="visible")
    assert list(tmp_path.iterdir()) == []


def test_one_wrong_picture_of_ten_is_enough(checkpoint, trained, tmp_path, monkeypatch):
    def run(images):
        found = features(trained, images.numpy(), [False] * 10, mirror=False).numpy()
        return np.concatenate([found[:9], -found[9:]])

    monkeypatch.setattr(export, "_traced", lambda *_: None)
    monkeypatch.setattr(export, "_as_torch", lambda _: (b"program", run, "torch 9"))
    with pytest.raises(ArithmeticError, match=r"cosine of -1\.00000"):
        export_network(checkpoint, tmp_path / "net.pt2", format="torch", modality="visible")


def test_without_onnxruntime_it_says_how_to_get_it(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_traced", lambda *_: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=re.escape("the format onnx needs onnxruntime: pip install 'salcr[onnx]'")):
        export_network(checkpoint, tmp_path / "net.onnx", format="onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(format="coreml"), "format must be one of onnx, torch, authors, got 'coreml'"),
        (dict(format="onnx", modality="auto"), "modality must be one of visible, infrared, both"),
        (dict(format="onnx", dtype="int8"), "dtype must be one of float32"),
        (dict(format="onnx", input="bytes"), "input must be one of uint8, float32"),
    ],
)
def test_what_cannot_be_exported(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_network(tmp_path / "absent.pt", tmp_path / "out", **options)
