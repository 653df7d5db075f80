import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from salcr.nn import norm_relu


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


OTHERS = {
    "none": nn.Identity(),
    "instance": nn.InstanceNorm2d(6),
    "no weight": nn.BatchNorm2d(6, affine=False),
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
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x, shortcut):
        return norm_relu(self.norm, x, shortcut)


def operators(program):
    graphs = [module.graph for module in program.modules() if isinstance(module, torch.fx.GraphModule)]
    return [str(node.target) for graph in graphs for node in graph.nodes]


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_norm_is_of_pytorchs_operators(generator, strict):
    norm, x, shortcut = block_end(generator, False)
    program = torch.export.export(End(norm), (x, shortcut), strict=strict)
    assert not any("salcr" in name for name in operators(program.graph_module))
    torch.testing.assert_close(program.module()(x, shortcut), norm_relu(norm, x, shortcut))


@pytest.mark.parametrize("training", [False, True])
def test_a_compiled_norm_is_the_operator(generator, training):
    norm, x, shortcut = block_end(generator, training)
    captured = []

    def backend(program, _):
        captured.append(operators(program))
        return program

    torch.compile(End(norm), backend=backend, fullgraph=True)(x, shortcut)
    norms = [name for name in captured[0] if "batch_norm" in name]
    assert norms == ["salcr.batch_norm_relu", "salcr.batch_norm_relu_backward"]
