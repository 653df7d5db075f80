"""The precision of the products of contrasts and searches, and that of features and memories under autocast.

Kernels without a GPU: tests/kernels.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from salcr import ops
from salcr.ops.instance_memories import instance_searches
from tests.ops.contract import assert_compiles
from tests.ops.memories import CPU_BACKENDS, check_precision, check_precision_of_search, evaluate, random_memory

TARGETS = torch.tensor([0, 3, 1, -1, 2])
SETS = torch.tensor([[0, 2], [1, -1], [2, 3], [-1, -1], [0, 1]])
SOFT, WEIGHTS = torch.full((5, 4), 0.25), torch.linspace(0.5, 1.5, 5)
CALLS = {
    "cluster_contrast": lambda x, m, **o: ops.cluster_contrast(x, m, TARGETS, **o),
    "rows": lambda x, m, **o: ops.cluster_contrast(x, m, TARGETS, reduction="none", **o),
    "soft targets": lambda x, m, **o: ops.cluster_contrast(x, m, soft_targets=SOFT, weights=WEIGHTS, **o),
    "cluster_contrast_sum": lambda x, m, **o: ops.cluster_contrast_sum(x, [m, m[:4]], [TARGETS, TARGETS], **o),
    "set_contrast": lambda x, m, **o: ops.set_contrast(x, m, SETS, **o),
    "union": lambda x, m, **o: ops.set_contrast(x, m, [SETS, SETS[:, :1]], **o),
}
SEARCHES = {
    "a search for each": lambda x, m: ops.set_contrast(x, m, [SETS, SETS[:, :1]], over="each"),
    "instance_search": lambda x, m, **o: ops.instance_search(x.detach(), m, 2, **o)[2],
    "instance_neighbors": lambda x, m: ops.instance_neighbors(x.detach(), m, 2)[1],
}


@pytest.fixture
def rows(generator):
    return random_memory(generator, (), 5, 4, 40, torch.float32)


@pytest.mark.parametrize("impl", [*CPU_BACKENDS, "eager"])
@pytest.mark.parametrize("name", CALLS)
def test_bfloat16_is_float32_of_rounded_rows(rows, name, impl):
    """Value and gradient, which is not rounded itself."""
    x, memory = rows
    found = evaluate(CALLS[name], x, memory, precision="bfloat16", impl=impl)
    rounded = (y.bfloat16().float() for y in (x, memory))
    expected = evaluate(CALLS[name], *rounded, precision="float32", impl=impl)
    assert all(map(torch.equal, found, expected)) and {y.dtype for y in found} == {torch.float32}
    assert not torch.equal(found[0], CALLS[name](x, memory, impl=impl))
    for precision in ("auto", "tf32"):
        same = evaluate(CALLS[name], x, memory, precision=precision, impl=impl)
        assert all(map(torch.equal, same, evaluate(CALLS[name], x, memory, precision="float32", impl=impl)))


@pytest.mark.parametrize("impl", [*CPU_BACKENDS, "eager"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_error_budget(generator, precision, impl):
    check_precision(impl, precision, generator)


@pytest.mark.parametrize("impl", [*CPU_BACKENDS, "eager"])
def test_no_precision_decides_a_set(generator, impl):
    check_precision_of_search(impl, generator)


@pytest.mark.parametrize("name", [*CALLS, "instance_search"])
def test_auto_is_what_autocast_computes_in(rows, name):
    call = (CALLS | SEARCHES)[name]
    x, memory = rows
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(call(x, memory), call(x, memory, precision="bfloat16"))
        exact = call(x, memory, precision="float32")
    assert torch.equal(call(x, memory), exact)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(call(x, memory), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", [name for name in CALLS | SEARCHES if name != "soft targets"])
def test_fakes_are_like_what_an_operator_makes(rows, name, dtype):
    """Sums of logits, for one, are float32 where features are not."""
    x, memory = (y.to(dtype) for y in rows)
    made = []

    class Comparing(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if function.namespace == "salcr":
                faked = function(*tree_map_only(torch.Tensor, lambda y: y.to("meta"), args))
                made.append([[(y.dtype, y.shape, y.stride()) for y in tree_leaves(some)] for some in (found, faked)])
            return found

    with Comparing():
        loss = (CALLS | SEARCHES)[name](x.requires_grad_(), memory)
        if loss.requires_grad:
            loss.sum().backward()
    assert made and all(found == faked for found, faked in made)


def test_features_in_half_precision_are_multiplied_as_they_are(rows):
    x, memory = (y.half() for y in rows)
    for precision in ("bfloat16", "tf32"):
        assert torch.equal(
            ops.cluster_contrast(x, memory, TARGETS, precision=precision), ops.cluster_contrast(x, memory, TARGETS)
        )


def test_a_known_log_sum_exp_keeps_sets_in_float32(rows):
    x, memory = rows
    _, lse, mean_row = ops.instance_search(x, memory, 2, precision="bfloat16")
    for known in (dict(lse=lse), dict(lse=lse, mean_row=mean_row)):
        exact = evaluate(ops.set_contrast, x, memory, SETS, precision="float32", **known)
        assert all(map(torch.equal, evaluate(ops.set_contrast, x, memory, SETS, precision="bfloat16", **known), exact))


@pytest.mark.parametrize("name", [*CALLS, *SEARCHES])
def test_autocast_takes_the_dtype_of_the_features(rows, name):
    """Elsewhere another dtype of the memory is an error."""
    features, memory, call = rows[0].bfloat16().requires_grad_(), rows[1], (CALLS | SEARCHES)[name]
    with torch.autocast("cpu", torch.bfloat16):
        found = call(features, memory)
    if name == "soft targets":
        terms = dict(soft_targets=SOFT.bfloat16(), weights=WEIGHTS.bfloat16())
        expected = ops.cluster_contrast(features, memory.bfloat16(), **terms)
    else:
        expected = call(features, memory.bfloat16())
    assert found.dtype == expected.dtype and torch.equal(found, expected)
    if found.requires_grad:
        gradients = [torch.autograd.grad(x.sum(), features)[0] for x in (found, expected)]
        assert gradients[0].dtype == torch.bfloat16 and torch.equal(*gradients)
    with pytest.raises(TypeError, match=r"memory is torch\.float32, features torch\.bfloat16|soft_targets is"):
        call(features, memory)


def test_an_update_under_autocast_keeps_the_precision_of_the_memory(rows):
    features, memory = rows[0].bfloat16().requires_grad_(), rows[1]
    expected = ops.update_cluster_memory_(memory.clone(), features.detach().float(), TARGETS)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.update_cluster_memory_(memory, features, TARGETS)
    assert found is memory and torch.equal(memory, expected)
    with pytest.raises(TypeError, match=r"memory is torch\.float32, features torch\.bfloat16"):
        ops.update_cluster_memory_(memory, features, TARGETS)


def test_rows_on_a_device_that_autocast_does_not_know_have_shapes():
    rows, targets = (
        torch.empty(3, 4, device="meta", requires_grad=True),
        torch.zeros(3, dtype=torch.int64, device="meta"),
    )
    memory = torch.empty(2, 4, device="meta")
    ops.cluster_contrast(rows, memory, targets).backward()
    assert rows.grad.shape == (3, 4)
    assert ops.set_contrast(rows, memory, [targets[:, None]] * 2, over="each").shape == ()
    assert ops.instance_search(rows.half(), memory.half(), 2)[2].shape == (3, 4)


def test_it_compiles_under_autocast(rows):
    def step(features, memory):
        with torch.autocast("cpu", torch.bfloat16):
            return ops.cluster_contrast(features, memory, TARGETS) + ops.set_contrast(features, memory, SETS)

    assert_compiles(step, (rows[0].bfloat16().requires_grad_(), rows[1]))


def test_it_compiles(rows):
    def step(features, memory):
        whole = ops.cluster_contrast_sum(features, [memory], [TARGETS], precision="bfloat16")
        return whole + ops.set_contrast(features, memory, SETS, precision="bfloat16")

    assert_compiles(step, (rows[0].requires_grad_(), rows[1]))


def test_the_reference_has_a_second_derivative(rows):
    x, memory = rows

    def curvature(x, memory, **options):
        leaf = x.clone().requires_grad_()
        loss = ops.cluster_contrast(leaf, memory, TARGETS, impl="reference", **options)
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), leaf)[0]

    expected = curvature(x.bfloat16().float(), memory.bfloat16().float())
    torch.testing.assert_close(curvature(x, memory, precision="bfloat16"), expected)


def test_under_vmap(rows):
    features, memories = torch.stack([rows[0], 2 * rows[0]]), torch.stack([rows[1], rows[1].flip(0)])

    def contrast(x, memory):
        return ops.cluster_contrast(x, memory, TARGETS, precision="bfloat16")

    expected = torch.stack([contrast(*pair) for pair in zip(features, memories, strict=True)])
    assert torch.equal(torch.func.vmap(contrast)(features, memories), expected)


@pytest.mark.parametrize("name", [*CALLS, "instance_search", "instance_searches"])
def test_what_is_refused(rows, name):
    x, memory = rows
    several = {"instance_searches": lambda x, m, **o: instance_searches([x], [[m]], 2, **o)}
    call = (CALLS | SEARCHES | several)[name]
    with pytest.raises(ValueError, match="precision must be one of auto, float32, tf32, bfloat16, got 'half'"):
        call(x, memory, precision="half")
    if name != "soft targets":
        with pytest.raises(ValueError, match=r"precision='tf32' is for float32, got torch.float64 features"):
            call(x.double(), memory.double(), precision="tf32")


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_on_a_gpu(generator, precision):
    check_precision("triton", precision, generator, 131, 515, 384, "cuda")


@pytest.mark.cuda
def test_on_a_gpu_no_precision_decides_a_set(generator):
    check_precision_of_search("triton", generator, 131, 4098, 384, 29, "cuda", same_lse=False)
