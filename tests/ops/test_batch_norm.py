import pytest
import torch

from salcr import ops, reference
from tests.ops.batch_norm_problems import (
    EPS,
    arguments,
    by_torch,
    check_budget,
    check_far_mean,
    maps_with_a_norm,
    problem,
    results_and_gradients,
)
from tests.ops.contract import assert_compiles, assert_operator_contract

IMPLEMENTATIONS = "reference", "eager", "cpp"
SHORTCUTS = [dict(shortcut=False), dict(shortcut=True), dict(shortcut=True, normed=True)]
KINDS = [shortcut | dict(given=given) for shortcut in SHORTCUTS for given in (False, True)]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("options", [{}, {"eps": EPS}], ids=str)
def test_it_is_what_pytorchs_functions_make(generator, options, kind, channels_last, impl):
    tensors, statistics = problem(generator, dtype=torch.float64, channels_last=channels_last, offset=3.0, **kind)
    expected = results_and_gradients(by_torch, tensors, statistics, **options)
    found = results_and_gradients(ops.batch_norm_relu, tensors, statistics, impl=impl, **options)
    torch.testing.assert_close(found, expected)
    assert found[0].stride() == found[-len(tensors)].stride() == tensors[0].stride()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shortcut", SHORTCUTS, ids=str)
def test_gradients_of_two_consumers_are_added(generator, shortcut, impl):
    tensors, _ = problem(generator, dtype=torch.float64, **shortcut)
    leaves = [x.requires_grad_() for x in tensors]
    y, same, *_ = ops.batch_norm_relu(**arguments(*leaves), twice=True, impl=impl)
    assert same.data_ptr() == y.data_ptr() and torch.equal(same, y)
    found = torch.autograd.grad((y.sin() + 2 * same.square()).sum(), leaves, retain_graph=True)
    once = ops.batch_norm_relu(**arguments(*leaves), impl=impl)[0]
    expected = torch.autograd.grad((once.sin() + 2 * once.square()).sum(), leaves, retain_graph=True)
    torch.testing.assert_close(found, expected)
    of_one = torch.autograd.grad(same.sin().sum(), leaves)
    torch.testing.assert_close(of_one, torch.autograd.grad(once.sin().sum(), leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_eager_is_within_the_budget(generator, kind, dtype):
    check_budget("eager", *problem(generator, dtype=dtype, **kind))


@pytest.mark.parametrize("shape", [(3, 20, 5, 3), (1, 1, 1, 2), (2, 130, 3, 7), (4, 7, 1, 1), (9, 16, 12, 11)], ids=str)
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_cpp_is_within_the_budget(generator, kind, twice, shape):
    check_budget("cpp", *problem(generator, shape=shape, offset=5.0, **kind), twice=twice)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_constant_channel_without_a_bias_sends_nothing_back(impl):
    """All its sums are zeros, where ReLU has the derivative 0."""
    x, weight, bias = torch.full((2, 1, 3, 2), 4.0).requires_grad_(), torch.ones(1), torch.zeros(1)
    y, _, _ = ops.batch_norm_relu(x, weight, bias, impl=impl)
    (gradient,) = torch.autograd.grad(y, x, torch.arange(12.0).view(2, 1, 3, 2))
    assert not y.any() and not gradient.any()


@pytest.mark.parametrize("normed", [False, True])
def test_the_number_of_threads_changes_no_bit(generator, normed):
    tensors, statistics = problem(generator, shape=(9, 33, 12, 11), shortcut=True, normed=normed)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(results_and_gradients(ops.batch_norm_relu, tensors, statistics, impl="cpp"))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_mean_far_from_zero_costs_no_digits_of_the_variance(generator, offset):
    check_far_mean("cpp", generator, offset)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind["shortcut"] == kind.get("normed", False)], ids=str)
