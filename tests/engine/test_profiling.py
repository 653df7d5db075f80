"""What ``salcr train --profile`` writes."""

import json

from salcr.engine import load_config, train
from salcr.engine.profiling import PHASE, Row, page, rows
from tests.engine.tree import tiny


def event(category, name, begin, duration, **more):
    return dict(cat=category, name=name, ts=1e6 * begin, dur=1e6 * duration, **more)


PHASES = [
    event("user_annotation", f"{PHASE}features", 0, 4),
    event("user_annotation", f"{PHASE}steps", 4, 6),
    event("user_annotation", f"{PHASE}step", 5, 1),
    event("user_annotation", f"{PHASE}step", 7, 2),
    event("user_annotation", "somebody's", 0, 9),
    dict(ph="M", name="process_name"),
]


def test_phases_on_a_gpu():
    events = [
        *PHASES,
        event("kernel", "gemm", 1, 2),
        event("kernel", "gemm", 2, 1.5),  # beside the first
        event("kernel", "add", 3.75, 1),  # partly behind the phase
        event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 0.5, 0.25),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 6.5, 0.25),
        event("gpu_memset", "Memset", 8, 0.5),
        event("cuda_runtime", "cudaDeviceSynchronize", 3.9, 0.1),
        event("cuda_runtime", "cudaLaunchKernel", 3.5, 0.1),
        event("cuda_runtime", "cudaStreamSynchronize", 4, 0.1),  # as the phase has ended
        event("cpu_op", "aten::copy_", 1, 0.1),
    ]
    assert rows(events) == [Row("features", 4, 3, 3, 1, 1, 1), Row("step", 4, 0.75, 0, 1, 0, 0)]
    written = page(events, "An epoch")
    assert "| features | 4.000 | 3.000 | 1.000 | 3 | 1 | 1 | 1 |" in written and "| kernels |" in written
    assert written.index("| `gemm` | 3500.00 | 2 |") < written.index("| `add` | 1000.00 | 1 |")


def test_phases_without_a_gpu():
    events = [
        *PHASES,
        event("cpu_op", "aten::linear", 1, 2, tid=1),
        event("cpu_op", "aten::addmm", 1, 1.5, tid=1),  # within it
        event("cpu_op", "aten::copy_", 1.25, 0.25, tid=1),
        event("cpu_op", "aten::item", 5.5, 0.25, tid=1),
        event("cpu_op", "aten::mul", 5.5, 0.5, tid=2),  # of another thread
    ]
    assert rows(events) == [Row("features", 4, 2, 1, 1, 0, 0), Row("step", 4, 0.5, 2, 0, 0, 1)]
    assert "| operators |" in page(events, "An epoch")


def test_an_epoch_of_each_stage_is_traced(tree, tmp_path, monkeypatch):
    """The second of stage one, the only one of stage two."""
    monkeypatch.setattr("salcr.engine.profiling.STEPS", 2)
    settings = tiny(tree, "evaluation.refinements=[]", "schedule.stage_two_epochs=1")
    train(load_config(overrides=settings), tmp_path, profile=True)
    names = {path.name for path in (tmp_path / "profile").iterdir()}
    assert names == {f"epoch_{n:04d}.{kind}" for n in (1, 2) for kind in ("json", "md")}
    for epoch, phases in ((1, ["features", "labels"]), (2, ["features", "labels", "association"])):
        trace = json.loads((tmp_path / f"profile/epoch_{epoch:04d}.json").read_text())
        steps = [x for x in trace["traceEvents"] if x["name"] == f"{PHASE}step"]
        assert len(steps) == 2
        found = {row.name: row for row in rows(trace["traceEvents"])}
        assert set(phases) < found.keys() and 0 < found["step"].busy <= found["step"].seconds
        written = (tmp_path / f"profile/epoch_{epoch:04d}.md").read_text()
        assert written.startswith(f"# Epoch {epoch}, 2 of its steps\n") and "| step | " in written
