"""What ``python -m benchmarks.epoch`` makes of a run and of a trace."""

import pytest

from benchmarks import epoch, report
from salcr.engine.profiling import PHASE
from tests.engine.test_profiling import event


def test_work_of_a_step_by_what_it_went_to():
    events = [
        event("user_annotation", f"{PHASE}features", 0, 0.6),
        event("kernel", "gather_kernel", 0, 0.5),
        event("cuda_runtime", "cudaEventSynchronize", 0.5, 0.005),
        event("cuda_runtime", "cudaDeviceSynchronize", 0.55, 0.005),
        *(event("user_annotation", f"{PHASE}step", begin, 0.9) for begin in (1, 2)),
        *(event("kernel", "gather_kernel", begin, 0.1) for begin in (1.1, 2.95)),  # after the host's part of its step
        event("kernel", "augment_kernel", 1.3, 0.04),
        event("kernel", "void multi_tensor_apply_kernel<FusedAdamMathFunctor>", 1.4, 0.03),
        event("kernel", "sm90_xmma_fprop", 1.5, 0.6),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 2.1, 0.01),
        event("cuda_runtime", "cudaStreamSynchronize", 2.2, 0.005),
        *(event("gpu_user_annotation", f"{PHASE}step", begin, 1) for begin in (1.1, 2.2)),  # the device's part of each
    ]
    found = epoch.of_steps(events)
    expected = {"pooling": 100, "augmentation": 20, "optimiser": 15, "copies": 5, epoch.OTHERS: 300}
    assert found["step_ms"] == pytest.approx(expected)
    assert (found["kernels"], found["waits"], found["waits_before"]) == (2.5, 0.5, 2)


def test_a_small_epoch_is_measured_and_not_written(tmp_path, capsys):
    images, out = tmp_path / "images", tmp_path / "epoch.json"
    arguments = ["--quick", "--images", str(images), "--out", str(out), "schedule.iterations=2", "device=cpu"]
    assert epoch.main(arguments) == 0
    printed = capsys.readouterr().out
    for phase in ("features", "labels", "association", "batches", "steps", "metrics", "checkpoint"):
        assert f"\n| {phase} | " in printed
    assert "schedule.iterations=2 device=cpu |" in printed and not out.exists()
    drawn = {path: path.stat().st_mtime_ns for path in images.rglob("*.jpg")}
    assert len(drawn) == sum(epoch.QUICK_COUNTS)
    epoch.draw(images / "small", epoch.QUICK_COUNTS, epoch.QUICK_IDENTITIES)
    assert drawn == {path: path.stat().st_mtime_ns for path in images.rglob("*.jpg")}


def test_columns_of_a_table_may_have_other_rows():
    both = {"machine": {"gpu": "a GPU", "cpu": "a CPU"}, "clusters": [395, 394]}
    one = dict(
        seconds={"steps": 20.0, "labels": 0.25},
        steps=300,
        step_ms={"pooling": 0.5},
        kernels=70.2,
        waits=0.0,
        waits_before=19,
    )
    two = dict(seconds={"steps": 30.0}, steps=300, step_ms={"copies": 0.25}, kernels=900.0, waits=1.5, waits_before=20)
    table = report.epoch_table({"": one | both, "schedule.graph=off": two | both})
    assert table.splitlines() == [
        "| | a GPU: as by default | a GPU: schedule.graph=off |",
        "|---|--:|--:|",
        "| clusters | 395 and 394 | 395 and 394 |",
        "| **an epoch, seconds** | 20.2 | 30.0 |",
        "| steps | 20.00 | 30.00 |",
        "| labels | 0.25 | – |",
        "| **a step, milliseconds** | 66.7 | 100.0 |",
        "| on the device: pooling | 0.50 | – |",
        "| on the device: copies | – | 0.25 |",
        "| kernels a step | 70 | 900 |",
        "| waits a step | 0.00 | 1.50 |",
        "| waits before the steps | 19 | 20 |",
    ]