def test_what_a_channel_has_may_lie_apart(generator, kind, impl):
    tensors, statistics = problem(generator, **kind)

    def apart(y):
        return y.repeat_interleave(2)[::2] if y.ndim == 1 else y

    spread = [*map(apart, tensors)], {name: apart(y) for name, y in statistics.items()}
    found, expected = (
        results_and_gradients(ops.batch_norm_relu, *some, impl=impl) for some in (spread, (tensors, statistics))
    )
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("impl", ["reference", "eager", "auto"])
def test_parameters_may_be_of_half_precision_too(generator, impl):
    (x, weight, bias), _ = problem(generator, dtype=torch.bfloat16)
    narrow = weight.bfloat16().requires_grad_(), bias.bfloat16().requires_grad_()
    y, mean, _ = ops.batch_norm_relu(x, *narrow, impl=impl)
    exact = reference.batch_norm_relu(x.double(), *(p.detach().double() for p in narrow))
    torch.testing.assert_close(y.double(), exact[0], rtol=2**-7, atol=2**-7)
    assert y.dtype == torch.bfloat16 and mean.dtype == torch.float32
    assert [g.dtype for g in torch.autograd.grad(y.sum(), narrow)] == [torch.bfloat16] * 2


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind["shortcut"]], ids=str)
def test_nan_stays(generator, kind, impl):
    tensors, statistics = problem(generator, **kind)
    for spoilt in (0, 3) if "normed" in kind else (0,):
        changed = [x.clone() for x in tensors]
        changed[spoilt][1, 4, 2, 2] = torch.nan
        y, *_ = ops.batch_norm_relu(**arguments(*changed), **statistics, impl=impl)
        expected = torch.zeros_like(y, dtype=torch.bool)
        expected[(1, 4, 2, 2) if kind["given"] else (slice(None), 4)] = True
        assert torch.equal(y.isnan(), expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_with_given_statistics_an_infinite_entry_changes_no_other_gradient(generator, impl):
    tensors, statistics = problem(generator, given=True)
    expected = results_and_gradients(reference.batch_norm_relu, tensors, statistics)[3]
    tensors[0][1, 4, 2, 2] = -torch.inf
    found = results_and_gradients(ops.batch_norm_relu, tensors, statistics, impl=impl)[3]
    others = torch.ones_like(found, dtype=torch.bool)
    others[1, 4, 2, 2] = False
    torch.testing.assert_close(found[others], expected[others])


def test_statistics_have_no_gradient(generator):
    tensors, _ = problem(generator)
    _, mean, var = ops.batch_norm_relu(*(x.requires_grad_() for x in tensors))
    assert not mean.requires_grad and not var.requires_grad


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("kind", "dtype"), [(KINDS[0], torch.float64), (KINDS[3], torch.float32), (KINDS[4], torch.float32)], ids=str
)
def test_contract(generator, kind, dtype, impl):
    tensors, statistics = problem(generator, shape=(2, 3, 2, 2), dtype=dtype, **kind)
    maps, shortcut = maps_with_a_norm(tensors), tensors[3] if len(tensors) == 4 else None
    parameters = [x for x in tensors if x.ndim == 1]
    norms = maps, parameters, shortcut, list(statistics.values())
    assert_operator_contract(torch.ops.salcr.batch_norm_relu, (*norms, 1e-5, impl))
    y, *found = ops.batch_norm_relu(**arguments(*tensors), **statistics, impl=impl)
    backward = torch.ops.salcr.batch_norm_relu_backward
    flags = shortcut is not None, kind["given"]
    assert_operator_contract(backward, ([y, y.cos()], maps, parameters, found, y, *flags, 1e-5, impl))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradcheck(generator, kind):
    tensors, statistics = problem(generator, shape=(2, 2, 2, 2), dtype=torch.float64, **kind)
    leaves = [x.requires_grad_() for x in tensors]
    for impl in IMPLEMENTATIONS:
        call = lambda *x, i=impl: ops.batch_norm_relu(**arguments(*x), **statistics, impl=i)[0]  # noqa: E731
        assert torch.autograd.gradcheck(call, leaves)
    formula = lambda *x: ops.batch_norm_relu(**arguments(*x), **statistics, impl="reference")[0]  # noqa: E731
    assert torch.autograd.gradgradcheck(formula, leaves)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_it_compiles_whole(generator, twice, normed):
    def block(x, *others):
        found = ops.batch_norm_relu(**arguments(x.sin(), *others), twice=twice)
        return found[0].cos() + sum(found[1 : 1 + twice])

    examples = [problem(generator, shape=(n, 4, 3, 2), shortcut=True, normed=normed)[0] for n in (3, 5)]
    assert_compiles(block, *([x.requires_grad_() for x in tensors] for tensors in examples))


def test_a_map_that_is_its_own_shortcut_compiles(generator):
    """Dynamo alone would refuse a tensor that it has had."""
    (x, weight, _), _ = problem(generator)
    x.requires_grad_()

    def block(x):
        return ops.batch_norm_relu(x, weight, weight, shortcut=x)[0].square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    assert torch.equal(*(torch.autograd.grad(function(x), x)[0] for function in (block, compiled)))


