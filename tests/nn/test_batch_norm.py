import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from salcr import distributed
from salcr.nn import norm_relu, synchronised


def block_end(generator, training):
    norm = nn.BatchNorm2d(6, eps=0.1, momentum=0.3).train(training)
    for name in ("weight", "bias", "running_mean"):
        getattr(norm, name).data.normal_(generator=generator)
    x, shortcut = torch.randn(2, 4, 6, 5, 3, generator=generator)
    return norm, x, shortcut


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("with_shortcut", [False, True])
def test_it_is_the_norm_the_sum_and_relu(generator, with_shortcut, training):
    norm, x, shortcut = block_end(generator, training)
    same, _, _ = block_end(generator, training)
    same.load_state_dict(norm.state_dict())
    shortcut = shortcut if with_shortcut else None
    expected = torch.relu(same(x) + (0 if shortcut is None else shortcut))
    torch.testing.assert_close(norm_relu(norm, x, shortcut), expected)
    for found, wanted in zip(norm.state_dict().values(), same.state_dict().values(), strict=True):
        torch.testing.assert_close(found, wanted)
    assert int(norm.num_batches_tracked) == training


@pytest.mark.parametrize("training", [False, True])
def test_the_shortcuts_norm_is_in_the_same_operator(generator, training):
    norm, x, shortcut = block_end(generator, training)
    other, _, _ = block_end(generator, training)
    other.momentum = 0.2  # each follows by its own
    same, same_other = copy.deepcopy([norm, other])
    expected = torch.relu(same(x) + same_other(shortcut))
    with operators_called() as called:
        y, again = norm_relu(norm, x, shortcut, shortcut_norm=other, twice=True)
    assert called == ["salcr.batch_norm_relu.default"] and torch.equal(y, again)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(norm.state_dict(), same.state_dict())
    torch.testing.assert_close(other.state_dict(), same_other.state_dict())


def test_in_evaluation_a_synchronised_norm_is_a_plain_one(generator, monkeypatch):
    norm, x, shortcut = block_end(generator, False)
    other, _, _ = block_end(generator, False)
    expected = norm_relu(norm, x.clone(), shortcut, shortcut_norm=other)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    norm, other = map(synchronised, (norm, other))
    with operators_called() as called:
        y = norm_relu(norm, x, shortcut, shortcut_norm=other)
    assert called == ["salcr.batch_norm_relu.default"] and torch.equal(y, expected)


def test_a_norm_of_both_maps_follows_both(generator):
    norm, x, shortcut = block_end(generator, True)
    same = copy.deepcopy(norm)
    shortcut_first = same(shortcut)
    expected = torch.relu(same(x) + shortcut_first)
    torch.testing.assert_close(norm_relu(norm, x, shortcut, shortcut_norm=norm), expected)
    for name, found in norm.state_dict().items():
        assert found.isfinite().all() and (name != "num_batches_tracked" or found == 2)


@pytest.mark.parametrize("hindrance", ["eps", "eval", "hook", "instance", "identity", "norm"])
def test_a_norm_of_the_shortcut_that_does_not_fit_runs_by_itself(generator, hindrance):
    norm, x, shortcut = block_end(generator, True)
    other, _, _ = block_end(generator, True)
    seen = []
    if hindrance == "eps":
        other.eps = 0.2
    elif hindrance == "eval":
        other.eval()
    elif hindrance == "hook":
        other.register_forward_hook(lambda module, inputs, output: seen.append(output))
    elif hindrance == "norm":
        norm = nn.InstanceNorm2d(6)
    else:
        other = dict(instance=nn.InstanceNorm2d(6), identity=nn.Identity())[hindrance]
    same, same_other = copy.deepcopy([norm, other])
    expected = torch.relu(same(x) + same_other(shortcut))
    torch.testing.assert_close(norm_relu(norm, x, shortcut, shortcut_norm=other), expected)
    torch.testing.assert_close(norm.state_dict(), same.state_dict())
    torch.testing.assert_close(other.state_dict(), same_other.state_dict())
    assert bool(seen) == (hindrance == "hook")


def test_a_norm_of_no_shortcut_is_an_error(generator):
    norm, x, _ = block_end(generator, True)
    with pytest.raises(ValueError, match="shortcut_norm needs a shortcut"):
        norm_relu(norm, x, shortcut_norm=norm)


