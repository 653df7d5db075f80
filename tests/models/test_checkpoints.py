import copy
import logging
import re
import warnings

import pytest
import torch

from salcr.models import SALCRNetwork
from salcr.models.authors import PART_WEIGHTS, authors_state, authors_weights
from salcr.models.checkpoints import load_trained, network_hash, read_checkpoint
from tests.models.files import WritesAFile, write
from tests.models.published import behind_module, published_state, related_state, wrapped

CPU = torch.device("cpu")
STEM = "visible_module.visible.conv1.weight"


@pytest.fixture(scope="module")
def network():
    """Of two parts, whose statistics are no longer those of a fresh norm; no test changes it."""
    torch.manual_seed(5)
    built = SALCRNetwork("tiny", 2)
    for name, x in built.named_buffers():
        x.copy_(torch.tensor(9) if name.endswith("tracked") else torch.rand(x.shape) + 0.5)
    return built.eval()


def embeddings(network, images):
    with torch.no_grad():
        return [network.embed(images, infrared=infrared) for infrared in (False, True)]


def assert_same(found, network, generator):
    images = torch.rand(2, 3, 48, 24, generator=generator)
    for got, expected in zip(embeddings(found, images), embeddings(network, images), strict=True):
        assert torch.equal(got.f, expected.f) and torch.equal(got.joint, expected.joint)


@pytest.mark.parametrize("written", ["zip", "older", "safetensors"])
@pytest.mark.parametrize("prefix", [dict, behind_module])
def test_a_published_file_gives_the_network_it_was_made_of(tmp_path, network, generator, written, prefix):
    state = prefix(published_state(network))
    path = write(state if written == "safetensors" else wrapped(state), tmp_path / "checkpoint.pth.tar", written)
    for layout in ("auto", "authors"):
        trained = load_trained(path, CPU, layout=layout)
        assert_same(trained.network, network, generator)
        assert network_hash(trained.network) == network_hash(network) and not trained.network.training
        assert (trained.height, trained.width) == (288, 144)
    assert load_trained(path, CPU, height=48)[1:] == (48, 144)


def test_a_hash_is_of_every_name_and_value(network):
    changed, last = (copy.deepcopy(network) for _ in range(2))
    stems = changed.backbone
    stems.visible_stem, stems.infrared_stem = stems.infrared_stem, stems.visible_stem
    next(reversed(last.state_dict().values())).add_(1)  # counts batches
    entry = copy.deepcopy(network)
    entry.backbone.visible_stem[0].weight.data[-1, -1, -1, -1] += 1
    hashes = {network_hash(x) for x in (network, changed, last, entry)}
    assert len(hashes) == 4 and network_hash(copy.deepcopy(network)) in hashes


def test_data_parallel_saves_one_of_these(tmp_path, network, generator):
    parallel = torch.nn.DataParallel(torch.nn.ParameterDict({"x": torch.zeros(1)}))
    assert list(parallel.state_dict()) == ["module.x"]  # what behind_module() stands for
    path = write(behind_module(authors_state(network)), tmp_path / "bare.pth")
    assert_same(load_trained(path, CPU).network, network, generator)
    torch.save(torch.nn.DataParallel(network), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"whole\.pth is not a readable checkpoint: it asks for .*only tensors"):
        load_trained(tmp_path / "whole.pth", CPU)


def test_the_published_file_has_983_entries_and_335_are_used(tmp_path, caplog):
    with torch.device("meta"):
        state = published_state(SALCRNetwork("resnet50", 3))
    assert len(state) == 983
    one = torch.ones(())
    state = {name: one.to(x.dtype).expand(x.shape) for name, x in state.items()} | {"gem.p": torch.tensor([3.0])}
    with caplog.at_level(logging.DEBUG, "salcr"):
        found = read_checkpoint(write(wrapped(state), tmp_path / "checkpoint.pth.tar"))
    assert (found.architecture, found.parts, len(found.weights)) == ("resnet50", 3, 335)
    assert len(found.unused) == 648 and found.missing == found.unknown == ()
    first, *details = [record.getMessage() for record in caplog.records]
    assert first.endswith(
        "checkpoint.pth.tar has a resnet50 with 3 parts under the published names: 335 of 983 entries used; not used: "
        "layer1..4 of both stems (624), conv1 and bn1 of base_resnet.base (6), attn_pool.pos_embeding (1), "
        "disnet (16), gem.p (1)"
    )
    assert [record.levelname for record in caplog.records] == ["INFO", "DEBUG", "DEBUG", "DEBUG"]
    assert details[1].count(",") == 648 and "thermal_module.thermal.layer4.2.bn3.running_var" in details[1]


