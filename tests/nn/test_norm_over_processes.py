"""Of what needs no second process; several train with it in engine/test_distributed.py."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # a group whose other processes say nothing
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from salcr import distributed
from salcr.nn import norm_over_processes, synchronised
from salcr.nn.norm_over_processes import BatchNormOverProcesses
from tests.ops.contract import assert_within_budget

NAMES = "stats", "gather_stats_with_counts", "elemt", "backward_reduce", "backward_elemt"
KERNELS = {getattr(torch.ops.aten, f"batch_norm_{name}").default: f"batch_norm_{name}" for name in NAMES}
EPS = 0.1  # far from the default, with which a constant in its place would pass
LAYOUTS = {"rows": torch.channels_last, "planes": torch.contiguous_format, "necks": None}


class Watch(TorchDispatchMode):
    """Notes kernels and collectives, and computes what the kernels, which are for GPUs alone, do."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = KERNELS.get(function)
        self.called.extend([name or function.__name__] if name or function.namespace == "c10d" else [])
        call = function if name is None else getattr(norm_over_processes._Formulas, name)
        return call(*arguments, **(options or {}))


@pytest.fixture
def watched(monkeypatch):
    """What norms call, on tensors of the CPU that go the way of a GPU's."""
    monkeypatch.setattr(norm_over_processes, "_kernels", lambda x: torch)
    with Watch() as watch:
        yield watch.called


@pytest.fixture
def group_of_two():
    dist.init_process_group("fake", rank=0, world_size=2)
    yield
    dist.destroy_process_group()


def problem(generator, layout="rows", dtype=torch.float64):
    """A plain norm, ``x`` and a gradient of the result, which has another layout than ``x``."""
    kind, shape = (nn.BatchNorm1d, (6, 5)) if layout == "necks" else (nn.BatchNorm2d, (4, 5, 3, 2))
    norm = kind(5, eps=EPS, momentum=0.3, dtype=torch.promote_types(dtype, torch.float32))
    for name in ("weight", "bias", "running_mean"):
        getattr(norm, name).data.normal_(generator=generator)
    x, gradient = (2 + torch.randn(2, *shape, generator=generator)).to(dtype)
    return norm, x if layout == "necks" else x.contiguous(memory_format=LAYOUTS[layout]), gradient


def over_processes(norm):
    norm = copy.deepcopy(norm)
    norm.__class__ = BatchNormOverProcesses
    return norm


def trained(norm, x, gradient):
    """The result, the gradients of ``x``, weight and bias, and the averages and their count."""
    x = x.detach().requires_grad_()
    y = norm(x)
    of = torch.autograd.grad(y, (x, norm.weight, norm.bias), gradient)
    return [y.detach(), *of, *norm.buffers()]


def check_budget(norm, x, gradient):
    """Alone it is a plain norm, within the budget of PyTorch's in the same precision on the same device."""
    got, eager = (trained(change(norm), x, gradient) for change in (over_processes, copy.deepcopy))
    exact = trained(copy.deepcopy(norm).double(), x.double(), gradient.double())
    channels = x.double().transpose(0, 1).flatten(1)
    rows, deviation = channels.shape[1], float((channels.var(1, correction=0) + EPS).sqrt().min())
    largest, furthest = float(channels.abs().max()), float((channels - channels.mean(1, keepdim=True)).abs().max())
    steepest, normalised = float(gradient.abs().max()), furthest / deviation
    size = float(norm.weight.detach().abs().max()) / deviation  # what a rounding of x makes of the result
    magnitudes = [
        size * largest + float(norm.bias.detach().abs().max()),
        steepest * size * (2 + normalised**2),
        steepest * rows * normalised * max(1.0, largest / deviation),
        steepest * rows,
        largest,
        largest * furthest + 1,  # the average was 1
    ]
    for found, true, rival, magnitude in zip(got[:-1], exact, eager, magnitudes, strict=False):
        assert_within_budget(found, true, rival, terms=rows + 4, magnitude=magnitude)
    assert got[0].dtype == got[1].dtype == x.dtype and got[0].stride() == got[1].stride() == x.stride()
    assert got[-1] == exact[-1] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_alone_it_is_a_plain_norm(generator, layout, dtype):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        check_budget(*problem(generator, layout, dtype))


