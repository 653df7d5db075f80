"""Files that a run writes and reads again, and records of benchmarks."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

from tests.fuzz_files import Kind
from tests.fuzz_files.mutations import mutate_in_zip

ROOT = Path(__file__).resolve().parents[2]


def _write_run(folder: Path) -> Path:
    """A run folder; returns its checkpoint, a few kilobytes: every weight is one number, expanded."""
    import torch

    from salcr.engine import checkpoint, load_config
    from salcr.engine.config import dump_config
    from salcr.engine.run_folder import RunFolder
    from salcr.models import SALCRNetwork

    run, config = RunFolder(folder / "run"), load_config(preset="demo")
    run.config.write_text(dump_config(config))
    for epoch in range(3):
        run.log({"epoch": epoch, "stage": 1, "loss": {"visible": 1.5}, "seconds": {"steps": 0.25}})
    network = {
        name: torch.ones((), dtype=x.dtype).expand(x.shape) for name, x in SALCRNetwork("tiny").state_dict().items()
    }
    state = {"epoch": 2, "config": config.model_dump(mode="json"), "network": network, "labels": (torch.arange(3),) * 2}
    return checkpoint.save_epoch(run.checkpoints, 2, state)


def _read_checkpoint(path: Path) -> None:
    import torch

    from salcr.engine.network import load_network

    load_network(path, torch.device("cpu"))


def _write_config(folder: Path) -> Path:
    return _write_run(folder).parents[1] / "config.yaml"


def _read_config(path: Path) -> None:
    from salcr.engine import load_config

    load_config(file=path)


def _write_metrics(folder: Path) -> Path:
    return _write_run(folder).parents[1] / "metrics.jsonl"


def _read_metrics(path: Path) -> None:
    from salcr.engine.run_folder import RunFolder

    run = RunFolder(path.parent)
    run.rewind(2)
    run.read_metrics()


def _reported(name: str) -> Kind:
    """A file of a run folder that a report shows as far as it can."""

    def make(folder: Path) -> Path:
        from tests.retrieval.run_folders import write_run

        run = write_run(folder / "run", finished=name == "summary.json")
        (run / ".holder.json").write_text('{"pid": 1, "host": "elsewhere", "since": "noon"}')
        return run / name

    return Kind(make, _report)


def _report(path: Path) -> None:
    from salcr.cli.report import write_page

    write_page([path.parent], path.parent / "report.html", images=False)


def _write_record(folder: Path) -> Path:
    record = json.loads((ROOT / "benchmarks/results/cpu_xeon.json").read_text())
    record["cases"] = dict(list(record["cases"].items())[:2])
    (folder / "record.json").write_text(json.dumps(record))
    return folder / "record.json"


def _read_record(path: Path) -> None:
    from benchmarks.compare import compare
    from benchmarks.records import read_record
    from benchmarks.report import tables

    record = read_record(path)
    ours = read_record(ROOT / "benchmarks/results/cpu_xeon.json")
    compare(ours, record)
    tables({"cpu": record})


def _index(name: str) -> Kind:
    """A file of an index of features."""

    def make(folder: Path) -> Path:
        import numpy as np

        from salcr.retrieval.storage import Manifest, Storage

        manifest = Manifest("a" * 64, "epoch_0000.pt", 288, 144, "auto", "float16", 8)
        with Storage.create(folder, manifest).writing() as writer:
            writer.add([f"{i}.jpg" for i in range(9)], np.arange(9) % 2 == 0, np.eye(9, 8))
            writer.commit(complete=True)
        return folder / name

    return Kind(make, _read_index)


def _cells(name: str) -> Kind:
    """A file of what an approximate search keeps beside an index; where faiss is missing, of what stands in for it."""

    def make(folder: Path) -> Path:
        _index("manifest.json").make(folder)
        _read_cells(folder / name)
        assert (folder / name).exists()
        return folder / name

    return Kind(make, _read_cells)


def _read_cells(path: Path) -> None:
    import torch

    from salcr.retrieval import Index
    from tests import faiss_stand_in

    if find_spec("faiss") is None:
        sys.modules["faiss"] = faiss_stand_in.make()
    index = Index.open(path.parent, device="cpu")
    scores, rows = index.nearest(torch.ones(1, 8), top=9, approximate=True)
    assert len(set(rows[0].tolist())) == rows.shape[1] and scores.isfinite().all() and 0 <= index.recall <= 1


def _codes(name: str) -> Kind:
    """A file of what an exact search reads in place of features."""

    def make(folder: Path) -> Path:
        from salcr.retrieval import codes
        from salcr.retrieval.storage import Storage

        _index("manifest.json").make(folder)
        with mock.patch.object(codes, "LEAST_BYTES", 1):
            codes.keep_codes(Storage(folder))
        assert (folder / name).exists()
        return folder / name

    return Kind(make, _read_codes)


def _read_codes(path: Path) -> None:
    import torch

    from salcr.retrieval import Index, nearest

    index = Index.open(path.parent, device="cpu")
    with mock.patch.object(nearest, "FEW", 1):
        scores, rows = index.nearest(torch.ones(1, 8), top=9)
    assert set(rows[0].tolist()) == set(range(9)) and scores.isfinite().all()
    index.verify()


def _read_index(path: Path) -> None:
    import torch

    from salcr.retrieval import Index

    index = Index.open(path.parent, device="cpu")
    index.verify()
    if len(index) and index.features.shape[1] == 8:
        _, rows = index.nearest(torch.ones(1, 8), top=9)
        assert all(isinstance(index.path(row), str) for row in rows[0].tolist())


KINDS: dict[str, Kind] = {
    "checkpoint": Kind(_write_run, _read_checkpoint, mutate=mutate_in_zip),
    "config": Kind(_write_config, _read_config),
    "metrics": Kind(_write_metrics, _read_metrics),
    "reported metrics": _reported("metrics.jsonl"),
    "reported summary": _reported("summary.json"),
    "reported holder": _reported(".holder.json"),
    "record": Kind(_write_record, _read_record),
    "index manifest": _index("manifest.json"),
    "index features": _index("features.npy"),
    "index modalities": _index("infrared.npy"),
    "index paths": _index("paths.jsonl"),
    "index codes": _codes("codes.bin"),
    "index codes' table": _codes("codes.json"),
    "index cells": _cells("cells.faiss"),
    "index cells' table": _cells("cells.json"),
}