@contextlib.contextmanager
def operators_called():
    """Those of norms, the operators of others aside."""
    called = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            called.extend([str(function)] if "batch_norm" in str(function) else [])
            return function(*arguments, **(options or {}))

    with Watch():
        yield called


def without_bias(norm):
    norm.bias = None  # as PyTorch 2.13's norms with bias=False
    return norm


OTHERS = {
    "none": nn.Identity(),
    "instance": nn.InstanceNorm2d(6),
    "no weight": nn.BatchNorm2d(6, affine=False),
    "no bias": without_bias(nn.BatchNorm2d(6)),
    "no averages": nn.BatchNorm2d(6, track_running_stats=False),
    "averages of all": nn.BatchNorm2d(6, momentum=None),
}


@pytest.mark.parametrize("norm", OTHERS.values(), ids=OTHERS)
def test_any_other_norm_runs_by_itself(generator, norm):
    _, x, shortcut = block_end(generator, True)
    expected = torch.relu(norm(x) + shortcut)
    y, same = norm_relu(norm, x, shortcut, twice=True)
    assert torch.equal(y, expected) and same is y


def test_hooks_of_a_norm_are_called(generator):
    norm, x, shortcut = block_end(generator, True)
    expected, seen = norm_relu(norm, x, shortcut), {}
    norm.register_forward_hook(lambda module, inputs, output: seen.update(output=output))
    norm.register_full_backward_hook(lambda module, inputs, outputs: seen.update(gradient=inputs[0]))
    y = norm_relu(norm, x.requires_grad_(), shortcut)
    y.sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.relu(seen["output"] + shortcut), expected)
    assert torch.equal(seen["gradient"], x.grad)
    assert (norm_relu(norm, x) >= 0).all() and (seen["output"] < 0).any()


def test_a_norm_that_is_pruned_learns(generator):
    """Its weight is made of two others in a hook, at every forward pass."""
    norm, x, _ = block_end(generator, True)
    prune.random_unstructured(norm, "weight", amount=2)
    for _ in range(2):
        before = norm.weight.detach().clone()
        norm_relu(norm, x).square().sum().backward()
        with torch.no_grad():
            norm.weight_orig -= norm.weight_orig.grad
    assert not torch.equal(norm.weight, before)


@pytest.mark.parametrize("training", [False, True])
def test_a_norm_of_half_precision_runs_by_itself(generator, training):
    norm, x, shortcut = block_end(generator, training)
    norm, x, shortcut = norm.bfloat16(), x.bfloat16(), shortcut.bfloat16()
    expected = torch.relu(norm(x) + shortcut)
    assert torch.equal(norm_relu(norm, x, shortcut), expected)
    assert norm.running_mean.dtype == torch.bfloat16


class End(nn.Module):
    def __init__(self, norm, shortcut_norm=None):
        super().__init__()
        self.norm, self.shortcut_norm = norm, shortcut_norm

    def forward(self, x, shortcut):
        return norm_relu(self.norm, x, shortcut, shortcut_norm=self.shortcut_norm)


def operators(program):
    graphs = [module.graph for module in program.modules() if isinstance(module, torch.fx.GraphModule)]
    return [str(node.target) for graph in graphs for node in graph.nodes]


def ends(generator, training):
    """With a norm of the shortcut, and without."""
    (norm, x, shortcut), (other, _, _) = (block_end(generator, training) for _ in range(2))
    return [End(norm), End(norm, other)], (x, shortcut)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_norm_is_of_pytorchs_operators(generator, strict):
    modules, maps = ends(generator, False)
    for end in modules:
        program = torch.export.export(end, maps, strict=strict)
        assert not any("salcr" in name for name in operators(program.graph_module))
        torch.testing.assert_close(program.module()(*maps), end(*maps))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_compiled_norm_is_the_operator(generator, training, joined):
    modules, maps = ends(generator, training)
    captured = []

    def backend(program, _):
        captured.append(operators(program))
        return program

    torch.compile(modules[joined], backend=backend, fullgraph=True)(*maps)
    norms = [name for name in captured[0] if "batch_norm" in name]
    assert norms == ["salcr.batch_norm_relu", "salcr.batch_norm_relu_backward"]
