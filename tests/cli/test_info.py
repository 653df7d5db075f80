import importlib
import json

import torch

import salcr
from benchmarks.ledger import LEDGER, hashes
from salcr import ops, reference

info = importlib.import_module("salcr.cli.info")  # salcr.cli.info itself may be the command of that name


def test_report_names_versions_devices_and_every_operator():
    text = info.report()
    assert f"salcr {salcr.__version__}" in text
    assert torch.__version__ in text
    assert "not installed" in text or "faiss" in text
    assert ("no device visible" in text) == (not torch.cuda.is_available())
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  ")}
    assert {"salcr._C", "salcr._cuda"} <= set(rows)
    for operator in set(ops.__all__) & set(reference.__all__) - {"RankingResult"}:
        assert "reference" in rows[operator]
    assert not torch.cuda.is_initialized() or torch.cuda.is_available()


def test_report_says_why_a_backend_is_missing(monkeypatch):
    reason = "the extension salcr._C is not built (for a test)"
    table = {"one_operator": {"cpu": reason, "reference": None}}
    monkeypatch.setattr(info, "missing", lambda name: reason)
    monkeypatch.setattr(info, "table", lambda: table)
    lines = [line.split(maxsplit=1) for line in info.report().splitlines()]
    assert ["salcr._C", reason] in lines
    assert ["one_operator", "reference"] in lines
    assert ["not", f"cpu: {reason}"] in lines


def test_report_lists_kernel_files_without_a_green_run(monkeypatch, tmp_path):
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    source = info.ROOT / "benchmarks/ledger.py"
    (tmp_path / "benchmarks/ledger.py").write_text(source.read_text())
    (tmp_path / "kernels").mkdir()
    for name in ("new", "changed", "green"):
        (tmp_path / f"kernels/{name}.py").write_text(name)
    entries = {k: {"sha256": v, "date": "2026-01-02T03:04:05Z", "device": "a GPU"} for k, v in hashes(tmp_path).items()}
    del entries["kernels/new.py"]
    (tmp_path / LEDGER).write_text(json.dumps(entries))
    (tmp_path / "kernels/changed.py").write_text("changed since")
    monkeypatch.setattr(info, "ROOT", tmp_path)
    text = info.report()
    assert "kernels/new.py: never had a green hardware run" in text
    assert "kernels/changed.py: changed since its green run of 2026-01-02T03:04:05Z on a GPU" in text
    assert "kernels/green.py" not in text


def test_an_installed_package_has_no_kernel_section(monkeypatch, tmp_path):
    monkeypatch.setattr(info, "ROOT", tmp_path)
    assert "kernel files" not in info.report()
