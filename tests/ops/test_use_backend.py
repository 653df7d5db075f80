"""One switch for everything inside; what each name means for an operator that lacks it."""

import inspect
import os
import runpy
import sys

import pytest
import torch
import torch.nn.functional as F

import salcr
from salcr import ops, reference
from salcr.ops import _dispatch
from salcr.ops._dispatch import missing

CPP = pytest.mark.skipif(bool(missing("cpp")), reason=str(missing("cpp")))
BESIDE_THE_FORMULA = {  # arguments that say how to compute it, and no formula has
    "batch_norm_relu": {"twice"},
    "cluster": {"neighbors", "group"},
    "cluster_contrast": {"precision"},
    "cluster_contrast_sum": {"precision"},
    "instance_search": {"precision"},
    "knn": {"method", "group"},
    "set_contrast": {"precision"},
}


@pytest.fixture
def called(monkeypatch):
    """The backends that ran, in order."""
    names = []

    def pick(operator, impl, tensor):
        function = original(operator, impl, tensor)
        backends = _dispatch._TABLE[operator]
        names.append(next(b.name for b in backends.values() if b.function is function))
        return function

    original = _dispatch.pick
    for module in [m for name, m in sys.modules.items() if name.startswith("salcr.ops.")]:
        if getattr(module, "pick", None) is original:
            monkeypatch.setattr(module, "pick", pick)
    return names


def contrast(**options):
    x = torch.eye(3, requires_grad=True)
    return x, ops.cluster_contrast(x, torch.eye(3), torch.arange(3), **options)


@pytest.mark.parametrize("name", ["reference", "eager"])
def test_it_holds_for_both_passes_and_ends_with_its_block(called, name):
    with salcr.use_backend(name):
        x, loss = contrast()
    loss.backward()
    assert called == [name, name] and x.grad is not None
    contrast()
    assert len(called) == 3 and (called[2] == "cpp" or missing("cpp"))


def test_it_holds_for_assignments_too_which_have_a_shorter_way(called):
    with salcr.use_backend("reference"):
        ops.linear_assignment(torch.eye(3))
    assert called == ["reference"]


def test_an_operator_without_an_eager_backend_takes_the_reference(called):
    with salcr.use_backend("eager"):
        ops.gem_pool(torch.rand(1, 2, 3, 3))
    assert called == ["reference"]


@CPP
def test_an_operator_without_a_compiled_backend_runs_as_ever(called):
    with salcr.use_backend("numba"):
        contrast()
    assert called == ["cpp"]


def test_a_name_given_to_an_operator_counts_for_more(called):
    with salcr.use_backend("reference"):
        contrast(impl="eager")
        with salcr.use_backend("auto"):
            contrast(impl="reference")
        contrast()
    assert called == ["eager", "reference", "reference"]


def test_what_cannot_run_here_raises_and_says_why():
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton can run here")
    with salcr.use_backend("triton"), pytest.raises(RuntimeError, match="of cluster_contrast cannot run: "):
        contrast()


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [("cpp", "meta", "cpu"), ("numba", "meta", "cpu"), ("cuda", "cpu", "cuda"), ("triton", "cpu", "cuda")],
)
def test_a_backend_gets_tensors_of_its_own_devices(monkeypatch, name, given, taken):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    backend = _dispatch.Backend(name, contrast, None, lambda: None)
    assert _dispatch.obstacle(backend, torch.ones(1, device=given)) == f"it takes tensors on {taken}, got {given}"
    assert _dispatch.obstacle(backend, torch.ones(1, device="cpu")) is None or taken == "cuda"


def test_clustering_without_a_kernel(called, generator):
    features = F.normalize(torch.randn(60, 8, generator=generator), dim=1)
    expected = ops.cluster(features, eps=0.6)
    called.clear()
    with salcr.use_backend("reference"):
        assert torch.equal(ops.cluster(features, eps=0.6), expected)
    assert set(called) == {"reference"}


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="name must be one of auto, reference, eager"), salcr.use_backend("gpu"):
        pass
    for name in ("gpu", "cpp?", "eager?"):  # the last two stand for use_backend inside
        with pytest.raises(ValueError, match=r"impl must be one of auto, reference, eager.* got "):
            ops.gem_pool(torch.rand(1, 2, 3, 3), impl=name)


def test_the_environment_sets_it_for_a_process(monkeypatch):
    """Which reads it once, as the module is run."""
    found = []
    for name in ("eager", "auto"):
        monkeypatch.setenv("SALCR_BACKEND", name)
        found.append(runpy.run_path(_dispatch.__file__)["check_impl"]("auto"))
    assert found == ["eager?", "auto"]
    monkeypatch.setenv("SALCR_BACKEND", "gpu")
    with pytest.raises(ValueError, match="SALCR_BACKEND must be one of"):
        runpy.run_path(_dispatch.__file__)


def test_what_the_package_itself_exports():
    assert set(salcr.__all__) <= set(dir(salcr))
    assert all(getattr(salcr, name) is getattr(ops, name) for name in salcr.__all__)
    assert not hasattr(salcr, "clutser")


@pytest.mark.parametrize("name", sorted({*reference.__all__} - {"RankingResult"}))
def test_a_formula_takes_what_its_operator_takes_with_the_same_defaults(name):
    def arguments(function):
        return [(x.name, x.kind, x.default) for x in inspect.signature(function).parameters.values()]

    beside = {"impl"} | BESIDE_THE_FORMULA.get(name, set())
    formula, operator = arguments(getattr(reference, name)), arguments(getattr(ops, name))
    assert [argument for argument in operator if argument[0] not in beside] == formula
    assert {argument for argument, kind, _ in operator if kind == inspect.Parameter.KEYWORD_ONLY} >= beside
