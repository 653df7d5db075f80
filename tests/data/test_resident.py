"""Where the images of a run lie while it trains."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from salcr.data import resident as module
from salcr.data.resident import MARGIN, copied, resident

STORES = np.zeros((3, 4, 2, 3), np.uint8), np.zeros((5, 4, 2, 3), np.uint8)
BYTES = sum(store.nbytes for store in STORES)


@pytest.mark.parametrize("where", ["auto", "device", "pinned"])
def test_on_a_cpu_they_stay(where):
    assert all(x is y for x, y in zip(resident(STORES, torch.device("cpu"), where), STORES, strict=True))


@pytest.mark.parametrize(
    ("where", "free", "moved"),
    [
        ("auto", BYTES + MARGIN, True),
        ("auto", BYTES + MARGIN - 1, False),
        ("device", 0, True),
        ("pinned", BYTES + MARGIN, False),
    ],
)
def test_on_a_gpu_they_move_where_they_fit(monkeypatch, caplog, where, free, moved):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    monkeypatch.setattr(module, "copied", lambda store, device: SimpleNamespace(of=store))
    caplog.set_level("INFO", "salcr")
    found = resident(STORES, torch.device("cuda"), where)
    assert [getattr(x, "of", x) is y for x, y in zip(found, STORES, strict=True)] == [True, True]
    assert [hasattr(x, "of") for x in found] == [moved, moved]
    assert ("stay in the host's memory" in caplog.text) == (where == "auto" and not moved)


def test_a_copy_has_the_same_pixels(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)
    store = np.random.default_rng(0).integers(0, 256, (10, 4, 2, 3), np.uint8)
    store.flags.writeable = False  # as a store on disk is mapped
    assert torch.equal(copied(store, torch.device("cpu")), torch.from_numpy(store.copy()))
