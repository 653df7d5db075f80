"""What ``python -m benchmarks.epoch`` makes of a run and of a trace."""

import pytest

from benchmarks import epoch, report
from salcr.engine.profiling import PHASE


def event(kind, name, begin, duration):
    return {"cat": kind, "name": name, "ts": begin, "dur": duration}


def test_work_of_a_step_by_what_it_went_to():
    events = [
        event("user_annotation", f"{PHASE}features", 0, 600),
        event("kernel", "gather_kernel", 0, 500),
        event("cuda_runtime", "cudaEventSynchronize", 500, 5),
        event("cuda_runtime", "cudaDeviceSynchronize", 550, 5),
        *(event("user_annotation", f"{PHASE}step", begin, 900) for begin in (1000, 2000)),
        *(event("kernel", "gather_kernel", begin, 100) for begin in (1100, 2950)),  # after the host's part of its step
        event("kernel", "update_kernel", 1300, 40),
        event("kernel", "void multi_tensor_apply_kernel<FusedAdamMathFunctor>", 1400, 30),
        event("kernel", "sm90_xmma_fprop", 1500, 600),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 2100, 10),
        event("cuda_runtime", "cudaStreamSynchronize", 2200, 5),
    ]
    families = epoch.kernel_families()
    assert families["gather_kernel"] == "pooling" and families["spread_kernel"] == "pooling_backward"
    found = epoch.of_steps(events)
    update = families.get("update_kernel", epoch.OTHERS)
    expected = {"pooling": 0.1, "optimiser": 0.015, "copies": 0.005, epoch.OTHERS: 0.3}
    expected[update] = round(expected.get(update, 0) + 0.02, 3)
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
    epoch.draw(images, epoch.QUICK_COUNTS, epoch.QUICK_IDENTITIES)
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