X, GIVEN = torch.ones(2, 3, 4, 5), dict(mean=torch.ones(3), var=torch.ones(3))
NORM = dict(shortcut_weight=torch.ones(3), shortcut_bias=torch.ones(3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(x=torch.ones(2, 3, 4)), ValueError, r"x must have 4 axes, got shape \(2, 3, 4\)"),
        (dict(x=torch.ones(2, 3, 4, 5, dtype=torch.int64)), TypeError, "x must be floating point, got torch.int64"),
        (dict(x=torch.ones(0, 3, 4, 5)), ValueError, r"x is empty: shape \(0, 3, 4, 5\)"),
        (
            dict(x=torch.ones(1, 3, 1, 1)),
            ValueError,
            r"x \(1, 3, 1, 1\) has one entry a channel, which has no variance",
        ),
        (dict(weight=torch.ones(4)), ValueError, r"weight \(4,\) does not fit the 3 channels of x \(2, 3, 4, 5\)"),
        (dict(weight=torch.ones(3).double()), TypeError, "weight is torch.float64, wanted is torch.float32"),
        (dict(bias=torch.ones(3).half()), TypeError, "bias is torch.float16, wanted is torch.float32"),
        (dict(bias=torch.ones(3, device="meta")), ValueError, "bias is on meta, x on cpu"),
        (dict(mean=torch.ones(3)), ValueError, "mean and var go together"),
        (dict(mean=torch.ones(2), var=torch.ones(3)), ValueError, r"mean \(2,\) does not fit"),
        (dict(mean=torch.ones(3), var=torch.ones(2)), ValueError, r"var \(2,\) does not fit"),
        (
            dict(mean=torch.ones(3).requires_grad_(), var=torch.ones(3)),
            ValueError,
            "have no gradient here: detach them",
        ),
        (dict(shortcut=torch.ones(2, 3, 5, 4)), ValueError, r"shortcut \(2, 3, 5, 4\) does not fit x \(2, 3, 4, 5\)"),
        (dict(shortcut=torch.ones(2, 3, 4, 5).half()), TypeError, "shortcut is torch.float16, x torch.float32"),
        (dict(shortcut=X, shortcut_weight=torch.ones(3)), ValueError, "a norm of the shortcut needs .* shortcut_bias"),
        (dict(shortcut_mean=torch.ones(3)), ValueError, "a norm of the shortcut needs shortcut, shortcut_weight and"),
        (NORM, ValueError, "a norm of the shortcut needs shortcut"),
        (NORM | dict(shortcut=X, shortcut_bias=torch.ones(2)), ValueError, r"shortcut_bias \(2,\) does not fit the 3"),
        (NORM | dict(shortcut=X, shortcut_weight=torch.ones(3).half()), TypeError, "shortcut_weight is torch.float16"),
        (NORM | GIVEN | dict(shortcut=X), ValueError, "shortcut_mean go together: give statistics of both norms"),
        (NORM | dict(shortcut=X, shortcut_var=torch.ones(3)), ValueError, "shortcut_mean and shortcut_var go together"),
        (
            NORM | GIVEN | dict(shortcut=X, shortcut_mean=torch.ones(3), shortcut_var=torch.ones(3).requires_grad_()),
            ValueError,
            "shortcut_mean and shortcut_var have no gradient here",
        ),
        (dict(twice=1), TypeError, "twice must be True or False, got 1"),
        (dict(eps=0.0), ValueError, "eps must be positive, got 0.0"),
        (dict(impl="cuda"), ValueError, "batch_norm_relu has the backends cpp, triton, eager, reference"),
    ],
)
def test_what_does_not_fit_is_named(change, error, message):
    given = dict(x=X, weight=torch.ones(3), bias=torch.ones(3)) | change
    with pytest.raises(error, match=message):
        ops.batch_norm_relu(**given)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_triton_is_within_the_budget_on_a_gpu(generator, kind, dtype):
    tensors, statistics = problem(generator, shape=(12, 136, 18, 9), dtype=dtype, offset=2.0, **kind)
    given = [x.cuda() for x in tensors], {name: x.cuda() for name, x in statistics.items()}
    check_budget("triton", *given, twice=kind["shortcut"])
    first, second = (results_and_gradients(ops.batch_norm_relu, *given, impl="triton") for _ in range(2))
    assert all(map(torch.equal, first, second))