def test_files_of_the_family_lack_part_modules(tmp_path, network, generator, caplog):
    path = write(wrapped(related_state(network)), tmp_path / "pgm.pth.tar")
    found, again = (load_trained(path, CPU).network for _ in range(2))
    images = torch.rand(2, 3, 48, 24, generator=generator)
    for got, expected in zip(embeddings(found, images), embeddings(network, images), strict=True):
        assert torch.equal(got.f, expected.f) and got.joint.isfinite().all()
    assert network_hash(found) == network_hash(again) != network_hash(network)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2 and all(name in said[0] for name in PART_WEIGHTS)
    assert "which start fresh (retrieval uses none of them)" in said[0]
    assert read_checkpoint(path).parts is None


def test_entries_that_nothing_is_known_of_are_named(tmp_path, network, caplog):
    state = published_state(network) | {f"NL_{n}.theta.weight": torch.ones(1) for n in range(7)}
    state |= {"base_resnet.base.layer1.0.se.weight": torch.ones(1), "\x1b[2J\n": torch.ones(1)}
    path = write(state, tmp_path / "agw.pth")
    assert len(read_checkpoint(path).unknown) == 9
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert r"its own may need them: \x1b[2J\n, NL_0.theta.weight, " in warning and warning.endswith(", and 4 more")


def test_weights_are_given_to_a_network_of_their_kind_alone(tmp_path, network):
    found, whole = (authors_weights(state(network), tmp_path) for state in (related_state, published_state))
    other = SALCRNetwork("tiny", 4)
    tokens = other.parts.tokens.clone()
    found.load_into(other, "tiny", 4)
    assert torch.equal(other.norm.weight, network.norm.weight) and torch.equal(other.parts.tokens, tokens)
    for weights, asked in ((whole, ("tiny", 4)), (whole, ("resnet18", 2)), (found, ("resnet18", 2))):
        message = "does not fit this network, model.architecture={} and model.parts={}: it holds a tiny".format(*asked)
        with pytest.raises(ValueError, match=message):
            weights.load_into(SALCRNetwork(*asked), *asked)


@pytest.mark.parametrize("power", [2.5, float("nan")])
def test_another_exponent_of_the_power_mean_is_said(tmp_path, network, caplog, power):
    path = write(published_state(network) | {"gem.p": torch.tensor([power])}, tmp_path / "a.pth")
    read_checkpoint(path)
    told = f"{path} has gem.p {power}: the exponent of this network's power mean is 3"
    assert caplog.records[-1].getMessage() == told


def test_half_precision_is_widened_and_absent_counters_are_none(tmp_path, network):
    state = {name: x.half() for name, x in published_state(network).items() if not name.endswith("num_batches_tracked")}
    found = load_trained(write(state, tmp_path / "half.pth"), CPU).network.state_dict()
    for name, x in network.state_dict().items():
        expected = torch.zeros_like(x) if name.endswith("num_batches_tracked") else x.half().float()
        assert found[name].dtype == x.dtype and torch.equal(found[name], expected), name


@pytest.mark.parametrize("odd", [torch.tensor(1.5), torch.ones(2), torch.ones(2, dtype=torch.int64)], ids=str)
def test_counters_and_exponents_that_are_no_numbers_of_their_kind_are_not_read(tmp_path, network, odd):
    counter = "bottleneck.num_batches_tracked"
    found = authors_weights(published_state(network) | {counter: odd}, tmp_path)
    assert "norm.num_batches_tracked" not in found.weights and found.network().norm.num_batches_tracked == 0
    if odd.ndim:
        assert authors_weights(published_state(network) | {"gem.p": odd}, tmp_path).power == 3


