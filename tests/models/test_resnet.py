import pytest
import torch
import torch.nn.functional as F

from salcr.models import ARCHITECTURES, TwoStreamResNet, resnet
from salcr.models.resnet import imagenet_state
from tests.ops.contract import assert_within_budget

PUBLISHED = {"resnet50": 25_557_032, "resnet18": 11_689_512}  # parameters of the ImageNet classifiers
SMALL = {"tiny": (33, 17), "resnet18": (40, 24), "resnet50": (32, 16)}


def classifier_state(architecture, generator, dtype=torch.float32):
    """A classifier's state dict with torchvision's names (timm's are the same), from a table of our own."""
    shape = ARCHITECTURES[architecture]
    state = {}

    def convolution(name, out, given, size):
        fan = given * size * size
        state[f"{name}.weight"] = torch.randn(out, given, size, size, generator=generator) * (2 / fan) ** 0.5

    def norm(name, width):
        for key, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            state[f"{name}.{key}"] = low + torch.rand(width, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", shape.channels, 3, 7)
    norm("bn1", shape.channels)
    given = shape.channels
    for stage, blocks in enumerate(shape.blocks):
        inner = shape.channels * 2**stage
        out = inner * 4 if shape.bottleneck else inner
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}"
            sizes = [(inner, 1), (inner, 3), (out, 1)] if shape.bottleneck else [(inner, 3), (out, 3)]
            width = given
            for n, (wide, size) in enumerate(sizes, 1):
                convolution(f"{at}.conv{n}", wide, width, size)
                norm(f"{at}.bn{n}", wide)
                width = wide
            if block == 0 and (stage > 0 or given != out):
                convolution(f"{at}.downsample.0", out, given, 1)
                norm(f"{at}.downsample.1", out)
            given = out
    state["fc.weight"], state["fc.bias"] = torch.randn(1000, given, generator=generator), torch.zeros(1000)
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}