@pytest.mark.parametrize("wanted", range(1, 8))
def test_what_wants_no_gradient_gets_none(generator, wanted):
    norm, x, gradient = problem(generator)
    ends = []
    for one in (norm, over_processes(norm)):
        leaves = x.detach().clone(), one.weight, one.bias
        for number, leaf in enumerate(leaves):
            leaf.requires_grad_(bool(wanted >> number & 1))
        one(leaves[0]).backward(gradient)
        ends.append([leaf.grad for leaf in leaves])
    for expected, found in zip(*ends, strict=True):
        assert (found is None) == (expected is None)
        assert found is None or torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_second_derivative_is_an_error(generator):
    norm, x, gradient = problem(generator)
    x = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(over_processes(norm)(x), x, gradient.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_formulas_take_what_kernels_take():
    for kernel, name in KERNELS.items():
        taken = inspect.signature(getattr(norm_over_processes._Formulas, name)).parameters
        assert len(taken) == len(kernel._schema.arguments)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_gpu_kernels_get_what_the_formulas_get(generator, layout, request):
    norm, x, gradient = problem(generator, layout)
    expected = trained(over_processes(norm), x, gradient)
    called = request.getfixturevalue("watched")
    found = trained(over_processes(norm), x, gradient)
    assert called == [f"batch_norm_{name}" for name in NAMES]
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_asks_for_no_value_and_speaks_once_a_pass(generator, layout, group_of_two, watched):
    with FakeTensorMode():
        norm, x, gradient = problem(generator, layout, torch.bfloat16)
        norm.__class__ = BatchNormOverProcesses
        trained(norm, x, gradient)
    speaking = ["stats", "_allgather_base_", "gather_stats_with_counts", "elemt"]
    speaking += ["backward_reduce", "allreduce_", "backward_elemt"]
    assert [name.split(".")[0].removeprefix("batch_norm_") for name in watched] == speaking


def test_a_synchronised_network_keeps_names_and_is_copied_and_pickled(generator, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    network = nn.Sequential(nn.Conv2d(3, 5, 1), problem(generator)[0])
    names = list(network.state_dict())
    assert synchronised(network) is network and list(network.state_dict()) == names
    for same in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert type(same[1]) is BatchNormOverProcesses
        assert all(map(torch.equal, same.state_dict().values(), network.state_dict().values()))


LACKING = {
    "weight": dict(affine=False),
    "running_mean": dict(track_running_stats=False),
    "momentum": dict(momentum=None),
}


@pytest.mark.parametrize("part", LACKING)
def test_a_norm_that_lacks_something_is_refused(monkeypatch, part):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    norm = nn.BatchNorm2d(3, **LACKING[part])
    with pytest.raises(ValueError, match=f"1.0 has no {part}, without which it is not synchronised"):
        synchronised(nn.Sequential(nn.ReLU(), nn.Sequential(norm)))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_are_within_the_budget(generator, layout, dtype):
    norm, x, gradient = problem(generator, layout, dtype)
    norm, x, gradient = norm.cuda(), x.cuda(), gradient.cuda()
    check_budget(norm, x, gradient)
    first, second = (trained(over_processes(norm), x, gradient) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.cuda
def test_it_never_waits_for_the_device(generator):
    norm, x, gradient = (part.cuda() for part in problem(generator, dtype=torch.float32))
    torch.cuda.set_sync_debug_mode("error")
    try:
        trained(over_processes(norm), x, gradient)
    finally:
        torch.cuda.set_sync_debug_mode("default")