@pytest.mark.parametrize("kept", [PART_WEIGHTS[:1], PART_WEIGHTS[1:]], ids=["tokens", "norm"])
def test_either_of_the_part_modules_says_how_many_parts(network, tmp_path, kept):
    left = set(PART_WEIGHTS) - set(kept)
    found = authors_weights({name: x for name, x in published_state(network).items() if name not in left}, tmp_path)
    assert found.parts == 2 and set(found.missing) == left
    own = found.network().state_dict()
    assert torch.equal(own["parts.tokens"], network.parts.tokens) == (PART_WEIGHTS[0] in kept)
    assert torch.equal(own["parts.norm.weight"], network.parts.norm.weight) == (PART_WEIGHTS[1] in kept)


def changed(name, change):
    return lambda state: state | {name: change(state[name])}


def without(*names):
    return lambda state: {name: x for name, x in state.items() if not name.startswith(names)}


def nested(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its being a prototype
        return torch.nested.as_nested_tensor([x])


HOSTILE = {
    "shape": (changed(STEM, lambda x: x[:5]), rf"{STEM} \(32, 3, 7, 7\) got \(5, 3, 7, 7\)"),
    "scalar": (changed(STEM, lambda x: x.sum()), rf"{STEM} .* got \(\)"),
    "nan": (changed("bottleneck.weight", lambda x: x * torch.nan), r"bottleneck\.weight \(256,\) got .* not finite"),
    "overflow": (changed("bottleneck.running_var", lambda x: (x * 1e9).half()), r"running_var .* not finite"),
    "integers": (changed("bottleneck.bias", torch.Tensor.int), r"bottleneck\.bias \(256,\) got torch\.int32"),
    "sparse": (changed("bottleneck.bias", torch.Tensor.to_sparse), r"bottleneck\.bias .* torch\.sparse_coo"),
    "nested": (changed("bottleneck.bias", lambda x: nested(x)), r"bottleneck\.bias .* got torch\.float32, nested"),
    "text": (changed("bottleneck.bias", lambda x: "zeros"), r"bottleneck\.bias \(256,\) is missing"),
    "no norm": (without("bottleneck."), r"bottleneck\.weight \(256,\) is missing; .*bottleneck\.running_var"),
    "no stem": (
        without("thermal_module"),
        r"thermal_module\.thermal\.conv1\.weight \(32, 3, 7, 7\) is missing; .*bn1\.running_var \(32,\) is missing$",
    ),
    "no stage": (without("base_resnet.base.layer3"), r"holds stages of \(1, 1, 0, 1\) blocks: known are resnet50"),
    "deeper": (
        lambda state: state | {f"base_resnet.base.layer3.{n}.conv1.weight": torch.ones(1) for n in range(23)},
        r"holds stages of \(1, 1, 23, 1\)",
    ),
    "bottlenecks": (
        lambda state: state | {"base_resnet.base.layer1.0.conv3.weight": torch.ones(1)},
        r"holds stages of \(1, 1, 1, 1\) bottlenecks: known are",
    ),
    "parts": (
        changed(PART_WEIGHTS[0], lambda x: x.new_ones(()).expand(10**6, 256)),
        "parts must be from 1 to 256, got 1000000",
    ),
    "no parts": (changed(PART_WEIGHTS[0], lambda x: x[:0]), "parts must be from 1 to 256, got 0"),
    "other parts": (changed(PART_WEIGHTS[0], lambda x: x[:1]), r"bottleneck_part\.weight \(256,\) got \(512,\)"),
    "narrow tokens": (changed(PART_WEIGHTS[0], lambda x: x[:, :9]), r"part_tokens \(2, 256\) got \(2, 9\)"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, network, kind):
    change, message = HOSTILE[kind]
    path = tmp_path / "theirs.pth.tar"
    with pytest.raises(ValueError, match=message) as caught:
        authors_weights(wrapped(change(published_state(network))), path)
    text = str(caught.value)
    assert text.startswith(f"{path} ") or text.startswith(f"{path}: ")
    assert "\n" not in text and len(text) < 700


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder: a checkpoint is a file, of a run checkpoints/epoch_"):
        load_trained(tmp_path, CPU)


@pytest.mark.parametrize("written", ["zip", "older"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "is not a checkpoint: it holds a list"),
        ({"state_dict": {STEM: WritesAFile()}}, "is not a readable checkpoint: it asks for '.*open', and only tensors"),
        (
            {"fc.weight": torch.ones(1)},
            r"no weights under the published names \(base_resnet\.base\.layer1…\) either, but 'fc",
        ),
        ({"epoch": 3, "args": {}}, "either, but 'epoch', 'args'$"),
        ({"state_dict": {"x\n": torch.ones(1)}}, r"either, but 'x\\n'"),
        ({}, "either, but nothing"),
    ],
)
def test_what_is_something_else(tmp_path, monkeypatch, written, content, message):
    monkeypatch.chdir(tmp_path)
    path = write(content, tmp_path / "theirs.pth", written)
    with pytest.raises(ValueError, match=message) as caught:
        load_trained(path, CPU)
    assert str(caught.value).startswith(f"{path} ") and "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["theirs.pth"]


def test_the_layout_that_was_asked_for(tmp_path, network):
    theirs = write(published_state(network), tmp_path / "theirs.pth")
    ours = write({"network": network.state_dict(), "config": {}}, tmp_path / "ours.pt")
    with pytest.raises(ValueError, match=re.escape(f"{theirs} is not a training checkpoint: it has no setting")):
        load_trained(theirs, CPU, layout="salcr")
    with pytest.raises(ValueError, match=re.escape(f"{ours} is no checkpoint of this project, and has no weights")):
        load_trained(ours, CPU, layout="authors")
    both = write(wrapped(published_state(network)) | {"config": {}}, tmp_path / "both.pth")
    with pytest.raises(ValueError, match="is not a training checkpoint"):
        load_trained(both, CPU)
    assert network_hash(load_trained(both, CPU, layout="authors").network) == network_hash(network)
    with pytest.raises(ValueError, match="layout must be one of auto, salcr, authors, got 'torchvision'"):
        load_trained(theirs, CPU, layout="torchvision")
    with pytest.raises(ValueError, match="width must be a whole number from 1 to 4096, got 0"):
        load_trained(theirs, CPU, width=0)


SETTINGS = dict(model=dict(architecture="tiny", parts=2), data=dict(height=48, width=24))


def own_checkpoint(network, **changes):
    """A training checkpoint of this project, with these settings changed."""
    sections = {section: {x: changes.get(x, y) for x, y in given.items()} for section, given in SETTINGS.items()}
    return {"network": network.state_dict(), "config": sections}


def test_own_settings_up_to_the_largest(tmp_path):
    for parts, height, width in ((1, 1, 4096), (256, 4096, 1)):
        settings = dict(parts=parts, height=height, width=width)
        path = write(own_checkpoint(SALCRNetwork("tiny", parts), **settings), tmp_path / "epoch.pt")
        network, *size = load_trained(path, CPU)
        assert (len(network.parts.tokens), *size) == (parts, height, width)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("architecture", x) for x in ("resnet51", None, ["tiny"])),
        *(("parts", x) for x in (0, 257, True, 2.0, "2")),
        *((side, x) for side in ("height", "width") for x in (0, 4097, None)),
    ],
)
def test_own_settings_that_no_run_has(tmp_path, network, name, value):
    path = write(own_checkpoint(network, **{name: value}), tmp_path / "epoch.pt")
    section = "model" if name in SETTINGS["model"] else "data"
    with pytest.raises(ValueError, match=rf"epoch\.pt: {section}\.{name} must be "):
        load_trained(path, CPU)


@pytest.mark.parametrize(
    "entry", [{3: torch.ones(1)}, {"x": 1.0}, {"x": torch.ones(1).int()}, {"x": torch.eye(2).to_sparse()}]
)
def test_an_own_network_of_anything_but_weights_is_refused(tmp_path, network, entry):
    state = own_checkpoint(network)
    state["network"] |= entry
    path = write(state, tmp_path / "epoch.pt")
    with pytest.raises(ValueError, match="its network must be tensors of real numbers by name"):
        load_trained(path, CPU)