def maps_by_hand(state, architecture, visible, infrared, training):
    """The network with torch's functions, from a classifier's state dict: both stems have its weights."""
    shape = ARCHITECTURES[architecture]

    def norm(x, name):
        mean, variance = (state[f"{name}.{key}"].clone() for key in ("running_mean", "running_var"))
        return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"], training)

    def stem(x):
        x = F.conv2d(x, state["conv1.weight"], stride=2, padding=3)
        return F.max_pool2d(F.relu(norm(x, "bn1")), 3, stride=2, padding=1)

    x = torch.cat([stem(visible), stem(infrared)])
    for stage, blocks in enumerate(shape.blocks, 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            stride = 2 if block == 0 and stage in (2, 3) else 1  # the last stage keeps the size
            y = x
            for n in (1, 2, 3) if shape.bottleneck else (1, 2):
                weight = state[f"{at}.conv{n}.weight"]
                strided = n == (2 if shape.bottleneck else 1)  # torchvision strides the 3×3
                y = F.conv2d(y, weight, stride=stride if strided else 1, padding=weight.shape[-1] // 2)
                y = norm(y, f"{at}.bn{n}")
                if n < (3 if shape.bottleneck else 2):
                    y = F.relu(y)
            if f"{at}.downsample.0.weight" in state:
                x = norm(F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1")
            x = F.relu(y + x)
    return x


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_parameters_are_as_many_as_published(architecture):
    with torch.device("meta"):
        network = TwoStreamResNet(architecture)
    stem, twin, shared = (
        sum(x.numel() for x in part.parameters())
        for part in (network.visible_stem, network.infrared_stem, network.stages)
    )
    classifier = 1000 * network.width + 1000
    assert stem == twin == 3 * 64 * 49 + 2 * 64
    assert shared + stem + classifier == PUBLISHED[architecture]
    assert all(x.requires_grad for x in network.parameters())


@pytest.mark.parametrize(("architecture", "width"), [("resnet50", 2048), ("resnet18", 512), ("tiny", None)])
@pytest.mark.parametrize(("size", "cells"), [((288, 144), (18, 9)), ((96, 48), (6, 3)), ((100, 50), (7, 4))])
def test_the_map_has_a_sixteenth_of_the_size(architecture, width, size, cells):
    with torch.device("meta"):
        network = TwoStreamResNet(architecture)
        maps = network(torch.empty(2, 3, *size), torch.empty(3, 3, *size))
    assert maps.shape == (5, network.width, *cells)
    assert width in (None, network.width)


@pytest.mark.parametrize("architecture", SMALL)
def test_it_is_the_published_network_with_the_weights_it_was_given(generator, architecture):
    """In training the shared norms see both modalities as one batch, each stem's norm its own."""
    state = classifier_state(architecture, generator)
    network = TwoStreamResNet(architecture)
    network.load_imagenet(state)
    network.double()
    state = {name: x.double() for name, x in state.items()}
    visible = torch.randn(4, 3, *SMALL[architecture], generator=generator)
    infrared = torch.randn(2, 3, *SMALL[architecture], generator=generator) + 1
    visible, infrared = visible.double(), infrared.double()
    for training in (False, True):
        expected = maps_by_hand(state, architecture, visible, infrared, training)
        with torch.no_grad():
            found = network.train(training)(visible, infrared)
        torch.testing.assert_close(found, expected)
        assert found.min() == 0 and found.max() > 0


def test_each_modality_takes_its_own_stem(generator):
    network = TwoStreamResNet("tiny").eval()
    visible, infrared = torch.randn(2, 3, 3, 48, 24, generator=generator)
    both = network(visible, infrared)
    torch.testing.assert_close(both[:3], network(visible, None))
    torch.testing.assert_close(both[3:], network(None, infrared))
    assert not torch.allclose(network(visible, None), network(None, visible))

    both[3:].sum().backward()
    assert all(x.grad is None or not x.grad.any() for x in network.visible_stem.parameters())
    assert all(x.grad.any() for x in network.infrared_stem.parameters())
    assert all(x.grad.any() for x in network.stages.parameters())


def test_an_unused_stem_keeps_its_statistics(generator):
    network = TwoStreamResNet("tiny").train()
    before = network.infrared_stem[1].running_mean.clone()
    network(torch.randn(4, 3, 48, 24, generator=generator), None)
    assert torch.equal(network.infrared_stem[1].running_mean, before)
    assert not torch.equal(network.visible_stem[1].running_mean, before)


def test_channels_last_gives_the_same_maps(generator):
    network = TwoStreamResNet("tiny").double().eval()
    x = torch.randn(2, 3, 48, 24, generator=generator, dtype=torch.float64)
    expected = network(x, x)
    network.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x, x), expected)


def wrap(state, layout):
    if layout.startswith("module"):
        state = {f"module.{name}": x for name, x in state.items()}
    if layout.endswith("timm"):  # timm's training checkpoints
        return {"epoch": 3, "arch": "resnet", "state_dict": state, "metric": 0.8}
    if layout.endswith("model"):
        return {"model": state, "optimizer": {}}
    return state


@pytest.mark.parametrize("layout", ["plain", "timm", "model", "module", "module in timm", "module in model"])
def test_both_stems_start_from_the_one_of_the_file(generator, layout):
    state = classifier_state("tiny", generator)
    network = TwoStreamResNet("tiny")
    network.load_imagenet(wrap(state, layout))
    own = network.state_dict()
    for stem in ("visible_stem", "infrared_stem"):
        assert torch.equal(own[f"{stem}.0.weight"], state["conv1.weight"])
        for key in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(own[f"{stem}.1.{key}"], state[f"bn1.{key}"])
    assert torch.equal(own["stages.3.0.downsample.1.running_var"], state["layer4.0.downsample.1.running_var"])
    assert own["visible_stem.0.weight"].data_ptr() != own["infrared_stem.0.weight"].data_ptr()
    with torch.no_grad():
        network.visible_stem[0].weight.zero_()
    assert state["conv1.weight"].any() and network.infrared_stem[0].weight.any()


def test_a_file_of_half_precision_without_classifier_or_counters_is_enough(generator):
    state = classifier_state("tiny", generator, dtype=torch.float16)
    state = {name: x for name, x in state.items() if not name.startswith("fc.") and "num_batches" not in name}
    network = TwoStreamResNet("tiny")
    network.load_imagenet(state)
    assert all(x.dtype == torch.float32 for x in network.parameters())
    assert torch.equal(network.stages[1][0].conv2.weight, state["layer2.0.conv2.weight"].float())


def test_what_it_writes_it_reads(generator):
    source, target = TwoStreamResNet("tiny"), TwoStreamResNet("tiny")
    source.load_imagenet(classifier_state("tiny", generator))
    state = imagenet_state(source)
    assert state.keys() == {
        name for name in classifier_state("tiny", generator) if "fc." not in name and "num_batches" not in name
    }
    target.load_imagenet(state)
    for (name, x), y in zip(target.state_dict().items(), source.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_weights_that_are_missing_or_misfit_are_named_and_nothing_is_loaded(generator):
    state = classifier_state("tiny", generator)
    network = TwoStreamResNet("tiny")
    before = {name: x.clone() for name, x in network.state_dict().items()}
    del state["layer3.0.conv2.weight"], state["bn1.running_var"]
    state["layer2.0.bn1.bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match="the weights do not fit") as failure:
        network.load_imagenet(state)
    for text in ("layer3.0.conv2.weight", "bn1.running_var", "layer2.0.bn1.bias", "got (5,)", "is missing"):
        assert text in str(failure.value)
    assert "layer1" not in str(failure.value) and "stages" not in str(failure.value)
    assert str(failure.value).count("bn1.running_var") == 1  # once, though both stems want it
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())


@pytest.mark.parametrize("kind", ["deep stem", "another network", "empty", "no state dict"])
def test_other_files_are_refused(generator, kind):
    state = classifier_state("tiny", generator)
    if kind == "deep stem":  # timm's resnet50d and the like
        weight = state.pop("conv1.weight")
        state |= {f"conv1.{n}.weight": weight for n in (0, 3, 6)}
    if kind == "another network":
        state = classifier_state("resnet18", generator)
    if kind == "empty":
        state = {}
    if kind == "no state dict":
        state = {"epoch": 1, "state_dict": {"conv.weight": torch.zeros(1)}}
    with pytest.raises(ValueError, match=r"conv1\.weight \("):
        TwoStreamResNet("tiny").load_imagenet(state)


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match=r"resnet50, resnet18, tiny, got 'resnet34'"):
        TwoStreamResNet("resnet34")


@pytest.mark.parametrize("architecture", SMALL)
def test_gradients_are_those_of_norms_sums_and_relus_one_by_one(generator, monkeypatch, architecture):
    """A block hands on its map twice; the gradients of both come together."""
    network = TwoStreamResNet(architecture).double().to(memory_format=torch.channels_last).train()
    images = torch.randn(4, 3, *SMALL[architecture], generator=generator, dtype=torch.float64)
    weights = list(network.parameters())

    def gradients():
        maps = network(images, images)
        return torch.autograd.grad((maps * torch.linspace(-1, 1, maps.numel()).view_as(maps)).sum(), weights)

    def one_by_one(norm, x, shortcut=None, *, shortcut_norm=None, twice=False):
        shortcut = shortcut if shortcut_norm is None else shortcut_norm(shortcut)
        y = torch.relu(norm(x) + (0 if shortcut is None else shortcut))
        return (y, y) if twice else y

    found = gradients()
    monkeypatch.setattr(resnet, "norm_relu", one_by_one)
    torch.testing.assert_close(found, gradients(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("architecture", SMALL)
def test_every_relu_is_one_operator_with_its_norm(generator, architecture):
    network = TwoStreamResNet(architecture).train()
    images = torch.randn(2, 3, *SMALL[architecture], generator=generator)
    with torch.profiler.profile(acc_events=True) as profile:
        network(images, images)
    called = {event.key: event.count for event in profile.key_averages()}
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    of_shortcuts = sum(".downsample.1.weight" in name for name in network.state_dict())
    assert called["salcr::batch_norm_relu"] == norms - of_shortcuts > 0
    assert not {"aten::relu", "aten::relu_", "aten::batch_norm", "aten::add"} & called.keys()


def test_hooks_of_a_shortcut_are_called(generator):
    network, seen = TwoStreamResNet("tiny").eval(), []
    images = torch.randn(2, 3, *SMALL["tiny"], generator=generator)
    expected = network(images, images)
    for block in (stage[0] for stage in network.stages):
        if isinstance(block.downsample, torch.nn.Sequential):
            block.downsample.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(network(images, images), expected)
    assert len(seen) == 3


@pytest.mark.parametrize("architecture", SMALL)
def test_norms_folded_into_convolutions_give_the_same_maps(generator, architecture):
    network = TwoStreamResNet(architecture)
    network.load_imagenet(classifier_state(architecture, generator))
    network.train()
    before = {name: x.clone() for name, x in network.state_dict().items()}
    images = torch.randn(2, 3, *SMALL[architecture], generator=generator)
    folded = network.folded()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert folded.folded() is folded
    assert network.training and not folded.training
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    network.eval()
    with torch.no_grad():
        exact, found = network.double(), folded(images, images)
        expected = exact(images.double(), images.double())
        in_double = network.folded()(images.double(), images.double())
        plain = network.float()(images, images)
    torch.testing.assert_close(in_double, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    assert_within_budget(found, expected, plain, terms=2 * sum(1 for _ in folded.modules()))
