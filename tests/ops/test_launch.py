"""Launch tables and shared scratch of :mod:`salcr.kernels.launch`; see also tests/kernels/test_aot.py."""

import contextlib
import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.kernels import lanes
from tests.kernels.calls import CALLS, instance_memory, zeros
from tests.kernels.lanes import ROOT, recorded

pytest.importorskip("triton")
CUDA = torch.device("cuda")
KERNELS = ROOT / "kernels"
ONE_OF_EACH = ("instance_memory-half", "update-single", "updates", "sets", "knn", "labels", "dbscan-graph", "centroids")
ONE_OF_EACH += ("sinkhorn", "augmentation-stage-one", "pooling-half", "set_contrast-float16")


@pytest.mark.parametrize(
    ("capability", "expected"), [(75, 80), (80, 80), (86, 86), (89, 86), (90, 90), (103, 100), (120, 120), (121, 120)]
)
def test_a_device_takes_the_largest_capability_not_above_its_own(monkeypatch, capability, expected):
    from salcr.kernels import launch

    monkeypatch.setattr(launch, "architecture", lambda device: capability)
    found = launch.configuration("products.half", CUDA)
    assert found == launch.TABLE["products.half"][expected] | launch.SEPARATE
    found["M"] = 0
    assert launch.TABLE["products.half"][expected]["M"] > 0


def test_the_interpreter_has_entries_of_its_own():
    from salcr.kernels import launch

    cpu = torch.device("cpu")
    assert launch.configuration("products.tf32x3", cpu) == launch.INTERPRETED["products.tf32x3"] | launch.SEPARATE
    assert launch.configuration("centroids", cpu) == launch.TABLE["centroids"][80] | launch.SEPARATE
    assert launch.INTERPRETED.keys() < launch.TABLE.keys()


@pytest.mark.parametrize(
    ("rows", "free", "programs"), [(1000, 80e9, 1000), (1_000_000, 80e9, 16 * 132), (1_000_000, 8e9, 500), (10, 0, 1)]
)
def test_programs_are_as_many_as_the_gpu_or_half_its_free_memory_holds(monkeypatch, rows, free, programs):
    from salcr.kernels import launch

    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free / 2), int(80e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(free / 2) + 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 7)
    assert launch.resident_programs(rows, 8 * rows, CUDA) == programs


@pytest.mark.parametrize(
    ("name", "entry", "call"),
    [
        ("dbscan.pairs", dict(BLOCK=32, num_warps=2), "dbscan-graph"),
        ("dbscan.roots", dict(BLOCK=64, num_warps=4), "dbscan-graph"),
        ("jaccard.pairs", dict(COLUMNS=1, BLOCK=32, MANY=8, num_warps=2, num_stages=1), "labels"),
        ("augmentation.chains", dict(BLOCK=128, num_warps=8, num_stages=1, maxnreg=80), "augmentation-stage-one"),
    ],
)
def test_threads_do_not_share_what_they_change(monkeypatch, name, entry, call):
    """Else one can leave a loop that another stays in, and wait for it at a barrier: tuning must not get there."""
    from salcr.kernels import launch

    assert entry.keys() == launch.TABLE[name][80].keys()
    monkeypatch.setitem(launch.TABLE, name, {80: entry})
    with recorded(90), pytest.raises(ValueError, match=f"{entry['num_warps']} warps share"):
        CALLS[call].run()


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch):
    """Which need not be the current one, where they would find no memory of theirs."""
    inside, outside, specialised = [], set(), lanes.specialised

    @contextlib.contextmanager
    def on_device(x):
        inside.append(x)
        yield
        inside.pop()

    def noted(kernel, *arguments):
        if not inside:
            outside.add(kernel.__name__)
        return specialised(kernel, *arguments)

    for name in (path.stem for path in KERNELS.glob("*.py")):
        if hasattr(module := importlib.import_module(f"salcr.kernels.{name}"), "on_device"):
            monkeypatch.setattr(module, "on_device", on_device)
    monkeypatch.setattr(lanes, "specialised", noted)
    with recorded(90) as launches:
        for name in ONE_OF_EACH:
            CALLS[name].run()
    assert len({launch.kernel.__name__ for launch in launches}) >= 30 and not outside


@pytest.mark.parametrize(("num_warps", "columns"), [(4, 256), (16, 512)])
def test_weights_that_replace_logits_have_a_thread_each(monkeypatch, num_warps, columns):
    from salcr.kernels import launch

    monkeypatch.setitem(launch.TABLE, "instance_memory.select", {80: dict(BLOCK=1024, num_warps=num_warps)})
    with recorded(90) as launches:
        instance_memory(torch.float32, columns=100)
    found = [dict(x.constants)["C"] for x in launches if x.kernel.__name__ == "select_kernel"]
    assert set(found) == {columns}


def test_kernels_get_the_same_whatever_the_default_dtype_is():
    """A program may have set it; a search whose scores are of another than float32 does not compile."""

    def launched():
        with recorded(90) as launches:
            for name in ONE_OF_EACH:
                CALLS[name].run()
        return [(launch.kernel.__name__, launch.signature) for launch in launches]

    expected = launched()
    torch.set_default_dtype(torch.float16)
    try:
        assert launched() == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_very_large_map_has_no_more_runs_than_a_grid_takes():
    """Of programs on its second axis, 65,535, where this one has 68,907 runs of 64 cells."""
    from salcr.kernels.pooling import pool_forward
    from salcr.kernels.pooling_backward import pool_backward

    x = zeros(1, 1, 2100, 2100)
    with recorded(90) as launches:
        pool_backward(x, mean_gradient=pool_forward(x, power=3.0)[0], power=3.0)
    assert len(launches) == 2
    for launch in launches:
        assert 2**15 < launch.grid[1] < 2**16


def test_a_number_of_neighbours_may_be_numpys():
    """rerank_gnn and a search over a group hand on what they were given."""
    from salcr.ops.backends.triton import knn

    with recorded(90) as launches:
        knn.knn(torch.rand(60, 16), np.int64(7))
    assert launches


@pytest.mark.cuda
def test_the_device_has_entries_and_memory():
    from salcr.kernels import launch

    assert all(launch.configuration(name, CUDA) for name in launch.TABLE)
    assert 0 < launch.free_bytes(CUDA) <= torch.cuda.mem_get_info()[1]
    assert launch.resident_programs(10**6, 1, CUDA) % launch.PROGRAMS_PER_SM == 0
