import importlib

import torch

import salcr
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
    assert ["salcr._C", f"{reason}: install a C++17 compiler with OpenMP, then salcr again"] in lines
    assert ["one_operator", "reference"] in lines
    assert ["not", f"cpu: {reason}"] in lines
